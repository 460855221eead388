"""The SQL of leases. Each is one statement at READ COMMITTED and takes its row locks in one order: lease, turn, window.

$1 is the tenant. A row is locked first and read afterwards, so that the numbers a decision rests on are the newest.
"""

from __future__ import annotations

from typing import Final

# $2 workspace, $3 start, $4 end. A window opens with what the ledger already holds for its time: it may overlap an
# older one when the tenant's time zone was changed, and the quota must not begin anew then.
OPEN_WINDOW: Final = """
insert into quota_windows (tenant_id, workspace_id, starts_at, ends_at, used)
select $1, $2, $3, $4, coalesce(sum(tokens), 0)
from usage_events where tenant_id = $1 and workspace_id = $2 and occurred_at >= $3 and occurred_at < $4
on conflict do nothing"""

# $2 workspace, $3 window start, $4 need, $5 allowance, $6 turn, $7 user, $8 conversation, $9 endpoint, $10 model,
# $11 seconds. No row: the window is not open. amount null: it does not fit.
BEGIN: Final = """
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
select o.used, o.leased, o.token_limit, o.ends_at, t.amount from offer o left join taken t on true"""

# $2 turn, $3 step, $4 consumed, $5 seconds. No row: the lease is gone.
TOP_UP: Final = """
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
returning o.amount"""

# $2 turn, $3 consumed, $4 seconds
HEARTBEAT: Final = """
update leases set consumed = $3, expires_at = now() + make_interval(secs => $4)
where tenant_id = $1 and turn_id = $2
returning turn_id"""

# $2 turn, $3 conversation
SET_CONVERSATION: Final = """
update turns set conversation_id = $3 where tenant_id = $1 and turn_id = $2 returning turn_id"""

# $2 turn, $3 state, $4 charges as JSON. A turn that was taken for lost and charged by its last heartbeat gets that
# charge back with a negative entry, because the ledger is append-only. No row: the turn had been settled before.
SETTLE: Final = """
with lease as (
    delete from leases where tenant_id = $1 and turn_id = $2 returning granted
), turn as (
    update turns set state = $3, ended_at = now()
    where tenant_id = $1 and turn_id = $2 and state in ('running', 'lost') and (select count(*) from lease) >= 0
    returning workspace_id, user_id, conversation_id, model, window_starts_at, started_at, recovered_tokens
), charge as (
    select * from jsonb_to_recordset($4::jsonb) as c (run_id text, seq integer, kind text, model text,
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
returning w.used"""

# $2 workspace
EXPIRED_OF_WORKSPACE: Final = """
select coalesce(array_agg(turn_id), '{}') as turn_ids from leases
where tenant_id = $1 and workspace_id = $2 and expires_at < now()"""

# $2 turn, $3 time (null: now). No row: the lease is gone or was extended.
RECOVER: Final = """
with lease as (
    delete from leases where tenant_id = $1 and turn_id = $2 and expires_at < coalesce($3::timestamptz, now())
    returning workspace_id, window_starts_at, granted, consumed
), turn as (
    update turns t set state = 'lost', ended_at = now(), recovered_tokens = l.consumed
    from lease l where t.tenant_id = $1 and t.turn_id = $2 and t.state = 'running'
    returning t.workspace_id, t.user_id, t.conversation_id, t.model, t.started_at, t.recovered_tokens
), booked as (
    insert into usage_events (tenant_id, turn_id, workspace_id, user_id, conversation_id, occurred_at,
        run_id, seq, kind, model, provider, input_tokens, output_tokens, cached_tokens, reasoning_tokens,
        estimated, source)
    select $1, $2, workspace_id, user_id, conversation_id, started_at,
        'geko', -1, 'chat', model, '', 0, recovered_tokens, 0, 0, true, 'recovered'
    from turn where recovered_tokens > 0
    on conflict do nothing
    returning tokens
)
update quota_windows w set used = w.used + coalesce((select sum(tokens) from booked), 0),
    leased = w.leased - l.granted
from lease l
where w.tenant_id = $1 and w.workspace_id = l.workspace_id and w.starts_at = l.window_starts_at
returning w.used"""

# $1 time (null: now), $2 rows; in no tenant
FIND_EXPIRED: Final = """
select tenant_id, turn_id from find_expired_leases(coalesce($1::timestamptz, now()), $2)"""
