-- What ends with an account, and what is done to the installation itself.

-- As in 0009, and the roles of a disabled user: answers that run for the person end, on every instance.
create or replace function announce_disabled_user() returns trigger
language plpgsql set search_path = public, pg_temp
as $$
begin
    perform pg_notify('geko_invalidation', 'api_key *'),
        pg_notify('geko_invalidation', 'session ' || new.tenant_id || '/*'),
        pg_notify('geko_invalidation', 'role ' || new.tenant_id || '/*');
    return null;
end
$$;

-- What concerns no tenant: the keys that sign everybody's tokens. actor: who or what did it. Nobody but the owner of the
-- database changes an entry or takes it away.
create table installation_log (
    entry_id uuid primary key default gen_random_uuid(),
    happened_at timestamptz not null default clock_timestamp(),
    actor text not null check (length(actor) between 1 and 200),
    action text not null check (length(action) between 1 and 100),
    target text not null check (length(target) <= 200),
    details jsonb not null default '{}'
);
create index installation_log_by_time on installation_log (happened_at desc);
alter table installation_log enable row level security; -- and no policy: only by the functions
revoke all on installation_log from public;

create function record_installation_event(by_whom text, what text, on_what text, more jsonb) returns void
language sql security definer set search_path = public, pg_temp
as $$
    insert into installation_log (actor, action, target, details) values (by_whom, what, on_what, more)
$$;
create function installation_events(most integer)
returns table (happened_at timestamptz, actor text, action text, target text, details jsonb)
language sql stable security definer set search_path = public, pg_temp
as $$
    select l.happened_at, l.actor, l.action, l.target, l.details
    from installation_log l order by l.happened_at desc, l.entry_id limit least(most, 1000)
$$;
revoke execute on function record_installation_event(text, text, text, jsonb), installation_events(integer) from public;
grant execute on function record_installation_event(text, text, text, jsonb), installation_events(integer) to geko_app;
