-- API keys, and a monthly budget for each, which the lease functions hold to exactly as they do to a workspace's quota.

-- secret_hash: SHA-256 of a random secret. models null: all of the workspace's. token_limit null: only the workspace's
-- quota limits. Rows stay when a key is revoked: the ledger names them.
create table api_keys (
    tenant_id uuid not null references tenants on delete cascade,
    key_id uuid not null,
    workspace_id uuid not null,
    user_id uuid not null,
    name text not null check (length(name) between 1 and 120),
    secret_hash bytea not null check (length(secret_hash) = 32),
    scopes text[] not null check (cardinality(scopes) > 0),
    models text[],
    token_limit bigint check (token_limit >= 0),
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    primary key (tenant_id, key_id),
    foreign key (tenant_id, workspace_id) references workspaces on delete cascade,
    foreign key (tenant_id, user_id) references users on delete cascade
);
create index api_keys_by_user on api_keys (tenant_id, user_id);
create index api_keys_by_workspace on api_keys (tenant_id, workspace_id);
create index api_keys_by_id on api_keys (key_id); -- a key's text does not name its tenant

-- As quota_windows, of one key. A turn with a key always has both.
create table key_windows (
    tenant_id uuid not null references tenants on delete cascade,
    key_id uuid not null,
    starts_at timestamptz not null,
    ends_at timestamptz not null check (ends_at > starts_at),
    used bigint not null default 0,
    leased bigint not null default 0,
    primary key (tenant_id, key_id, starts_at),
    foreign key (tenant_id, key_id) references api_keys on delete cascade
);
alter table key_windows set (fillfactor = 50);

-- No foreign keys, as for users: what was used stays on record.
alter table turns add column key_id uuid;
alter table leases add column key_id uuid;
alter table usage_events add column key_id uuid;
create index usage_events_by_key on usage_events (tenant_id, key_id, occurred_at) where key_id is not null;

do $$
declare
    name text;
begin
    foreach name in array array['api_keys', 'key_windows'] loop
        execute format('alter table %I enable row level security', name);
        execute format($policy$create policy tenant on %I
            using (tenant_id = nullif(current_setting('geko.tenant_id', true), '')::uuid)
            with check (tenant_id = nullif(current_setting('geko.tenant_id', true), '')::uuid)$policy$, name);
    end loop;
end
$$;
grant select, insert, update on api_keys, key_windows to geko_app;

-- The usable key of an id, of whichever tenant. The caller compares the hash.
create function find_api_key(searched_id uuid)
returns table (tenant_id uuid, key_id uuid, workspace_id uuid, user_id uuid, name text, secret_hash bytea,
    scopes text[], models text[], expires_at timestamptz)
language sql stable security definer set search_path = public, pg_temp
as $$
    select k.tenant_id, k.key_id, k.workspace_id, k.user_id, k.name, k.secret_hash, k.scopes, k.models, k.expires_at
    from api_keys k
    join users u on u.tenant_id = k.tenant_id and u.user_id = k.user_id
    where k.key_id = searched_id and k.revoked_at is null and u.disabled_at is null
        and (k.expires_at is null or k.expires_at > now())
$$;

-- What was used since the last call, of all tenants in one statement. In the order of their ids, so that two
-- instances never wait for each other.
create function touch_api_keys(used_ids uuid[], used_at timestamptz[]) returns void
language sql security definer set search_path = public, pg_temp
as $$
    with used as (
        select k.tenant_id, k.key_id, u.at
        from unnest(used_ids, used_at) as u (key_id, at) join api_keys k on k.key_id = u.key_id
        order by k.key_id for no key update of k
    )
    update api_keys k set last_used_at = greatest(k.last_used_at, used.at)
    from used where k.tenant_id = used.tenant_id and k.key_id = used.key_id
$$;

revoke execute on function find_api_key(uuid), touch_api_keys(uuid[], timestamptz[]) from public;
grant execute on function find_api_key(uuid), touch_api_keys(uuid[], timestamptz[]) to geko_app;

-- Every instance forgets a key that is changed or goes away, and whatever it knows of somebody who is disabled, by
-- whichever statement that happens: also by the deletion of a user or a workspace.
create function announce_api_key() returns trigger
language plpgsql set search_path = public, pg_temp
as $$
begin
    perform pg_notify('geko_invalidation', 'api_key ' || old.key_id || '/*');
    return null;
end
$$;
create trigger announce after delete or update of scopes, models, expires_at, revoked_at, secret_hash on api_keys
    for each row execute function announce_api_key();

