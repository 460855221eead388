-- Limits of every kind: for a workspace, each or one of its members, models, an API key; by day, week or month; in tokens or
-- in money. They take the place of workspace_quotas, quota_windows and key_windows. The ledger gets partitions by month,
-- costs, and sums by day. Stop older instances before this is applied: they don't know the new tables.

-- amount null: no limit, what is used is counted all the same. cost: in billionths of the currency.
-- subject: the user's id or '*' for each member alone; the glob "endpoint/model"; the key's id; '' for the workspace.
-- Two limits have the id of what they limit, and a window is held for them even without a row: the workspace's tokens a month
-- (limit_id = workspace_id) and those of an API key (limit_id = key_id).
-- grace: what answers that run already may take beyond the amount. raised_by counts until raised_until.
create table quota_limits (
    tenant_id uuid not null references tenants on delete cascade,
    limit_id uuid not null,
    workspace_id uuid not null,
    scope text not null check (scope in ('workspace', 'member', 'model', 'key')),
    subject text not null default '' check (length(subject) <= 300),
    period text not null default 'month' check (period in ('day', 'week', 'month')),
    start_day smallint not null default 1 check (start_day between 1 and case period when 'month' then 28
        when 'week' then 7 else 1 end),
    unit text not null default 'tokens' check (unit in ('tokens', 'cost')),
    amount bigint check (amount between 0 and 1000000000000000000),
    grace bigint not null default 0 check (grace between 0 and 1000000000000000000),
    raised_by bigint not null default 0 check (raised_by between 0 and 1000000000000000000),
    raised_until timestamptz,
    alert_at smallint[] not null default '{80,95,100}'
        check (array_position(alert_at, null) is null and 1 <= all (alert_at) and 100 >= all (alert_at)),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (tenant_id, limit_id),
    foreign key (tenant_id, workspace_id) references workspaces on delete cascade,
    check ((scope = 'workspace') = (subject = ''))
);
create index quota_limits_by_workspace on quota_limits (tenant_id, workspace_id);
create unique index quota_limits_once on quota_limits (tenant_id, workspace_id, scope, subject, period, unit);

-- used: settled by turns that have ended. leased: held by turns that run. Both in the limit's unit.
-- subject: the user's id for a limit of members, else ''. alerted: the highest threshold announced, in percent.
-- No check that leased >= 0: PostgreSQL applies checks to the row it computes from the snapshot, before it finds that
-- another transaction changed the row and computes it anew, so racing settlements would fail without a reason.
create table limit_windows (
    tenant_id uuid not null references tenants on delete cascade,
    limit_id uuid not null,
    subject text not null,
    starts_at timestamptz not null,
    ends_at timestamptz not null check (ends_at > starts_at),
    workspace_id uuid not null,
    unit text not null check (unit in ('tokens', 'cost')),
    used bigint not null default 0,
    leased bigint not null default 0,
    alerted smallint not null default 0,
    primary key (tenant_id, limit_id, subject, starts_at),
    foreign key (tenant_id, workspace_id) references workspaces on delete cascade
);
-- every turn updates its rows several times: leave room for the new versions on the same page
alter table limit_windows set (fillfactor = 50);

insert into quota_limits (tenant_id, limit_id, workspace_id, scope, amount, updated_at)
select tenant_id, workspace_id, workspace_id, 'workspace', least(token_limit, 1000000000000000000), updated_at
from workspace_quotas;
insert into quota_limits (tenant_id, limit_id, workspace_id, scope, subject, amount, created_at)
select tenant_id, key_id, workspace_id, 'key', key_id::text, least(token_limit, 1000000000000000000), created_at
from api_keys where token_limit is not null;
insert into limit_windows (tenant_id, limit_id, subject, starts_at, ends_at, workspace_id, unit, used)
select tenant_id, workspace_id, '', starts_at, ends_at, workspace_id, 'tokens', used from quota_windows;
insert into limit_windows (tenant_id, limit_id, subject, starts_at, ends_at, workspace_id, unit, used)
select w.tenant_id, w.key_id, '', w.starts_at, w.ends_at, k.workspace_id, 'tokens', w.used
from key_windows w join api_keys k using (tenant_id, key_id);

