"""Calls on the LLM side against PostgreSQL: who pays, once, and how a message learns of its calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from geko_proxy.metering.call_leases import CallLeases, CallOrigin, Parent, TurnCalls
from geko_proxy.metering.leases import BY_CALLS, Amount, Busy, Exhausted, Lease, Leases
from geko_proxy.metering.ledger import Charge, Ledger
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.storage.database import Database
from tests.metering.conftest import Place
from tests.metering.leasing import NOTHING, base_holds, charge, recover, try_begin, window_of

if TYPE_CHECKING:
    from tests.metering.leasing import Owner

MakePlace = Callable[[int | None], Awaitable[Place]]


@pytest.fixture
async def owner(dsn: str) -> AsyncIterator[Owner]:
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


@pytest.fixture
def leases(database: Database) -> Leases:
    return Leases(database)


@pytest.fixture
def calls(database: Database, leases: Leases) -> CallLeases:
    return CallLeases(database, leases)


async def message(leases: Leases, place: Place, need: int = 10, allowance: int = 90) -> Lease:
    begun = await try_begin(leases, place.turn("c1"), place.window, need, allowance)
    assert isinstance(begun, Lease)
    return begun


async def begin(
    calls: CallLeases,
    place: Place,
    need: int,
    kind: str = "chat",
    parent: Parent | None = None,
    allowance: int = 0,
) -> Lease | Exhausted:
    turn = place.turn()
    origin = CallOrigin(kind, "c1", "m1", parent)
    return await calls.begin(turn, base_holds(turn, place.window), Amount(need), Amount(allowance), origin)


async def leased(calls: CallLeases, place: Place, need: int, **given: Any) -> Lease:
    begun = await begin(calls, place, need, **given)
    assert isinstance(begun, Lease)
    return begun


async def books(owner: Owner, place: Place) -> list[tuple[str, int, str | None]]:
    rows = await owner.fetch(
        "select kind, tokens, conversation_id from usage_events where workspace_id = $1 order by kind, tokens",
        place.workspace_id,
    )
    return [tuple(row) for row in rows]


async def test_an_answer_is_charged_by_its_calls_alone_and_counts_as_one_turn(
    leases: Leases, calls: CallLeases, make_place: MakePlace, owner: Owner
) -> None:
    place = await make_place(1000)
    asked = await message(leases, place)
    window = (place.workspace_id, place.window.start)
    assert await window_of(owner, *window) == (0, 100)
    parent = await calls.find_parent(place.tenant_id, place.workspace_id, place.user_id, "c1")
    assert parent == Parent(asked.turn_id, None, None)

    first = await leased(calls, place, 30, parent=parent)
    assert await window_of(owner, *window) == (0, 30)  # the message's lease is the call's now
    title = await leased(calls, place, 7, kind="title", parent=parent)
    second = await leased(calls, place, 40, parent=parent)
    more = await leases.top_up(asked, Amount(500), Amount(100), Amount(600))
    assert (more.tokens, more.room) == (600, BY_CALLS)  # the stream may go on: it is not what is charged
    assert await window_of(owner, *window) == (0, 77)

    await leases.settle(first, Outcome.DONE, [replace(charge(33), endpoint="Other")])
    await leases.settle(asked, Outcome.DONE, [charge(70)])
    await leases.settle(second, Outcome.DONE, [charge(44)])
    await leases.settle(title, Outcome.DONE, [replace(charge(9), kind="title")])
    assert await window_of(owner, *window) == (86, 0)
    assert await books(owner, place) == [("chat", 33, "c1"), ("chat", 44, "c1"), ("title", 9, "c1")]
    days = await owner.fetchrow(
        "select sum(turns) as turns, sum(calls) as calls, sum(tokens) as tokens,"
        " sum(tokens) filter (where endpoint = 'Other') as others from usage_days where workspace_id = $1",
        place.workspace_id,
    )
    assert days is not None
    assert tuple(days) == (1, 3, 86, 33)
    seen = await owner.fetchrow(
        "select seen_tokens, seen_estimated, metered_by_calls from turns where turn_id = $1", asked.turn_id
    )
    assert seen is not None
    assert tuple(seen) == (70, False, True)


async def test_an_answer_whose_calls_do_not_come_through_is_charged_by_its_stream(
    leases: Leases, calls: CallLeases, make_place: MakePlace, owner: Owner
) -> None:
    place = await make_place(1000)
    asked = await message(leases, place)
    parent = await calls.find_parent(place.tenant_id, place.workspace_id, place.user_id, "c1")
    title = await leased(calls, place, 7, kind="title", parent=parent)
    assert (await calls.of_turn(place.tenant_id, asked.turn_id)) == TurnCalls()
    await leases.settle(title, Outcome.DONE, [replace(charge(9), kind="title")])
    await leases.settle(asked, Outcome.DONE, [charge(70)])
    assert await window_of(owner, place.workspace_id, place.window.start) == (79, 0)


async def test_the_first_call_gets_what_its_message_holds_also_when_nothing_else_is_left(
    leases: Leases, calls: CallLeases, make_place: MakePlace, owner: Owner
) -> None:
    place = await make_place(100)
    await message(leases, place, need=100, allowance=0)
    stranger = await begin(calls, place, 50)
    assert isinstance(stranger, Exhausted)
    parent = await calls.find_parent(place.tenant_id, place.workspace_id, place.user_id, "c1")
    first = await leased(calls, place, 60, parent=parent, allowance=100)
    assert first.granted.tokens == 100
    refused = await begin(calls, place, 1, parent=parent)
    assert isinstance(refused, Exhausted)
    assert (refused.leased, refused.limit) == (100, 100)
    assert await window_of(owner, place.workspace_id, place.window.start) == (0, 100)


async def test_a_cut_call_tells_its_message(leases: Leases, calls: CallLeases, make_place: MakePlace) -> None:
    place = await make_place(100)
    asked = await message(leases, place)
    parent = await calls.find_parent(place.tenant_id, place.workspace_id, place.user_id, "c1")
    assert parent is not None
    call = await leased(calls, place, 100, parent=parent)
    more = await leases.top_up(call, Amount(5), Amount(10), Amount(105))
    assert (more.tokens, more.limit_id) == (0, place.workspace_id)
    await calls.note_cut(place.tenant_id, parent.turn_id, more.limit_id)
    assert await calls.of_turn(place.tenant_id, asked.turn_id) == TurnCalls(True, place.workspace_id)


async def test_a_call_waits_until_the_new_conversation_has_its_name(
    leases: Leases, calls: CallLeases, make_place: MakePlace
) -> None:
    place = await make_place(None)
    begun = await try_begin(leases, place.turn(None), place.window, 10)
    assert isinstance(begun, Lease)
    who = (place.tenant_id, place.workspace_id, place.user_id)
    looking = asyncio.create_task(calls.find_parent(*who, "new-one"))
    await asyncio.sleep(0.1)
    assert not looking.done()
    await leases.set_conversation(begun, "new-one")
    assert await looking == Parent(begun.turn_id, None, None)
    assert await calls.find_parent(*who, "another") is None  # nothing is unnamed any more
    assert await calls.find_parent(place.tenant_id, place.workspace_id, place.tenant_id, "new-one") is None


async def test_calls_of_the_agents_api_find_their_requests_in_order(
    leases: Leases, calls: CallLeases, make_place: MakePlace
) -> None:
    place = await make_place(None)
    begun = [await try_begin(leases, place.turn(None), place.window, 10) for _ in range(2)]
    assert isinstance(begun[0], Lease)
    assert isinstance(begun[1], Lease)
    who = (place.tenant_id, place.workspace_id, place.user_id)
    found = [await calls.find_parent(*who, f"unknown{n}", f"chatcmpl-{n}") for n in (1, 2, 1, 3)]
    ids = [None if each is None else each.turn_id for each in found]
    assert ids == [begun[0].turn_id, begun[1].turn_id, begun[0].turn_id, None]


async def test_a_title_that_comes_late_finds_its_message_and_calls_block_no_conversation(
    leases: Leases, calls: CallLeases, make_place: MakePlace
) -> None:
    place = await make_place(None)
    asked = await message(leases, place)
    parent = await calls.find_parent(place.tenant_id, place.workspace_id, place.user_id, "c1")
    await leased(calls, place, 5, parent=parent)
    await leases.settle(asked, Outcome.DONE, [])
    assert await calls.find_parent(place.tenant_id, place.workspace_id, place.user_id, "c1") == parent
    again = await try_begin(leases, place.turn("c1"), place.window, 10)
    assert not isinstance(again, Busy)  # a call still runs there


async def test_calls_of_a_dead_instance_are_charged_what_they_had_used(
    leases: Leases, calls: CallLeases, make_place: MakePlace, owner: Owner
) -> None:
    place = await make_place(None)
    asked = await message(leases, place)
    parent = await calls.find_parent(place.tenant_id, place.workspace_id, place.user_id, "c1")
    call = await leased(calls, place, 30, parent=parent)
    await leases.heartbeat(place.tenant_id, {call.turn_id: Amount(45), asked.turn_id: Amount(44)})
    await recover(Leases(leases._db), datetime.now(UTC) + timedelta(minutes=5))
    assert await window_of(owner, place.workspace_id, place.window.start) == (45, 0)
    late = Charge("m1", 1, "chat", "gpt-4o", "Mock", 30, 20)
    await leases.settle(call, Outcome.DONE, [late])  # it was not dead after all
    assert await window_of(owner, place.workspace_id, place.window.start) == (50, 0)


async def test_what_runs_now_is_not_counted_twice(
    leases: Leases, calls: CallLeases, make_place: MakePlace, owner: Owner
) -> None:
    place = await make_place(None)
    asked = await message(leases, place)
    parent = await calls.find_parent(place.tenant_id, place.workspace_id, place.user_id, "c1")
    call = await leased(calls, place, 30, parent=parent)
    await leases.top_up(call, NOTHING, Amount(10), Amount(35))
    await leases.top_up(asked, NOTHING, Amount(10), Amount(34))
    now = await owner.fetchrow(
        "select turns, consumed from usage_now($1, $2)", place.tenant_id, place.workspace_id
    )
    assert now is not None
    assert tuple(now) == (1, 35)


async def test_recovery_knows_which_stored_answers_other_messages_have_paid(
    leases: Leases, calls: CallLeases, make_place: MakePlace, database: Database
) -> None:
    place = await make_place(None)
    since = datetime.now(UTC) - timedelta(hours=1)
    who = (place.tenant_id, place.workspace_id, place.user_id, "c1")
    first = await message(leases, place)
    parent = await calls.find_parent(*who)
    for kind, tokens in (("chat", 77), ("title", 9)):  # both name the answer "m1"
        call = await leased(calls, place, 1, kind=kind, parent=parent)
        await leases.settle(call, Outcome.DONE, [replace(charge(tokens), kind=kind, run_id="m1")])
    await leases.settle(first, Outcome.DONE, [charge(70)])  # as LibreChat stores it with the answer
    second = await message(leases, place)
    late = await leased(calls, place, 1, kind="memory", parent=await calls.find_parent(*who))
    await leases.settle(late, Outcome.DONE, [replace(charge(5), kind="memory", run_id="m2")])
    paid = await Ledger(database).other_runs(place.tenant_id, place.workspace_id, "c1", second.turn_id, since)
    assert paid == {"m1": 70}  # and its own answer, "m2", is paid by nobody yet
    assert (
        await Ledger(database).other_runs(place.tenant_id, place.workspace_id, "c1", first.turn_id, since)
        == {}
    )


async def test_a_title_of_a_dead_instance_stays_a_title(
    leases: Leases, calls: CallLeases, make_place: MakePlace, owner: Owner
) -> None:
    place = await make_place(None)
    title = await leased(calls, place, 7, kind="title")
    await leases.heartbeat(place.tenant_id, {title.turn_id: Amount(12)})
    await recover(Leases(leases._db), datetime.now(UTC) + timedelta(minutes=5))
    assert await books(owner, place) == [("title", 12, "c1")]
    await leases.settle(title, Outcome.DONE, [replace(charge(9), kind="title")])
    assert await books(owner, place) == [("title", -12, "c1"), ("title", 9, "c1"), ("title", 12, "c1")]