create function announce_disabled_user() returns trigger
language plpgsql set search_path = public, pg_temp
as $$
begin
    perform pg_notify('geko_invalidation', 'api_key *'),
        pg_notify('geko_invalidation', 'session ' || new.tenant_id || '/*');
    return null;
end
$$;
create trigger announce_disabled after update of disabled_at on users
    for each row when (old.disabled_at is distinct from new.disabled_at) execute function announce_disabled_user();

-- The lease functions of 0003 with the key. A turn without one takes the same single statement as before. With one,
-- the rows are locked one after the other, always in the order lease, turn, quota window, key window, and read when
-- they are locked. The key may be left out: instances of the release before go on while they are replaced.

drop function begin_lease(uuid, uuid, timestamptz, bigint, bigint, uuid, uuid, text, text, text, double precision);
drop function top_up_lease(uuid, uuid, bigint, bigint, double precision);
drop function settle_lease(uuid, uuid, text, jsonb);

-- As before, and $12 key (null: none). by_key: the numbers are those of the key's budget, which is what has no room.
create function begin_lease(uuid, uuid, timestamptz, bigint, bigint, uuid, uuid, text, text, text, double precision,
    uuid default null)
returns table (used bigint, leased bigint, token_limit bigint, ends_at timestamptz, amount bigint, by_key boolean)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
begin
    perform set_config('role', 'geko_app', true), set_config('geko.tenant_id', $1::text, true),
        set_config('synchronous_commit', 'off', true);
    if $12 is not null then
        return query select * from begin_lease_of_key($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12);
        return;
    end if;
    return query
    with room as (
        select w.used, w.leased, w.ends_at, q.token_limit
        from quota_windows w
        left join workspace_quotas q on q.tenant_id = w.tenant_id and q.workspace_id = w.workspace_id
        where w.tenant_id = $1 and w.workspace_id = $2 and w.starts_at = $3
        for update of w
    ), offer as (
        select *, case when token_limit is null then $4::bigint + $5::bigint
            else least($4::bigint + $5::bigint, token_limit - used - leased) end as amount
        from room
    ), taken as (
        update quota_windows w set leased = w.leased + o.amount
        from offer o
        where w.tenant_id = $1 and w.workspace_id = $2 and w.starts_at = $3 and o.amount >= $4::bigint
        returning o.amount, o.ends_at
    ), turn as (
        insert into turns (tenant_id, turn_id, workspace_id, user_id, conversation_id, endpoint, model,
            window_starts_at, started_at)
        select $1, $6, $2, $7, $8, $9, $10, $3::timestamptz,
            least(greatest(now(), $3::timestamptz), ends_at - interval '1 microsecond')
        from taken
    ), lease as (
        insert into leases (tenant_id, turn_id, workspace_id, window_starts_at, granted, expires_at)
        select $1, $6, $2, $3::timestamptz, amount, now() + make_interval(secs => $11)
        from taken
    )
    select o.used, o.leased, o.token_limit, o.ends_at, t.amount, false
    from offer o left join taken t on true;
end
$function$;

-- begin_lease with a key, inside the tenant. The turn is written first: it waits for another running turn of its
-- conversation before it holds a window. A workspace that is used up is named before the key's budget, as the wider
-- reason.
create function begin_lease_of_key(uuid, uuid, timestamptz, bigint, bigint, uuid, uuid, text, text, text,
    double precision, uuid)
returns table (used bigint, leased bigint, token_limit bigint, ends_at timestamptz, amount bigint, by_key boolean)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
declare
    wanted constant bigint := $4 + $5;
    room record;
    offered bigint;
    of_key boolean := false;
