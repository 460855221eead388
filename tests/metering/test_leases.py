"""Leases against a real PostgreSQL, with many turns at once."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from unittest.mock import patch
from uuid import uuid4

import asyncpg
import pytest

from geko_proxy.errors import StoreError
from geko_proxy.metering import leases as module
from geko_proxy.metering.leases import Busy, Exhausted, Lease, Leases, NewTurn
from geko_proxy.metering.ledger import Ledger, Source
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.metering.limits import LimitStore
from geko_proxy.metering.windows import Window, month_window
from geko_proxy.storage.database import Database
from tests.metering.leasing import base_holds, charge, heartbeat, recover, top_up, try_begin

if TYPE_CHECKING:
    from tests.metering.conftest import Place

    MakePlace = Callable[[int | None], Awaitable[Place]]

GONE_S = -1.0  # a lease that has expired when it is made


@pytest.fixture
def leases(database: Database) -> Leases:
    return Leases(database)


@pytest.fixture
async def owner(dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


async def begin(leases: Leases, place: Place, need: int, allowance: int = 0, **turn: Any) -> Lease:
    outcome = await try_begin(leases, place.turn(**turn), place.window, need, allowance)
    assert isinstance(outcome, Lease)
    return outcome


async def window_of(database: Database, place: Place) -> tuple[int, int]:
    """Used and leased tokens of the place's window."""
    async with database.tenant(place.tenant_id) as scope:
        row = await scope.fetch_row(
            "select used, leased from limit_windows where tenant_id = $1 and limit_id = $2 and starts_at = $3",
            place.workspace_id,
            place.window.start,
        )
    assert row is not None
    return row["used"], row["leased"]


async def state_of(database: Database, lease: Lease) -> str:
    async with database.tenant(lease.tenant_id) as scope:
        state: str = await scope.fetch_value(
            "select coalesce(outcome, state) from turns where tenant_id = $1 and turn_id = $2", lease.turn_id
        )
    return state


async def test_a_turn_leases_uses_and_gives_the_rest_back(
    database: Database, leases: Leases, make_place: MakePlace
) -> None:
    place = await make_place(1000)
    lease = await begin(leases, place, 100, 50)
    assert lease.granted.tokens == 150
    assert await top_up(leases, lease, 200, 140) == 200
    assert await window_of(database, place) == (0, 350)
    await leases.settle(lease, Outcome.DONE, [charge(120), charge(30, seq=2)])
    assert await window_of(database, place) == (150, 0)
    assert await state_of(database, lease) == "done"
    entries = await Ledger(database).of_turn(place.tenant_id, lease.turn_id)
    assert sorted(entry.charge.tokens for entry in entries) == [30, 120]


@pytest.mark.parametrize(
    ("need", "allowance", "granted"),
    [(100, 0, 100), (90, 50, 100), (0, 0, 1), (100, 10**12, 100), (5, -3, 5)],
)
async def test_the_allowance_is_granted_as_far_as_it_fits(
    leases: Leases, make_place: MakePlace, need: int, allowance: int, granted: int
) -> None:
    assert (await begin(leases, await make_place(100), need, allowance)).granted.tokens == granted


async def test_a_turn_that_does_not_fit_is_refused_and_leaves_no_trace(
    database: Database, leases: Leases, make_place: MakePlace
) -> None:
    place = await make_place(100)
    await begin(leases, place, 60)
    turn = place.turn("c")
    assert await try_begin(leases, turn, place.window, 41, 0) == Exhausted(
        0, 60, 100, place.window.end, place.workspace_id
    )
    assert await window_of(database, place) == (0, 60)
    assert isinstance(await try_begin(leases, turn, place.window, 40, 0), Lease)


async def test_without_a_limit_everything_fits(
    database: Database, leases: Leases, make_place: MakePlace
) -> None:
    place = await make_place(None)
    lease = await begin(leases, place, 10**9, 10**9)
    assert await top_up(leases, lease, 10**9, 0) == 10**9
    await leases.settle(lease, Outcome.DONE, [charge(10**10)])
    assert await window_of(database, place) == (10**10, 0)


