"""The SQL of the reconcile report: two statements, by index, whatever the number of messages."""

from __future__ import annotations

from typing import Final

from geko_proxy.metering.ledger import ANSWERS_SQL

# $1 tenant, $2 workspace, $3 and $4 the time
MESSAGES: Final = """
message as materialized (
    select t.turn_id, t.conversation_id, t.started_at, t.user_id, t.endpoint, t.model, t.outcome, t.ended_at,
        t.metered_by_calls, t.seen_tokens, t.seen_estimated
    from turns t
    where t.tenant_id = $1 and t.workspace_id = $2 and t.call_kind is null and t.started_at >= $3
        and t.started_at < $4"""

# stream_tokens: null while the message runs. difference: null where nothing can be compared, or not all has ended yet.
SIDES: Final = f"""
), own as (
    select e.turn_id, sum(e.tokens) as tokens, coalesce(sum(e.tokens) filter (where e.estimated), 0) <> 0 as estimated
    from message m
    join usage_events e on e.tenant_id = $1 and e.turn_id = m.turn_id and e.occurred_at = m.started_at
    where e.occurred_at >= $3 and e.occurred_at < $4
    group by e.turn_id
), called as (
    select c.parent_turn_id as turn_id, c.call_kind as kind, count(distinct c.turn_id) as number,
        coalesce(sum(e.tokens), 0) as tokens, coalesce(sum(e.tokens) filter (where e.estimated), 0) as estimated_tokens,
        bool_or(c.ended_at is null) as running
    from message m
    join turns c on c.tenant_id = $1 and c.parent_turn_id = m.turn_id
    left join usage_events e on e.tenant_id = $1 and e.turn_id = c.turn_id and e.occurred_at = c.started_at
        and e.occurred_at >= $3
    group by c.parent_turn_id, c.call_kind
), calls as (
    select c.turn_id, sum(c.number) as number, sum(c.tokens) as tokens, sum(c.estimated_tokens) as estimated_tokens,
        sum(c.tokens) filter (where c.kind in ({ANSWERS_SQL})) as answer_tokens,
        bool_or(c.running) filter (where c.kind in ({ANSWERS_SQL})) as running,
        jsonb_object_agg(c.kind, jsonb_build_object(
            'number', c.number, 'tokens', c.tokens, 'estimated_tokens', c.estimated_tokens)) as by_kind
    from called c group by c.turn_id
), side as (
    select m.*, s.stream_tokens::bigint, s.stream_estimated, coalesce(c.number, 0)::bigint as call_number,
        coalesce(c.tokens, 0)::bigint as call_tokens, coalesce(c.estimated_tokens, 0)::bigint as call_estimated_tokens,
        c.answer_tokens::bigint, coalesce(c.by_kind, '{{}}') as by_kind,
        (coalesce(o.tokens, 0) + coalesce(c.tokens, 0))::bigint as billed,
        case when m.ended_at is not null and not c.running then (c.answer_tokens - s.stream_tokens)::bigint end
            as difference
    from message m
    left join own o on o.turn_id = m.turn_id
    left join calls c on c.turn_id = m.turn_id
    cross join lateral (select
        case when m.metered_by_calls then m.seen_tokens when m.ended_at is not null then coalesce(o.tokens, 0) end
            as stream_tokens,
        case when m.metered_by_calls then m.seen_estimated
            when m.ended_at is not null then coalesce(o.estimated, false) end as stream_estimated
    ) s
)"""  # noqa: S608

ROWS: Final = """
select s.*, u.email, u.name
from {source} s left join users u on u.tenant_id = $1 and u.user_id = s.user_id"""

# $5, $6 the place, $7 how many
BY_TIME: Final = f"""
with {MESSAGES} and t.started_at <= $5 and (t.started_at, t.turn_id) < ($5, $6)
    order by t.started_at desc, t.turn_id desc limit $7
{SIDES}
{ROWS.format(source="(select 0::bigint as weight, side.* from side)")}
order by s.started_at desc, s.turn_id desc"""  # noqa: S608

# $8 the place's weight, $9 the threshold: those that differ by more come first, by how much
BY_DIFFERENCE: Final = f"""
with {MESSAGES} {SIDES}, weighed as (
    select case when abs(side.difference) > $9 then abs(side.difference) else 0 end as weight, side.* from side
), page as (
    select w.* from weighed w where (w.weight, w.started_at, w.turn_id) < ($8, $5, $6)
    order by w.weight desc, w.started_at desc, w.turn_id desc limit $7
)
{ROWS.format(source="page")}
order by s.weight desc, s.started_at desc, s.turn_id desc"""  # noqa: S608

# $5 the threshold. beside: the answer was charged by its stream, since no call that makes it came through the LLM side.
TOTALS: Final = f"""
with {MESSAGES} {SIDES}, placed as (
    select side.*, not metered_by_calls and outcome in ('done', 'cut') and stream_tokens > 0 as beside from side
), endpoint as (
    select p.endpoint, count(*) filter (where p.metered_by_calls) as turns_by_calls,
        count(*) filter (where p.beside) as turns_by_stream,
        sum(p.stream_tokens) filter (where p.beside) as tokens, max(p.started_at) filter (where p.beside) as last_at
    from placed p group by p.endpoint
), booked as (
    select t.call_kind as kind, t.parent_turn_id is not null as of_message, count(distinct e.turn_id) as number,
        sum(e.tokens) as tokens, coalesce(sum(e.tokens) filter (where e.estimated), 0) as estimated_tokens
    from usage_events e left join turns t on t.tenant_id = $1 and t.turn_id = e.turn_id
    where e.tenant_id = $1 and e.workspace_id = $2 and e.occurred_at >= $3 and e.occurred_at < $4
    group by t.call_kind, t.parent_turn_id is not null
)
select count(*) as turns, count(*) filter (where metered_by_calls) as turns_by_calls, count(difference) as compared,
    coalesce(sum(stream_tokens) filter (where difference is not null), 0)::bigint as stream_tokens,
    coalesce(sum(answer_tokens) filter (where difference is not null), 0)::bigint as answer_tokens,
    count(*) filter (where abs(difference) > $5) as over_threshold,
    (select coalesce(jsonb_agg(to_jsonb(e) order by e.tokens desc, e.endpoint), '[]') from endpoint e
        where e.turns_by_stream > 0) as endpoints,
    (select coalesce(jsonb_agg(to_jsonb(b) order by b.kind), '[]') from booked b) as booked
from side"""  # noqa: S608