begin
    insert into turns (tenant_id, turn_id, workspace_id, user_id, conversation_id, endpoint, model,
        window_starts_at, started_at, key_id)
    select $1, $6, $2, $7, $8, $9, $10, $3, least(greatest(now(), $3), w.ends_at - interval '1 microsecond'), $12
    from quota_windows w
    where w.tenant_id = $1 and w.workspace_id = $2 and w.starts_at = $3;
    select w.used, w.leased, q.token_limit, w.ends_at into room
    from quota_windows w
    left join workspace_quotas q on q.tenant_id = w.tenant_id and q.workspace_id = w.workspace_id
    where w.tenant_id = $1 and w.workspace_id = $2 and w.starts_at = $3
    for update of w;
    if not found then
        return;
    end if;
    offered := least(wanted, room.token_limit - room.used - room.leased); -- null is no limit: least() passes over it
    if offered >= $4 then
        select w.used, w.leased, k.token_limit, w.ends_at into room
        from key_windows w
        join api_keys k on k.tenant_id = w.tenant_id and k.key_id = w.key_id
        where w.tenant_id = $1 and w.key_id = $12 and w.starts_at = $3
        for update of w;
        if not found then
            raise sqlstate 'GK002';
        end if;
        of_key := true;
        offered := least(offered, room.token_limit - room.used - room.leased);
    end if;
    if offered < $4 then
        raise sqlstate 'GK001';
    end if;
    update quota_windows w set leased = w.leased + offered
    where w.tenant_id = $1 and w.workspace_id = $2 and w.starts_at = $3;
    update key_windows w set leased = w.leased + offered
    where w.tenant_id = $1 and w.key_id = $12 and w.starts_at = $3;
    insert into leases (tenant_id, turn_id, workspace_id, window_starts_at, granted, expires_at, key_id)
    values ($1, $6, $2, $3, offered, now() + make_interval(secs => $11), $12);
    return query select room.used, room.leased, room.token_limit, room.ends_at, offered, true;
exception -- these take the turn back
    when sqlstate 'GK002' then
        return;
    when sqlstate 'GK001' then
        return query select room.used, room.leased, room.token_limit, room.ends_at, null::bigint, of_key;
end
$function$;

-- As before, and $6 key (null: none). by_key: what there is less of than wanted is the key's budget.
create function top_up_lease(uuid, uuid, bigint, bigint, double precision, uuid default null)
returns table (amount bigint, by_key boolean)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
begin
    perform set_config('role', 'geko_app', true), set_config('geko.tenant_id', $1::text, true),
        set_config('synchronous_commit', 'off', true);
    if $6 is not null then
        return query select * from top_up_lease_of_key($1, $2, $3, $4, $5, $6);
        return;
    end if;
    return query
    with lease as (
        select workspace_id, window_starts_at from leases where tenant_id = $1 and turn_id = $2 for update
    ), room as (
        select w.used, w.leased, q.token_limit
        from lease l
        join quota_windows w
            on w.tenant_id = $1 and w.workspace_id = l.workspace_id and w.starts_at = l.window_starts_at
        left join workspace_quotas q on q.tenant_id = w.tenant_id and q.workspace_id = w.workspace_id
        for update of w
    ), offer as (
        select case when token_limit is null then $3::bigint
            else greatest(0, least($3::bigint, token_limit - used - leased)) end as amount
        from room
    ), taken as (
        update quota_windows w set leased = w.leased + o.amount
        from offer o, lease l
        where w.tenant_id = $1 and w.workspace_id = l.workspace_id and w.starts_at = l.window_starts_at
            and o.amount > 0
    )
    update leases l set granted = l.granted + o.amount, consumed = $4, expires_at = now() + make_interval(secs => $5)
    from offer o where l.tenant_id = $1 and l.turn_id = $2
    returning o.amount, false;
end
$function$;

create function top_up_lease_of_key(uuid, uuid, bigint, bigint, double precision, uuid)
returns table (amount bigint, by_key boolean)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
declare
    lease record;
    room bigint;
    budget bigint;
    offered bigint;
begin
    select l.workspace_id, l.window_starts_at into lease
    from leases l where l.tenant_id = $1 and l.turn_id = $2 and l.key_id = $6
    for update;
    if not found then
        return;
    end if;
    select q.token_limit - w.used - w.leased into room
    from quota_windows w
    left join workspace_quotas q on q.tenant_id = w.tenant_id and q.workspace_id = w.workspace_id
    where w.tenant_id = $1 and w.workspace_id = lease.workspace_id and w.starts_at = lease.window_starts_at
    for update of w;
    if not found then
        return;
    end if;
    select k.token_limit - w.used - w.leased into budget
    from key_windows w
    join api_keys k on k.tenant_id = w.tenant_id and k.key_id = w.key_id
    where w.tenant_id = $1 and w.key_id = $6 and w.starts_at = lease.window_starts_at
    for update of w;
    if not found then
        return;
    end if;
    offered := greatest(0, least($3, room, budget)); -- least() passes over null, which is no limit
    if offered > 0 then
        update quota_windows w set leased = w.leased + offered
        where w.tenant_id = $1 and w.workspace_id = lease.workspace_id and w.starts_at = lease.window_starts_at;
        update key_windows w set leased = w.leased + offered
        where w.tenant_id = $1 and w.key_id = $6 and w.starts_at = lease.window_starts_at;
    end if;
    update leases l set granted = l.granted + offered, consumed = $4, expires_at = now() + make_interval(secs => $5)
    where l.tenant_id = $1 and l.turn_id = $2;
    return query select offered, offered < $3 and budget is not null and budget < coalesce(room, budget + 1);
