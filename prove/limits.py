"""Limits of four kinds at once: for the workspace, each member, a model, and in money."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg

from prove.load import Attempt, compare, count, listen, send
from prove.report import Row
from prove.stage import Stage, User

SMALL, LARGE = "gpt-4o-mini", "gpt-4o"
PRICES: Final = {SMALL: (1, 4), LARGE: (5, 20)}  # of a token, in billionths of the currency
PROMPT = 30  # tokens of a message here, about
MOST_OVERSHOOT = 0.01
ROUNDS = 30

LIMIT = """
insert into quota_limits (tenant_id, limit_id, workspace_id, scope, subject, period, unit, amount)
values ($1, $2, $3, $4, $5, $6, $7, $8)"""
PRICE = """
insert into model_prices (tenant_id, price_id, model, input, output, valid_from)
values ($1, $2, $3, $4, $5, now() - interval '1 day')"""
WINDOWS = """
select l.scope, l.subject, l.unit, l.amount, w.used, w.leased, (
    select coalesce(sum(case l.unit when 'cost' then e.cost else e.tokens end), 0)::bigint
    from usage_events e join turns t on t.tenant_id = e.tenant_id and t.turn_id = e.turn_id
    where e.workspace_id = w.workspace_id
        and (l.scope <> 'model' or t.endpoint || '/' || t.model = l.subject)
        and (l.scope <> 'member' or e.user_id::text = w.subject)
) as ledger
from limit_windows w join quota_limits l using (tenant_id, limit_id)
where w.workspace_id = $1 order by l.scope, l.unit"""


async def many_at_once(stage: Stage) -> Row:
    """Half of the turns use each model; the small one's tokens and the workspace's money fit about half of them."""
    orders = [(SMALL, LARGE)[n % 2] for n in range(stage.turns)]
    tokens = [stage.random.randint(150, 350) for _ in orders]
    small = sum(t + PROMPT for t, model in zip(tokens, orders, strict=True) if model == SMALL) // 2
    money = sum(PROMPT * PRICES[m][0] + t * PRICES[m][1] for t, m in zip(tokens, orders, strict=True)) // 2
    row = Row("four kinds of limits at once", stage.turns)
    user = await stage.user(10**9)
    await _limit(stage, user, small, money)
    begun = time.monotonic()
    attempts = await asyncio.gather(
        *(_insist(user, n % 2, t, model) for n, (t, model) in enumerate(zip(tokens, orders, strict=True)))
    )
    await stage.books.settled(user.workspace_id, 10)
    row.time_s = time.monotonic() - begun
    ids = [str(each.conversation) for each in attempts if each.conversation is not None]
    produced = await stage.books.produced(ids)
    compare(row, ids, produced, await stage.books.charged(user.workspace_id))
    statuses = count(each.status for each in attempts)
    row.notes.append(f"the last answers to the messages: {statuses}")
    row.expect({each.status for each in attempts} == {200, 429}, f"the messages were answered {statuses}")
    for window in await stage.books.fetch(WINDOWS, UUID(user.workspace_id)):
        _check(row, dict(window))
    made = sum(
        produced[str(a.conversation)].tokens
        for a, model in zip(attempts, orders, strict=True)
        if model == SMALL and a.conversation in produced
    )
    row.limit, row.overshoot = small, max(0, made - small)
    row.expect(row.overshoot < MOST_OVERSHOOT * small, f"the small model made {made} tokens of {small}")
    return row


def _check(row: Row, window: dict[str, Any]) -> None:
    name = f"{window['scope']} {window['unit']}"
    used, amount = window["used"], window["amount"]
    row.expect(window["leased"] == 0, f"{name}: {window['leased']} are still leased")
    row.expect(used == window["ledger"], f"{name}: {used} used, the ledger says {window['ledger']}")
    row.expect(used <= amount, f"{name}: {used} used of {amount}")
    row.notes.append(f"{name}: {used} of {amount} used ({used / amount:.1%})")


async def _limit(stage: Stage, user: User, small: int, money: int) -> None:
    tenant, workspace = UUID(user.at[0].tenant_id), UUID(user.workspace_id)
    connection = await asyncpg.connect(stage.postgres.dsn)
    try:
        for scope, subject, period, unit, amount in (
            ("member", "*", "day", "tokens", 10**8),
            ("model", f"MockUsage/{SMALL}", "week", "tokens", small),
            ("workspace", "", "month", "cost", money),
        ):
            await connection.execute(LIMIT, tenant, uuid4(), workspace, scope, subject, period, unit, amount)
        for model, (prompt, output) in PRICES.items():
            await connection.execute(
                PRICE, tenant, uuid4(), f"MockUsage/{model}", prompt * 10**6, output * 10**6
            )
    finally:
        await connection.close()


async def _insist(user: User, at: int, tokens: int, model: str) -> Attempt:
    order = f"tokens={tokens} word=river delay_ms=40"
    attempt = await send(user.at[at], order, model=model)
    for _ in range(ROUNDS):
        if attempt.conversation is not None:
            await listen(user.at[at], attempt.conversation)
            break
        await asyncio.sleep(0.5)
        attempt = await send(user.at[at], order, model=model)
    return attempt