async def test_a_top_up_takes_what_is_left_and_then_nothing(leases: Leases, make_place: MakePlace) -> None:
    lease = await begin(leases, await make_place(100), 60)
    assert await top_up(leases, lease, 30, 60) == 30
    assert await top_up(leases, lease, 30, 90) == 10
    assert await top_up(leases, lease, 30, 100) == 0


async def test_a_changed_limit_holds_from_the_next_step_on(
    database: Database, leases: Leases, make_place: MakePlace
) -> None:
    place = await make_place(100)
    lease = await begin(leases, place, 100)
    quotas = LimitStore(database)
    await quotas.put_own(place.tenant_id, place.workspace_id, 120)
    assert await top_up(leases, lease, 50, 100) == 20
    await quotas.put_own(place.tenant_id, place.workspace_id, 10)
    assert await top_up(leases, lease, 50, 120) == 0
    await quotas.put_own(place.tenant_id, place.workspace_id, None)
    assert await top_up(leases, lease, 50, 120) == 50


async def test_one_running_turn_for_each_conversation(leases: Leases, make_place: MakePlace) -> None:
    place = await make_place(1000)
    lease = await begin(leases, place, 10, conversation_id="c")
    assert await try_begin(leases, place.turn("c"), place.window, 10, 0) == Busy("c")
    assert isinstance(await try_begin(leases, place.turn("d"), place.window, 10, 0), Lease)
    assert isinstance(await try_begin(leases, place.turn(), place.window, 10, 0), Lease)
    assert isinstance(await try_begin(leases, place.turn(), place.window, 10, 0), Lease)
    await leases.release(lease)
    assert isinstance(await try_begin(leases, place.turn("c"), place.window, 10, 0), Lease)


async def test_another_users_word_for_a_conversation_does_not_block_it(
    leases: Leases, make_place: MakePlace
) -> None:
    place = await make_place(1000)
    await begin(leases, place, 10, conversation_id="c")
    stranger = NewTurn(place.tenant_id, place.workspace_id, uuid4(), "c", "Mock", "m")
    assert isinstance(await try_begin(leases, stranger, place.window, 10, 0), Lease)


