"""How far the limits of a turn are used up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg

from geko_proxy.metering.leases import Amount, Lease, Leases
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.metering.limits import LimitStore
from geko_proxy.metering.standing import Standings
from geko_proxy.storage.database import Database
from tests.metering.leasing import begin_under, charge, try_begin

if TYPE_CHECKING:
    from tests.metering.conftest import Place

    Make = Callable[[int | None], Awaitable[Place]]


async def test_the_tightest_limit_counts(database: Database, make_place: Make, dsn: str) -> None:
    place, leases, standings = await make_place(1000), Leases(database), Standings(database)
    owner = await asyncpg.connect(dsn)
    await owner.execute(
        "insert into quota_limits (tenant_id, limit_id, workspace_id, scope, subject, period, amount)"
        " values ($1, $2, $3, 'member', '*', 'day', 100)",
        place.tenant_id,
        uuid4(),
        place.workspace_id,
    )
    await owner.close()
    limits = await LimitStore(database).list(place.tenant_id, place.workspace_id)
    lease = await begin_under(leases, limits, place.turn(), Amount(1))
    assert isinstance(lease, Lease)
    before = await standings.of_turn(place.tenant_id, lease.turn_id)
    assert before is not None
    assert (before.percent, before.threshold) == (0, None)
    await leases.settle(lease, Outcome.DONE, [charge(96)])
    after = await standings.of_turn(place.tenant_id, lease.turn_id)
    assert after is not None
    assert (after.scope, after.percent, after.threshold, after.amount) == ("member", 96, 95, 100)


async def test_without_a_limit_there_is_none(database: Database, make_place: Make) -> None:
    place, leases, standings = await make_place(None), Leases(database), Standings(database)
    lease = await try_begin(leases, place.turn(), place.window, 1)
    assert isinstance(lease, Lease)
    assert await standings.of_turn(place.tenant_id, lease.turn_id) is None
    assert await standings.of_turn(uuid4(), lease.turn_id) is None