-- The life of a turn (metering/lifecycle.py): admitted → running → cut → settled; lost → recovered. outcome: what became of
-- the answer. limit_ids, subjects, window_starts: the windows it holds, in the order in which they are locked.
alter table turns drop constraint turns_state_check;
drop index turns_running;
alter table turns
    add column outcome text,
    add column limit_ids uuid[] not null default '{}',
    add column subjects text[] not null default '{}',
    add column window_starts timestamptz[] not null default '{}',
    add column instance_id uuid,
    add column context_tokens bigint not null default 0; -- of its largest call: what the conversation's next one begins with
update turns set state = case when state = 'lost' then 'recovered' else 'settled' end,
    outcome = case when state = 'running' then 'lost' else state end,
    ended_at = coalesce(ended_at, now()),
    limit_ids = case when key_id is null then array[workspace_id] else array[workspace_id, key_id] end,
    subjects = case when key_id is null then array[''] else array['', ''] end,
    window_starts = case when key_id is null then array[window_starts_at]
        else array[window_starts_at, window_starts_at] end;
alter table turns
    drop column window_starts_at,
    drop column recovered_tokens,
    add check (state in ('admitted', 'running', 'cut', 'lost', 'settled', 'recovered')),
    add check (outcome in ('done', 'aborted', 'cut', 'failed', 'refused', 'lost')),
    add check ((state in ('settled', 'recovered')) = (ended_at is not null)),
    alter column state set default 'admitted';
create unique index turns_running on turns (tenant_id, workspace_id, user_id, conversation_id)
    where ended_at is null;
create index turns_by_conversation on turns (tenant_id, workspace_id, user_id, conversation_id, started_at desc);

-- granted_cost, consumed_cost: as granted and consumed, in the unit of limits in money. instance_id: who reads the answer.
drop table leases;
create table leases (
    tenant_id uuid not null references tenants on delete cascade,
    turn_id uuid not null,
    workspace_id uuid not null,
    granted bigint not null check (granted >= 0),
    granted_cost bigint not null check (granted_cost >= 0),
    consumed bigint not null default 0 check (consumed >= 0),
    consumed_cost bigint not null default 0 check (consumed_cost >= 0),
    instance_id uuid,
    expires_at timestamptz not null,
    primary key (tenant_id, turn_id),
    foreign key (tenant_id, turn_id) references turns on delete cascade
);
create index leases_by_expiry on leases (expires_at);
alter table leases set (fillfactor = 70);

-- The ledger, anew: by month, with the endpoint and the cost. A default partition takes what has none yet.
alter table usage_events rename to usage_events_before;
alter table usage_events_before rename constraint usage_events_pkey to usage_events_before_pkey;
drop index usage_events_by_time;
drop index usage_events_by_key;
create table usage_events (
    tenant_id uuid not null references tenants on delete cascade,
    turn_id uuid not null,
    run_id text not null,
    seq integer not null,
    workspace_id uuid not null,
    user_id uuid not null,
    key_id uuid,
    conversation_id text,
    kind text not null,
    endpoint text not null,
    model text not null,
    provider text not null,
    input_tokens bigint not null,
    output_tokens bigint not null,
    cached_tokens bigint not null,
    reasoning_tokens bigint not null,
    tokens bigint not null generated always as (input_tokens + output_tokens + reasoning_tokens) stored,
    cost bigint not null default 0,
    estimated boolean not null,
    source text not null check (source in ('provider', 'estimate', 'recovered')),
    occurred_at timestamptz not null,
    recorded_at timestamptz not null default now(),
    primary key (tenant_id, turn_id, run_id, seq, occurred_at)
) partition by range (occurred_at);
create index usage_events_by_time on usage_events (tenant_id, workspace_id, occurred_at);
create index usage_events_by_key on usage_events (tenant_id, key_id, occurred_at) where key_id is not null;
create table usage_events_default partition of usage_events default;
alter table usage_events_default enable row level security; -- reached through usage_events only

-- Makes the partition of a month, when there is none; its name, or null. What the default one holds of it is moved.
create function make_usage_partition(any_day date) returns text
language plpgsql security definer set search_path = public, pg_temp
as $$
declare
    first_day constant timestamptz := date_trunc('month', any_day::timestamp) at time zone 'UTC';
    next_month constant timestamptz := (date_trunc('month', any_day::timestamp) + interval '1 month') at time zone 'UTC';
    name constant text := 'usage_events_' || to_char(any_day, 'YYYYMM');
