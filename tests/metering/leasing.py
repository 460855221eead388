"""Short ways to begin, top up and recover leases in tokens. Not a test."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from geko_proxy.metering.leases import Amount, Busy, Exhausted, Lease, Leases, NewTurn
from geko_proxy.metering.ledger import Charge
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.metering.limits import Hold, Limit, LimitScope, Unit, holds_of
from geko_proxy.metering.stored_answers import last_heartbeat
from geko_proxy.metering.windows import Window

if TYPE_CHECKING:
    Owner = asyncpg.Connection[asyncpg.Record]

NOTHING = Amount(0)


def base_holds(turn: NewTurn, window: Window) -> tuple[Hold, ...]:
    """The windows of a turn in a workspace without further limits, at a time that may be another one."""
    holds = [Hold(turn.workspace_id, "", window, Unit.TOKENS, LimitScope.WORKSPACE)]
    if turn.key_id is not None:
        holds.append(Hold(turn.key_id, "", window, Unit.TOKENS, LimitScope.KEY, str(turn.key_id)))
    return tuple(holds)


async def try_begin(
    leases: Leases, turn: NewTurn, window: Window, need: int, allowance: int = 0
) -> Lease | Exhausted | Busy:
    return await leases.begin(turn, base_holds(turn, window), Amount(need), Amount(allowance))


async def begin_under(
    leases: Leases, limits: Iterable[Limit], turn: NewTurn, need: Amount, allowance: Amount = NOTHING
) -> Lease | Exhausted | Busy:
    return await leases.begin(turn, holds_of(limits, turn.actor, turn.started_at, "UTC"), need, allowance)


async def top_up(leases: Leases, lease: Lease, step: int, consumed: int) -> int:
    """The tokens that a top-up gives."""
    return (await leases.top_up(lease, NOTHING, Amount(step), Amount(consumed))).tokens


async def heartbeat(leases: Leases, lease: Lease, consumed: int) -> bool:
    """Whether the lease is still there."""
    return not await leases.heartbeat(lease.tenant_id, {lease.turn_id: Amount(consumed)})


async def recover(leases: Leases, now: datetime | None = None) -> int:
    """Settle by their last heartbeat what has expired; how many turns."""
    number = 0
    while adopted := await leases.adopt(now):
        for each in adopted:
            charges = last_heartbeat(*each.consumed, each.lease.turn.model)
            await leases.settle(each.lease, Outcome.LOST, charges, recovering=True)
        number += len(adopted)
    return number


async def window_of(owner: Owner, limit_id: UUID, start: datetime, subject: str = "") -> tuple[int, int]:
    """What is used and leased of a limit."""
    row = await owner.fetchrow(
        "select used, leased from limit_windows where limit_id = $1 and starts_at = $2 and subject = $3",
        limit_id,
        start,
        subject,
    )
    assert row is not None
    return row["used"], row["leased"]


def charge(tokens: int, seq: int = 1, model: str = "gpt-4o") -> Charge:
    return Charge("run", seq, "chat", model, "openAI", tokens - 1, 1)
