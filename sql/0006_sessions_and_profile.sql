-- Signing keys, when a session was last used, a person's profile, and the change of an e-mail address.

-- Keys that sign access tokens; of the whole installation, so only the functions below reach them. sealed_key: the
-- private key, encrypted by GEKO; erased when the key is retired. From signs_from on the newest key signs.
create table signing_keys (
    kid text primary key check (kid ~ '^[A-Za-z0-9_-]{43}$'),
    algorithm text not null check (algorithm in ('EdDSA', 'RS256')),
    sealed_key text,
    created_at timestamptz not null default now(),
    signs_from timestamptz not null,
    retired_at timestamptz,
    check (sealed_key is not null or retired_at is not null)
);
alter table signing_keys enable row level security;

create function list_signing_keys() returns setof signing_keys
language sql stable security definer set search_path = public, pg_temp
as $$
    select * from signing_keys order by signs_from, kid
$$;

-- Null, and nothing added, when there is a key of this algorithm that is newer than unless_since (null: always added).
-- The first key of an algorithm signs at once, a later one after the delay.
create function add_signing_key(
    new_kid text, new_algorithm text, new_sealed_key text, delay interval, unless_since timestamptz
) returns timestamptz
language plpgsql security definer set search_path = public, pg_temp
as $$
declare
    start timestamptz := clock_timestamp();
begin
    perform pg_advisory_xact_lock(7164775011);
    if exists (select from signing_keys k
               where k.algorithm = new_algorithm and k.retired_at is null and k.created_at > unless_since) then
        return null;
    end if;
    if exists (select from signing_keys k where k.algorithm = new_algorithm and k.retired_at is null) then
        start := start + delay;
    end if;
    insert into signing_keys (kid, algorithm, sealed_key, signs_from)
    values (new_kid, new_algorithm, new_sealed_key, start);
    return start;
end
$$;

-- "retired", "unknown", or "signing": it is the only one of its algorithm that signs now, and not forced.
create function retire_signing_key(old_kid text, forced boolean) returns text
language plpgsql security definer set search_path = public, pg_temp
as $$
declare
    old signing_keys;
begin
    perform pg_advisory_xact_lock(7164775011);
    select * into old from signing_keys k where k.kid = old_kid and k.retired_at is null;
    if not found then
        return 'unknown';
    end if;
    if old.signs_from <= clock_timestamp() and not forced and not exists (
        select from signing_keys k where k.algorithm = old.algorithm and k.kid <> old.kid
            and k.retired_at is null and k.signs_from <= clock_timestamp()
    ) then
        return 'signing';
    end if;
    update signing_keys set retired_at = now(), sealed_key = null where kid = old.kid;
    return 'retired';
end
$$;

revoke execute on function list_signing_keys(), add_signing_key(text, text, text, interval, timestamptz),
    retire_signing_key(text, boolean) from public;
grant execute on function list_signing_keys(), add_signing_key(text, text, text, interval, timestamptz),
    retire_signing_key(text, boolean) to geko_app;

alter table sessions add column last_seen_at timestamptz not null default now();

-- When sessions of any tenants were last used, and from where: one statement for what many requests noted. A row that
-- is locked is being renewed, which notes the same.
create function touch_sessions(tenants uuid[], ids uuid[], seen_s double precision[], ips text[]) returns bigint
language sql security definer set search_path = public, pg_temp
as $$
    with seen as (
        select t.tenant_id, t.session_id, now() - make_interval(secs => t.ago_s) as seen_at, t.ip
        from unnest(tenants, ids, seen_s, ips) as t (tenant_id, session_id, ago_s, ip)
    ), free as (
        select s.tenant_id, s.session_id, n.seen_at, n.ip
        from sessions s join seen n using (tenant_id, session_id)
        where s.last_seen_at < n.seen_at and s.revoked_at is null
        order by s.tenant_id, s.session_id
        for update of s skip locked
    ), touched as (
        update sessions s set last_seen_at = f.seen_at, ip = coalesce(f.ip, s.ip)
        from free f where s.tenant_id = f.tenant_id and s.session_id = f.session_id
        returning 1
    )
    select count(*) from touched
$$;
revoke execute on function touch_sessions(uuid[], uuid[], double precision[], text[]) from public;
grant execute on function touch_sessions(uuid[], uuid[], double precision[], text[]) to geko_app;

-- email_verified_at null: nobody has shown yet that the mailbox is theirs. avatar: an https address or a data: image.
alter table users add column if not exists email_verified_at timestamptz;
alter table users add column avatar text check (length(avatar) <= 65536);
alter table users add column language text check (length(language) <= 35);
alter table users add column time_zone text check (length(time_zone) <= 64);

-- Gives a user of the present tenant another address. Raises unique_violation when it is taken in any tenant; false
-- when the old one is not (any more) this user's.
create function replace_login_email(old_email text, new_email text, changed_user_id uuid) returns boolean
language plpgsql security definer set search_path = public, pg_temp
as $$
begin
    update login_emails l set email = new_email
    where l.email = old_email and l.user_id = changed_user_id
        and l.tenant_id = current_setting('geko.tenant_id')::uuid;
    return found;
end
$$;
revoke execute on function replace_login_email(text, text, uuid) from public;
grant execute on function replace_login_email(text, text, uuid) to geko_app;