end
$function$;

-- As before; a turn that has a key is settled in its window too. $5 key (null: none).
create function settle_lease(uuid, uuid, text, jsonb, uuid default null)
returns table (used bigint)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
begin
    perform set_config('role', 'geko_app', true), set_config('geko.tenant_id', $1::text, true),
        set_config('synchronous_commit', 'off', true);
    if $5 is not null then
        return query select * from settle_lease_of_key($1, $2, $3, $4, $5);
        return;
    end if;
    return query
    with lease as (
        delete from leases where tenant_id = $1 and turn_id = $2 returning granted
    ), turn as (
        update turns set state = $3, ended_at = now()
        where tenant_id = $1 and turn_id = $2 and state in ('running', 'lost') and (select count(*) from lease) >= 0
        returning workspace_id, user_id, conversation_id, model, window_starts_at, started_at, recovered_tokens
    ), charge as (
        select * from jsonb_to_recordset($4) as c (run_id text, seq integer, kind text, model text,
            provider text, input_tokens bigint, output_tokens bigint, cached_tokens bigint, reasoning_tokens bigint,
            estimated boolean, source text)
        union all
        select 'geko', -2, 'correction', model, '', 0, -recovered_tokens, 0, 0, true, 'recovered'
        from turn where recovered_tokens > 0
    ), booked as (
        insert into usage_events (tenant_id, turn_id, workspace_id, user_id, conversation_id, occurred_at,
            run_id, seq, kind, model, provider, input_tokens, output_tokens, cached_tokens, reasoning_tokens,
            estimated, source)
        select $1, $2, t.workspace_id, t.user_id, t.conversation_id, t.started_at,
            c.run_id, c.seq, c.kind, c.model, c.provider, c.input_tokens, c.output_tokens, c.cached_tokens,
            c.reasoning_tokens, c.estimated, c.source
        from turn t cross join charge c
        on conflict do nothing
        returning tokens
    )
    update quota_windows w set used = w.used + coalesce((select sum(tokens) from booked), 0),
        leased = w.leased - coalesce((select granted from lease), 0)
    from turn t
    where w.tenant_id = $1 and w.workspace_id = t.workspace_id and w.starts_at = t.window_starts_at
    returning w.used;
end
$function$;

create function settle_lease_of_key(uuid, uuid, text, jsonb, uuid)
returns table (used bigint)
language plpgsql set search_path = public, pg_temp
as $function$
#variable_conflict use_column
declare
    freed bigint := 0;
    turn turns;
    charged bigint;
begin
    delete from leases l where l.tenant_id = $1 and l.turn_id = $2 returning l.granted into freed;
    freed := coalesce(freed, 0);
    update turns t set state = $3, ended_at = now()
    where t.tenant_id = $1 and t.turn_id = $2 and t.key_id = $5 and t.state in ('running', 'lost')
    returning t.* into turn;
    if not found then
        return;
    end if;
    with charge as (
        select * from jsonb_to_recordset($4) as c (run_id text, seq integer, kind text, model text,
            provider text, input_tokens bigint, output_tokens bigint, cached_tokens bigint, reasoning_tokens bigint,
            estimated boolean, source text)
        union all
        select 'geko', -2, 'correction', turn.model, '', 0, -turn.recovered_tokens, 0, 0, true, 'recovered'
        where turn.recovered_tokens > 0
    ), booked as (
        insert into usage_events (tenant_id, turn_id, workspace_id, user_id, conversation_id, occurred_at,
            run_id, seq, kind, model, provider, input_tokens, output_tokens, cached_tokens, reasoning_tokens,
            estimated, source, key_id)
        select $1, $2, turn.workspace_id, turn.user_id, turn.conversation_id, turn.started_at,
            c.run_id, c.seq, c.kind, c.model, c.provider, c.input_tokens, c.output_tokens, c.cached_tokens,
            c.reasoning_tokens, c.estimated, c.source, $5
        from charge c
        on conflict do nothing
        returning tokens
    )
    select coalesce(sum(b.tokens), 0) into charged from booked b;
    return query
    update quota_windows w set used = w.used + charged, leased = w.leased - freed
    where w.tenant_id = $1 and w.workspace_id = turn.workspace_id and w.starts_at = turn.window_starts_at
    returning w.used;
    update key_windows w set used = w.used + charged, leased = w.leased - freed
    where w.tenant_id = $1 and w.key_id = $5 and w.starts_at = turn.window_starts_at;
end
$function$;