begin
    -- by a query: to_regclass() remembers that there was none, also after the lock
    if exists (select from pg_class c where c.relnamespace = 'public'::regnamespace and c.relname = name) then
        return null;
    end if;
    perform pg_advisory_xact_lock(7164775011);
    if exists (select from pg_class c where c.relnamespace = 'public'::regnamespace and c.relname = name) then
        return null;
    end if;
    execute format('create table %I (like usage_events including defaults including generated including constraints)', name);
    execute format('alter table %I enable row level security', name);
    execute format('with moved as (delete from usage_events_default where occurred_at >= $1 and occurred_at < $2'
        ' returning tenant_id, turn_id, run_id, seq, workspace_id, user_id, key_id, conversation_id, kind, endpoint,'
        ' model, provider, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost, estimated, source,'
        ' occurred_at, recorded_at)'
        ' insert into %I (tenant_id, turn_id, run_id, seq, workspace_id, user_id, key_id, conversation_id, kind, endpoint,'
        ' model, provider, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost, estimated, source,'
        ' occurred_at, recorded_at) select * from moved', name) using first_day, next_month;
    execute format('alter table usage_events attach partition %I for values from (%L) to (%L)', name, first_day, next_month);
    return name;
end
$$;

-- Drops the partitions of months that ended before a day; their names.
create function drop_usage_partitions(before_day date) returns setof text
language plpgsql security definer set search_path = public, pg_temp
as $$
declare
    name text;
begin
    for name in
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'public.usage_events'::regclass and c.relname ~ '^usage_events_\d{6}$'
            and to_date(right(c.relname, 6), 'YYYYMM') + interval '1 month' <= before_day
        order by c.relname
    loop
        execute format('drop table %I', name);
        return next name;
    end loop;
end
$$;
revoke execute on function make_usage_partition(date), drop_usage_partitions(date) from public;
grant execute on function make_usage_partition(date), drop_usage_partitions(date) to geko_app;

insert into usage_events (tenant_id, turn_id, run_id, seq, workspace_id, user_id, key_id, conversation_id, kind, endpoint,
    model, provider, input_tokens, output_tokens, cached_tokens, reasoning_tokens, estimated, source, occurred_at, recorded_at)
select e.tenant_id, e.turn_id, e.run_id, e.seq, e.workspace_id, e.user_id, e.key_id, e.conversation_id, e.kind,
    coalesce(t.endpoint, ''), e.model, e.provider, e.input_tokens, e.output_tokens, e.cached_tokens, e.reasoning_tokens,
    e.estimated, e.source, e.occurred_at, e.recorded_at
from usage_events_before e left join turns t using (tenant_id, turn_id);
drop table usage_events_before, quota_windows, key_windows, workspace_quotas;
alter table api_keys drop column token_limit;

do $$
declare
    month date;
begin
    for month in select distinct date_trunc('month', occurred_at at time zone 'UTC')::date from usage_events
        union select date_trunc('month', now() at time zone 'UTC')::date
        union select (date_trunc('month', now() at time zone 'UTC') + interval '1 month')::date
    loop
        perform make_usage_partition(month);
    end loop;
end
$$;

-- The ledger's sums by day of the tenant's calendar, kept by the transaction that writes it. key_id: zero for none.
-- turns is counted in the row of the turn's own model, so that it sums up.
create table usage_days (
    tenant_id uuid not null references tenants on delete cascade,
    workspace_id uuid not null,
    day date not null,
    user_id uuid not null,
    key_id uuid not null,
    endpoint text not null,
    model text not null,
    kind text not null,
    turns bigint not null default 0,
    calls bigint not null default 0,
    input_tokens bigint not null default 0,
    output_tokens bigint not null default 0,
    cached_tokens bigint not null default 0,
    reasoning_tokens bigint not null default 0,
    tokens bigint not null default 0,
    estimated_tokens bigint not null default 0,
    cost bigint not null default 0,
    primary key (tenant_id, workspace_id, day, user_id, key_id, endpoint, model, kind)
);
insert into usage_days
select e.tenant_id, e.workspace_id, (e.occurred_at at time zone t.time_zone)::date, e.user_id,
    coalesce(e.key_id, '00000000-0000-0000-0000-000000000000'), e.endpoint, e.model, e.kind, count(distinct e.turn_id), count(*),
    sum(e.input_tokens), sum(e.output_tokens), sum(e.cached_tokens), sum(e.reasoning_tokens), sum(e.tokens),
    coalesce(sum(e.tokens) filter (where e.estimated), 0), 0
