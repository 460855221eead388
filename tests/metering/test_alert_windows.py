"""Which thresholds the database announces, and when (alert_windows, alert_limit of sql/0019)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
import pytest

from geko_proxy.metering.leases import Amount, Exhausted, Lease, Leases
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.metering.limits import LimitStore
from geko_proxy.storage.database import Database
from tests.metering.leasing import begin_under, charge, try_begin

if TYPE_CHECKING:
    from tests.metering.conftest import Place

    Make = Callable[[int | None], Awaitable[Place]]
    Owner = asyncpg.Connection[asyncpg.Record]


@pytest.fixture
async def owner(dsn: str) -> AsyncIterator[Owner]:
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


async def use(leases: Leases, place: Place, tokens: int) -> None:
    """A turn that uses so many tokens, whatever the limit says."""
    lease = await try_begin(leases, place.turn(), place.window, 1)
    assert isinstance(lease, Lease)
    await leases.settle(lease, Outcome.DONE, [charge(tokens)])


async def announced(owner: Owner, place: Place) -> list[tuple[int, int, int]]:
    """Threshold, used and amount of each alert, in order."""
    rows = await owner.fetch(
        "select threshold, used, amount from quota_alerts where workspace_id = $1 order by created_at, threshold",
        place.workspace_id,
    )
    return [tuple(row) for row in rows]


async def test_each_threshold_is_announced_once(database: Database, make_place: Make, owner: Owner) -> None:
    place, leases = await make_place(1000), Leases(database)
    for tokens in (799, 1, 140, 10, 10, 39):
        await use(leases, place, tokens)
    assert await announced(owner, place) == [(80, 800, 1000), (95, 950, 1000)]
    await use(leases, place, 500)
    assert await announced(owner, place) == [(80, 800, 1000), (95, 950, 1000), (100, 1499, 1000)]


async def test_thresholds_that_are_passed_together_are_all_announced(
    database: Database, make_place: Make, owner: Owner
) -> None:
    place, leases = await make_place(1000), Leases(database)
    await use(leases, place, 1200)
    assert await announced(owner, place) == [(80, 1200, 1000), (95, 1200, 1000), (100, 1200, 1000)]


async def test_racing_settlements_announce_each_once(
    database: Database, make_place: Make, owner: Owner
) -> None:
    place, leases = await make_place(1000), Leases(database)
    started = await asyncio.gather(*(try_begin(leases, place.turn(), place.window, 10) for _ in range(12)))
    await asyncio.gather(
        *(leases.settle(each, Outcome.DONE, [charge(90)]) for each in started if isinstance(each, Lease))
    )
    assert [threshold for threshold, _, _ in await announced(owner, place)] == [80, 95, 100]


async def test_a_refusal_is_a_hundred_percent_whatever_is_used(
    database: Database, make_place: Make, owner: Owner
) -> None:
    place, leases = await make_place(1000), Leases(database)
    await use(leases, place, 500)
    assert isinstance(await try_begin(leases, place.turn(), place.window, 600), Exhausted)
    rows = await owner.fetch("select threshold, refused, used from quota_alerts order by threshold")
    assert [tuple(row) for row in rows] == [(80, True, 500), (95, True, 500), (100, True, 500)]
    await use(leases, place, 600)
    assert len(await announced(owner, place)) == 3


async def test_a_step_cut_short_is_no_refusal_and_a_cut_is(
    database: Database, make_place: Make, owner: Owner
) -> None:
    place, leases = await make_place(1000), Leases(database)
    turns = [await try_begin(leases, place.turn(), place.window, 10) for _ in range(2)]
    first, second = (each for each in turns if isinstance(each, Lease))
    nothing = Amount(0)
    assert (await leases.top_up(first, nothing, Amount(5000), nothing)).tokens == 980
    assert await announced(owner, place) == []  # all is leased, nothing is used
    assert (await leases.top_up(second, Amount(10), nothing, nothing)).tokens == 0
    assert await announced(owner, place) == [(80, 0, 1000), (95, 0, 1000), (100, 0, 1000)]


async def test_a_limit_lowered_below_use_is_announced_at_once(
    database: Database, make_place: Make, owner: Owner
) -> None:
    place, leases, limits = await make_place(1000), Leases(database), LimitStore(database)
    await use(leases, place, 500)
    assert await announced(owner, place) == []
    await limits.put_own(place.tenant_id, place.workspace_id, 520)
    assert await announced(owner, place) == [(80, 500, 520), (95, 500, 520)]
    await limits.put_own(place.tenant_id, place.workspace_id, 400)
    assert (await announced(owner, place))[2:] == [(100, 500, 400)]


async def test_a_raised_limit_is_announced_again_when_it_is_passed_again(
    database: Database, make_place: Make, owner: Owner
) -> None:
    place, leases, limits = await make_place(1000), Leases(database), LimitStore(database)
    await use(leases, place, 1000)
    await limits.put_own(place.tenant_id, place.workspace_id, 2000)
    assert len(await announced(owner, place)) == 3
    await use(leases, place, 600)
    assert (await announced(owner, place))[3:] == [(80, 1600, 2000)]
    # back and forth: the same thresholds of the same amount are told once
    for amount in (1000, 2000, 1000, 2000):
        await limits.put_own(place.tenant_id, place.workspace_id, amount)
    assert len(await announced(owner, place)) == 4


async def test_a_settlement_that_races_a_lowered_limit_is_not_missed(
    database: Database, make_place: Make, owner: Owner, dsn: str
) -> None:
    """The settlement has the old amount, the change has the old use: one of them must wait for the other."""
    place, leases, limits = await make_place(1000), Leases(database), LimitStore(database)
    await use(leases, place, 400)
    async with owner.transaction():
        await owner.execute(
            "update limit_windows set used = used + 200 where workspace_id = $1", place.workspace_id
        )
        lower = asyncio.create_task(limits.put_own(place.tenant_id, place.workspace_id, 620))
        done, _ = await asyncio.wait({lower}, timeout=0.3)
        assert not done
    await lower
    assert await announced(owner, place) == [(80, 600, 620), (95, 600, 620)]


async def test_own_thresholds_and_none_at_all(database: Database, make_place: Make, owner: Owner) -> None:
    place, leases = await make_place(1000), Leases(database)
    await owner.execute("update quota_limits set alert_at = '{50,50,90}'")
    await use(leases, place, 500)
    assert await announced(owner, place) == [(50, 500, 1000)]
    await owner.execute("update quota_limits set alert_at = '{}'")
    await use(leases, place, 600)
    assert len(await announced(owner, place)) == 1
    await owner.execute("update quota_limits set alert_at = '{60}'")
    assert (await announced(owner, place))[1:] == [(60, 1100, 1000)]


async def test_a_limit_of_nothing_says_only_that_it_is_used_up(
    database: Database, make_place: Make, owner: Owner
) -> None:
    place, leases = await make_place(0), Leases(database)
    assert isinstance(await try_begin(leases, place.turn(), place.window, 1), Exhausted)
    assert await announced(owner, place) == [(100, 0, 0)]


async def test_a_raise_that_ends_is_announced_without_a_turn(
    database: Database, make_place: Make, owner: Owner
) -> None:
    place, leases = await make_place(1000), Leases(database)
    await owner.execute(
        "update quota_limits set raised_by = 1000, raised_until = clock_timestamp() + interval '1 second'"
    )
    await use(leases, place, 970)
    assert await announced(owner, place) == []
    await asyncio.sleep(1.1)
    for _ in range(2):
        async with database.system() as system:
            await system.execute("select alert_ended_raises()")
    assert await announced(owner, place) == [(80, 970, 1000), (95, 970, 1000)]


async def test_a_members_alert_names_the_member_and_a_models_the_glob(
    database: Database, make_place: Make, owner: Owner
) -> None:
    place, leases, limits = await make_place(None), Leases(database), LimitStore(database)
    for scope, subject in (("member", "*"), ("model", "Mock/gpt-*")):
        await owner.execute(
            "insert into quota_limits (tenant_id, limit_id, workspace_id, scope, subject, period, amount)"
            " values ($1, $2, $3, $4, $5, 'day', 100)",
            place.tenant_id,
            uuid4(),
            place.workspace_id,
            scope,
            subject,
        )
    found = await limits.list(place.tenant_id, place.workspace_id)
    lease = await begin_under(leases, found, place.turn(), Amount(1))
    assert isinstance(lease, Lease)
    await leases.settle(lease, Outcome.DONE, [charge(85)])
    rows = await owner.fetch(
        "select scope, limit_subject, period, threshold from quota_alerts order by scope"
    )
    assert [tuple(row) for row in rows] == [
        ("member", str(place.user_id), "day", 80),
        ("model", "Mock/gpt-*", "day", 80),
    ]
