"""The SQL of leases. Each is one statement at READ COMMITTED and takes its row locks in one order: lease, turn, window,
the window of the turn's key.

$1 is the tenant. A row is locked first and read afterwards, so that the numbers a decision rests on are the newest.
The steps that a running turn waits for are functions in sql/0003_lease_functions.sql and, with keys, 0009_api_keys.sql:
one round trip each.
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

# $2 key, $3 start, $4 end
OPEN_KEY_WINDOW: Final = """
insert into key_windows (tenant_id, key_id, starts_at, ends_at, used)
select $1, $2, $3, $4, coalesce(sum(tokens), 0)
from usage_events where tenant_id = $1 and key_id = $2 and occurred_at >= $3 and occurred_at < $4
on conflict do nothing"""

# $2 workspace, $3 window start, $4 need, $5 allowance, $6 turn, $7 user, $8 conversation, $9 endpoint, $10 model,
# $11 seconds, $12 key. No row: a window is not open. amount null: it does not fit, by_key: into the key's budget.
BEGIN: Final = "select * from begin_lease($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"

# $2 turn, $3 instance
OWN: Final = "select own_turn($1, $2, $3)"

# $2 turn, $3 step, $4 consumed, $5 seconds, $6 key. No row: the lease is gone.
TOP_UP: Final = "select * from top_up_lease($1, $2, $3, $4, $5, $6)"

# $2 turn, $3 consumed, $4 seconds. No row: the lease is gone.
HEARTBEAT: Final = "select * from extend_lease($1, $2, $3, $4)"

# $2 turn, $3 conversation
SET_CONVERSATION: Final = "select * from name_conversation($1, $2, $3)"

# $2 turn, $3 state, $4 charges as JSON, $5 key. No row: the turn had been settled before.
SETTLE: Final = "select * from settle_lease($1, $2, $3, $4, $5)"

# Waits until all that was committed before is on disk: a record in the log that means nothing.
FLUSH: Final = "select pg_logical_emit_message(true, 'geko', '')"

# $2 workspace
EXPIRED_OF_WORKSPACE: Final = """
select coalesce(array_agg(turn_id), '{}') as turn_ids from leases
where tenant_id = $1 and workspace_id = $2 and expires_at < now()"""

# $2 turn, $3 time (null: now). No row: the lease is gone or was extended.
RECOVER: Final = """
with lease as (
    delete from leases where tenant_id = $1 and turn_id = $2 and expires_at < coalesce($3::timestamptz, now())
    returning workspace_id, window_starts_at, granted, consumed, key_id
), turn as (
    update turns t set state = 'lost', ended_at = now(), recovered_tokens = l.consumed
    from lease l where t.tenant_id = $1 and t.turn_id = $2 and t.state = 'running'
    returning t.workspace_id, t.user_id, t.conversation_id, t.model, t.started_at, t.recovered_tokens, t.key_id
), began as (
    select coalesce((select started_at from turn), (select window_starts_at from lease)) as at
), booked as (
    insert into usage_events (tenant_id, turn_id, workspace_id, user_id, conversation_id, occurred_at,
        run_id, seq, kind, model, provider, input_tokens, output_tokens, cached_tokens, reasoning_tokens,
        estimated, source, key_id)
    select $1, $2, workspace_id, user_id, conversation_id, started_at,
        'geko', -1, 'chat', model, '', 0, recovered_tokens, 0, 0, true, 'recovered', key_id
    from turn where recovered_tokens > 0
    on conflict do nothing
    returning tokens
), quota as (
    update quota_windows w set used = w.used + coalesce((select sum(tokens) from booked), 0),
        leased = w.leased - case when w.starts_at = l.window_starts_at then l.granted else 0 end
    from lease l, began b
    where w.tenant_id = $1 and w.workspace_id = l.workspace_id and w.starts_at <= b.at and b.at < w.ends_at
    returning w.used
), budget as (
    update key_windows w set used = w.used + coalesce((select sum(tokens) from booked), 0),
        leased = w.leased - case when w.starts_at = l.window_starts_at then l.granted else 0 end
    from lease l, began b
    where w.tenant_id = $1 and w.key_id = l.key_id and w.starts_at <= b.at and b.at < w.ends_at
        and (select count(*) from quota) >= 0
)
select used from quota"""

# $1 time (null: now), $2 rows; in no tenant
FIND_EXPIRED: Final = """
select tenant_id, turn_id from find_expired_leases(coalesce($1::timestamptz, now()), $2)"""