from usage_events e join tenants t using (tenant_id)
group by 1, 2, 3, 4, 5, 6, 7, 8;

-- What was announced of a window, once for each threshold; delivered by any instance, again until it has succeeded.
create table quota_alerts (
    tenant_id uuid not null references tenants on delete cascade,
    alert_id uuid not null default gen_random_uuid(),
    workspace_id uuid not null,
    limit_id uuid not null,
    subject text not null,
    starts_at timestamptz not null,
    ends_at timestamptz not null,
    threshold smallint not null,
    unit text not null,
    used bigint not null,
    amount bigint not null,
    created_at timestamptz not null default now(),
    attempts integer not null default 0,
    next_attempt_at timestamptz not null default now(),
    delivered_at timestamptz,
    primary key (tenant_id, alert_id),
    foreign key (tenant_id, workspace_id) references workspaces on delete cascade
);
create unique index quota_alerts_once on quota_alerts (tenant_id, limit_id, subject, starts_at, threshold);
create index quota_alerts_due on quota_alerts (next_attempt_at) where delivered_at is null;

-- What a tenant pays for a model, before the installation's own prices; billionths of the currency for a million tokens.
create table model_prices (
    tenant_id uuid not null references tenants on delete cascade,
    price_id uuid not null,
    model text not null check (length(model) between 1 and 300),
    input bigint not null check (input >= 0),
    output bigint not null check (output >= 0),
    cached bigint check (cached >= 0),
    reasoning bigint check (reasoning >= 0),
    valid_from timestamptz not null,
    created_at timestamptz not null default now(),
    primary key (tenant_id, price_id)
);
create unique index model_prices_once on model_prices (tenant_id, model, valid_from);

do $$
declare
    name text;
begin
    foreach name in array array['quota_limits', 'limit_windows', 'leases', 'usage_events', 'usage_days', 'quota_alerts',
        'model_prices'] loop
        execute format('alter table %I enable row level security', name);
        execute format($policy$create policy tenant on %I
            using (tenant_id = nullif(current_setting('geko.tenant_id', true), '')::uuid)
            with check (tenant_id = nullif(current_setting('geko.tenant_id', true), '')::uuid)$policy$, name);
    end loop;
end
$$;
grant select, insert, update, delete on quota_limits, leases, model_prices to geko_app;
grant select, insert, update on limit_windows, usage_days, quota_alerts to geko_app;
grant select, insert on usage_events to geko_app;
grant delete on turns to geko_app; -- one that a limit refuses leaves no trace

-- Every instance forgets the limits of a workspace when one changes, and the prices of a tenant.
create function announce_limit() returns trigger
language plpgsql set search_path = public, pg_temp
as $$
declare
    changed record := coalesce(new, old);
begin
    perform pg_notify('geko_invalidation', 'limits ' || changed.tenant_id || '/' || changed.workspace_id);
    return null;
end
$$;
create trigger announce after insert or update or delete on quota_limits for each row execute function announce_limit();

create function announce_price() returns trigger
language plpgsql set search_path = public, pg_temp
as $$
declare
    changed record := coalesce(new, old);
begin
    perform pg_notify('geko_invalidation', 'prices ' || changed.tenant_id);
    return null;
end
$$;
create trigger announce after insert or update or delete on model_prices for each row execute function announce_price();

drop function begin_lease(uuid, uuid, timestamptz, bigint, bigint, uuid, uuid, text, text, text, double precision, uuid);
drop function begin_lease_of_key(uuid, uuid, timestamptz, bigint, bigint, uuid, uuid, text, text, text, double precision,
    uuid);
drop function top_up_lease(uuid, uuid, bigint, bigint, double precision, uuid);
drop function top_up_lease_of_key(uuid, uuid, bigint, bigint, double precision, uuid);
drop function settle_lease(uuid, uuid, text, jsonb, uuid);
drop function settle_lease_of_key(uuid, uuid, text, jsonb, uuid);
drop function extend_lease(uuid, uuid, bigint, double precision);
drop function name_conversation(uuid, uuid, text);
drop function find_expired_leases(timestamptz, integer);