async def test_of_many_posts_into_one_conversation_one_begins(
    database: Database, leases: Leases, make_place: MakePlace
) -> None:
    place = await make_place(None)
    outcomes = await asyncio.gather(
        *(try_begin(leases, place.turn("c"), place.window, 10, 0) for _ in range(20))
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Busy"] * 19 + ["Lease"]
    assert await window_of(database, place) == (0, 10)


async def test_a_new_chat_gets_its_conversation_later(
    leases: Leases, make_place: MakePlace, caplog: pytest.LogCaptureFixture
) -> None:
    place = await make_place(None)
    first, second = [await begin(leases, place, 10) for _ in range(2)]
    await leases.set_conversation(first, "c")
    assert isinstance(await try_begin(leases, place.turn("c"), place.window, 10, 0), Busy)
    with caplog.at_level(logging.WARNING):
        await leases.set_conversation(second, "c")
    assert "another running turn" in caplog.text


@pytest.mark.parametrize("name", ["", "x" * 201, "a\x00b"])
def test_an_impossible_conversation_id_is_a_value_error(name: str) -> None:
    with pytest.raises(ValueError, match="conversation"):
        NewTurn(uuid4(), uuid4(), uuid4(), name, "Mock", "m")


async def test_fifty_racing_turns_never_exceed_the_limit(
    database: Database, leases: Leases, make_place: MakePlace
) -> None:
    limit = 1000
    place = await make_place(limit)
    other = Leases(database)  # as a second instance: nothing is shared in the process
    granted: dict[Lease, int] = {}
    chance = random.Random(7)

    async def run(n: int) -> None:
        mine = (leases, other)[n % 2]
        lease = await try_begin(
            mine, place.turn(f"c{n}"), place.window, chance.randint(1, 30), chance.randint(0, 30)
        )
        if not isinstance(lease, Lease):
            return
        granted[lease] = lease.granted.tokens
        for _ in range(4):
            granted[lease] += await top_up(mine, lease, chance.randint(1, 40), granted[lease])
        used, leased = await window_of(database, place)
        assert used + leased <= limit
        await mine.settle(lease, Outcome.DONE, [charge(granted[lease])] if granted[lease] > 1 else [])

    await asyncio.gather(*(run(n) for n in range(50)))
    used, leased = await window_of(database, place)
    assert leased == 0
    assert used == sum(tokens for tokens in granted.values() if tokens > 1)
    assert 0.9 * limit <= used <= limit


async def test_racing_leases_share_the_quota_to_the_last_token(
    database: Database, leases: Leases, make_place: MakePlace
) -> None:
    place = await make_place(777)
    held = [await begin(leases, place, 1, conversation_id=f"c{n}") for n in range(50)]
    for _ in range(4):
        await asyncio.gather(*(top_up(leases, lease, 7, 0) for lease in held))
    assert await window_of(database, place) == (0, 777)


async def test_settling_twice_charges_once(database: Database, leases: Leases, make_place: MakePlace) -> None:
    place = await make_place(1000)
    lease = await begin(leases, place, 100)
    await asyncio.gather(*(leases.settle(lease, Outcome.DONE, [charge(40)]) for _ in range(5)))
    await leases.settle(lease, Outcome.FAILED, [charge(99, seq=2)])
    assert await window_of(database, place) == (40, 0)
    assert await state_of(database, lease) == "done"


async def test_one_call_named_twice_is_charged_once(
    database: Database, leases: Leases, make_place: MakePlace
) -> None:
    place = await make_place(1000)
    lease = await begin(leases, place, 100)
    await leases.settle(lease, Outcome.DONE, [charge(40), charge(40)])
    assert await window_of(database, place) == (40, 0)


async def test_the_real_number_is_charged_even_beyond_the_limit(
    database: Database, leases: Leases, make_place: MakePlace
) -> None:
    place = await make_place(100)
    lease = await begin(leases, place, 100)
    await leases.settle(lease, Outcome.CUT, [charge(130)])
    assert await window_of(database, place) == (130, 0)
    assert await try_begin(leases, place.turn(), place.window, 1, 0) == Exhausted(
        130, 0, 100, place.window.end, place.workspace_id
    )


async def test_a_refused_turn_costs_nothing(
    database: Database, leases: Leases, make_place: MakePlace
) -> None:
    place = await make_place(100)
    lease = await begin(leases, place, 60)
    await leases.release(lease)
    assert await window_of(database, place) == (0, 0)
    assert await state_of(database, lease) == "refused"


async def test_a_vanished_instances_turn_is_charged_by_its_last_heartbeat(
    database: Database, leases: Leases, make_place: MakePlace
) -> None:
    place, elsewhere = await make_place(1000), await make_place(1000)
    dead = Leases(database, ttl_s=GONE_S)
    lost = await begin(dead, place, 100, conversation_id="c")
    assert await heartbeat(dead, lost, 70)
    other = await begin(dead, elsewhere, 100)
    alive = await begin(leases, place, 10)
    assert await recover(leases) == 2
    assert await recover(leases) == 0
    assert await window_of(database, place) == (70, 10)
    assert await window_of(database, elsewhere) == (0, 0)
    assert [await state_of(database, lease) for lease in (lost, other, alive)] == ["lost", "lost", "admitted"]
    (entry,) = await Ledger(database).of_turn(place.tenant_id, lost.turn_id)
    assert (entry.charge.tokens, entry.charge.source, entry.charge.estimated) == (70, Source.RECOVERED, True)
    assert not await heartbeat(leases, lost, 80)
    assert await top_up(leases, lost, 10, 80) == 0


async def test_recovery_by_a_given_time_and_in_many_batches(
    database: Database, leases: Leases, make_place: MakePlace
) -> None:
    place = await make_place(None)
    for _ in range(7):
        await begin(leases, place, 10)
    now = datetime.now(UTC)
    assert await leases.adopt(now) == []
    later = now + timedelta(minutes=2)
    assert [len(await leases.adopt(later, most=3)) for _ in range(4)] == [3, 3, 1, 0]
    assert await recover(leases, later + timedelta(minutes=1)) == 7
    assert await window_of(database, place) == (0, 0)


async def test_two_instances_recover_a_turn_once(
    database: Database, leases: Leases, make_place: MakePlace
) -> None:
    place = await make_place(None)
    dead = Leases(database, ttl_s=GONE_S)
    for _ in range(10):
        await heartbeat(dead, await begin(dead, place, 10), 5)
    found = await asyncio.gather(*(recover(leases) for _ in range(4)))
    assert sum(found) == 10
    assert await window_of(database, place) == (50, 0)


async def test_a_turn_taken_for_lost_is_corrected_when_it_settles(
    database: Database, leases: Leases, make_place: MakePlace
) -> None:
    place = await make_place(1000)
    slow = Leases(database, ttl_s=GONE_S)
    lease = await begin(slow, place, 100)
    await heartbeat(slow, lease, 70)
    assert await recover(leases) == 1
    for _ in range(2):
        await slow.settle(lease, Outcome.DONE, [charge(90)])
    assert await window_of(database, place) == (90, 0)
    entries = await Ledger(database).of_turn(place.tenant_id, lease.turn_id)
    assert sorted(entry.charge.tokens for entry in entries) == [-70, 70, 90]
    assert await state_of(database, lease) == "done"


async def test_settling_and_recovering_at_once_charges_once(
    database: Database, leases: Leases, make_place: MakePlace
) -> None:
    place = await make_place(None)
    slow = Leases(database, ttl_s=GONE_S)
    for n in range(20):
        lease = await begin(slow, place, 10)
        await heartbeat(slow, lease, 7)
        await asyncio.gather(slow.settle(lease, Outcome.DONE, [charge(9)]), recover(leases))
        assert await window_of(database, place) == (9 * (n + 1), 0)


async def test_a_window_opens_with_what_was_used_in_its_time(
    database: Database, leases: Leases, make_place: MakePlace
) -> None:
    """A tenant that changes its time zone does not get a second quota."""
    place = await make_place(1000)
    await leases.settle(await begin(leases, place, 100), Outcome.DONE, [charge(600)])
    moved = Window(place.window.start - timedelta(hours=2), place.window.end - timedelta(hours=2))
    outcome = await try_begin(leases, place.turn(), moved, 401, 0)
    assert isinstance(outcome, Exhausted)
    assert outcome.used == 600


async def test_a_new_month_begins_at_nothing(
    database: Database, leases: Leases, make_place: MakePlace
) -> None:
    place = await make_place(100)
    await leases.settle(await begin(leases, place, 100), Outcome.DONE, [charge(100)])
    following = month_window(place.window.end, "UTC")
    outcome = await try_begin(leases, place.turn(), following, 100, 0)
    assert isinstance(outcome, Lease)
    assert outcome.granted.tokens == 100


async def test_an_answer_over_midnight_counts_where_it_began(
    database: Database, leases: Leases, make_place: MakePlace
) -> None:
    place = await make_place(100)
    past = month_window(place.window.start - timedelta(days=1), "UTC")
    turn = replace(place.turn(), started_at=past.end - timedelta(seconds=1))
    lease = await try_begin(leases, turn, past, 10)
    assert isinstance(lease, Lease)
    await leases.settle(lease, Outcome.DONE, [charge(10)])
    (entry,) = await Ledger(database).of_turn(place.tenant_id, lease.turn_id)
    assert past.start <= entry.occurred_at < past.end


async def test_a_window_that_is_gone_is_opened_again(
    leases: Leases, make_place: MakePlace, owner: asyncpg.Connection[asyncpg.Record]
) -> None:
    place = await make_place(100)
    await leases.open_windows(place.tenant_id, place.workspace_id, base_holds(place.turn(), place.window))
    await owner.execute("delete from limit_windows")  # as a crash of the server may do it
    assert isinstance(await try_begin(leases, place.turn(), place.window, 10, 0), Lease)


@pytest.mark.parametrize("error", [asyncpg.SerializationError, asyncpg.DeadlockDetectedError])
async def test_a_lock_cycle_is_tried_again_and_not_for_ever(
    database: Database, make_place: MakePlace, error: type[Exception]
) -> None:
    place = await make_place(100)
    leases = Leases(database)
    real, failures = database.call, [3]

    async def failing(sql: str, *args: object) -> Any:
        failures[0] -= 1
        if failures[0] >= 0:
            raise error("try again")
        return await real(sql, *args)

    with patch.object(module, "BACKOFF_S", 0), patch.object(database, "call", failing):
        assert isinstance(await try_begin(leases, place.turn(), place.window, 10, 0), Lease)
        failures[0] = 10**6
        with pytest.raises(StoreError, match="transactions"):
            await try_begin(leases, place.turn(), place.window, 10, 0)


async def test_everything_at_once_keeps_the_books_balanced(
    database: Database, leases: Leases, make_place: MakePlace
) -> None:
    """Begins, top-ups, settlements and recoveries of the same rows at once."""
    place = await make_place(10_000)
    slow = Leases(database, ttl_s=GONE_S)

    async def run(n: int) -> None:
        lease = await try_begin(slow, place.turn(f"c{n % 5}"), place.window, 5, 5)
        if isinstance(lease, Lease):
            await asyncio.gather(
                top_up(slow, lease, 5, 5),
                heartbeat(slow, lease, 6),
                recover(leases),
                top_up(slow, lease, 5, 7),
            )
            await slow.settle(lease, Outcome.DONE, [charge(8)])

    await asyncio.gather(*(run(n) for n in range(40)))
    async with database.tenant(place.tenant_id) as scope:
        booked = await scope.fetch_value(
            "select coalesce(sum(tokens), 0)::bigint from usage_events where tenant_id = $1"
        )
    assert await window_of(database, place) == (booked, 0)
    assert booked % 8 == 0


@pytest.mark.parametrize("end", ["settled", "recovered"])
async def test_an_answer_across_a_change_of_time_zone_counts_in_both_windows(
    database: Database, make_place: MakePlace, end: str
) -> None:
    place = await make_place(1000)
    leases = Leases(database, ttl_s=GONE_S if end == "recovered" else 60)
    lease = await begin(leases, place, 100)
    now = datetime.now(UTC)
    other = Window(now - timedelta(days=3), now + timedelta(days=3))
    await leases.open_windows(place.tenant_id, place.workspace_id, base_holds(place.turn(), other))
    if end == "settled":
        await leases.settle(lease, Outcome.DONE, [charge(70)])
    else:
        assert await top_up(leases, lease, 0, 70) is not None
        assert await recover(leases) == 1
    async with database.tenant(place.tenant_id) as scope:
        rows = await scope.fetch(
            "select starts_at, used, leased from limit_windows where tenant_id = $1 and workspace_id = $2",
            place.workspace_id,
        )
    assert {(row["used"], row["leased"]) for row in rows} == {(70, 0)}
    assert len(rows) == 2


async def test_a_message_leases_what_its_conversation_held_also_at_another_instance(
    database: Database, leases: Leases, make_place: MakePlace
) -> None:
    place = await make_place(1000)
    first = await begin(leases, place, 10)
    await leases.set_conversation(first, "c")
    await leases.settle(first, Outcome.DONE, [charge(40), charge(300, seq=2)])
    elsewhere = Leases(database)
    lease = await begin(elsewhere, place, 20, 50, conversation_id="c")
    assert (lease.context, lease.granted.tokens) == (300, 370)
    assert (await begin(elsewhere, place, 20, conversation_id="d")).context == 0
    stranger = NewTurn(place.tenant_id, place.workspace_id, uuid4(), "c", "Mock", "m")
    outcome = await try_begin(elsewhere, stranger, place.window, 5)
    assert isinstance(outcome, Lease)
    assert outcome.context == 0
    await elsewhere.release(lease)
    assert await try_begin(leases, place.turn("c"), place.window, 400) == Exhausted(
        340, 25, 1000, place.window.end, place.workspace_id
    )
