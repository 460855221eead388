-- Monthly token quotas: limits, what is used and leased, the turns, and the ledger of model calls.

-- token_limit null, or no row: unlimited
create table workspace_quotas (
    tenant_id uuid not null references tenants on delete cascade,
    workspace_id uuid not null,
    token_limit bigint check (token_limit >= 0),
    updated_at timestamptz not null default now(),
    primary key (tenant_id, workspace_id),
    foreign key (tenant_id, workspace_id) references workspaces on delete cascade
);

-- used: settled by turns that have ended. leased: held by turns that run. The sums of usage_events and leases.
-- No check that leased >= 0: PostgreSQL applies checks to the row it computes from the snapshot, before it finds that
-- another transaction changed the row and computes it anew, so racing settlements would fail without a reason.
create table quota_windows (
    tenant_id uuid not null references tenants on delete cascade,
    workspace_id uuid not null,
    starts_at timestamptz not null,
    ends_at timestamptz not null check (ends_at > starts_at),
    used bigint not null default 0,
    leased bigint not null default 0,
    primary key (tenant_id, workspace_id, starts_at),
    foreign key (tenant_id, workspace_id) references workspaces on delete cascade
);
-- every turn updates its row several times: leave room for the new versions on the same page
alter table quota_windows set (fillfactor = 50);

-- A chat message and its answer. recovered_tokens: what was charged when its GEKO instance had vanished.
create table turns (
    tenant_id uuid not null references tenants on delete cascade,
    turn_id uuid not null,
    workspace_id uuid not null,
    user_id uuid not null,
    conversation_id text check (length(conversation_id) <= 200),
    endpoint text not null,
    model text not null,
    state text not null default 'running'
        check (state in ('running', 'done', 'aborted', 'cut', 'failed', 'refused', 'lost')),
    window_starts_at timestamptz not null,
    started_at timestamptz not null,
    ended_at timestamptz,
    recovered_tokens bigint not null default 0,
    primary key (tenant_id, turn_id)
);
-- LibreChat would mix two answers of one conversation. The user is in the key because the id is the client's word:
-- naming another user's conversation must not block it.
create unique index turns_running on turns (tenant_id, workspace_id, user_id, conversation_id)
    where state = 'running';
create index turns_by_time on turns (tenant_id, workspace_id, started_at desc);

create table leases (
    tenant_id uuid not null references tenants on delete cascade,
    turn_id uuid not null,
    workspace_id uuid not null,
    window_starts_at timestamptz not null,
    granted bigint not null check (granted >= 0),
    consumed bigint not null default 0 check (consumed >= 0),
    expires_at timestamptz not null,
    primary key (tenant_id, turn_id),
    foreign key (tenant_id, turn_id) references turns on delete cascade
);
create index leases_by_expiry on leases (expires_at);
alter table leases set (fillfactor = 70);

-- Append-only. occurred_at is when the turn began, so that an answer that runs over midnight of the last day counts
-- where its lease was taken. No foreign keys to workspaces, users or turns: what was used stays on record.
create table usage_events (
    tenant_id uuid not null references tenants on delete cascade,
    turn_id uuid not null,
    run_id text not null,
    seq integer not null,
    workspace_id uuid not null,
    user_id uuid not null,
    conversation_id text,
    kind text not null,
    model text not null,
    provider text not null,
    input_tokens bigint not null,
    output_tokens bigint not null,
    cached_tokens bigint not null,
    reasoning_tokens bigint not null,
    tokens bigint not null generated always as (input_tokens + output_tokens + reasoning_tokens) stored,
    estimated boolean not null,
    source text not null check (source in ('provider', 'estimate', 'recovered')),
    occurred_at timestamptz not null,
    recorded_at timestamptz not null default now(),
    primary key (tenant_id, turn_id, run_id, seq)
);
create index usage_events_by_time on usage_events (tenant_id, workspace_id, occurred_at);

do $$
declare
    name text;
begin
    foreach name in array array['workspace_quotas', 'quota_windows', 'turns', 'leases', 'usage_events'] loop
        execute format('alter table %I enable row level security', name);
        execute format($policy$create policy tenant on %I
            using (tenant_id = nullif(current_setting('geko.tenant_id', true), '')::uuid)
            with check (tenant_id = nullif(current_setting('geko.tenant_id', true), '')::uuid)$policy$, name);
    end loop;
end
$$;

grant select, insert, update on workspace_quotas, quota_windows, turns to geko_app;
grant select, insert, update, delete on leases to geko_app;
grant select, insert on usage_events to geko_app;

-- Turns whose GEKO instance has vanished, of every tenant, those first that expired first.
create function find_expired_leases(as_of timestamptz, max_rows integer)
returns table (tenant_id uuid, turn_id uuid)
language sql stable security definer set search_path = public, pg_temp
as $$
    select l.tenant_id, l.turn_id from leases l where l.expires_at < as_of order by l.expires_at limit max_rows
$$;

revoke execute on function find_expired_leases(timestamptz, integer) from public;
grant execute on function find_expired_leases(timestamptz, integer) to geko_app;
