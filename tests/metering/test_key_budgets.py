"""Budgets of API keys beside the workspace's quota, against a real PostgreSQL with many turns at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg
import pytest

from geko_proxy.metering import leases as module
from geko_proxy.metering.leases import Busy, Exhausted, Lease, Leases, NewTurn
from geko_proxy.metering.ledger import Charge
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.metering.windows import Window
from geko_proxy.storage.database import Database
from tests.metering.leasing import heartbeat, recover, top_up, try_begin, window_of

if TYPE_CHECKING:
    from tests.metering.conftest import Place

    MakePlace = Callable[[int | None], Awaitable[Place]]
    Owner = asyncpg.Connection[asyncpg.Record]

GONE_S = -1.0  # a lease that has expired when it is made


@pytest.fixture
def leases(database: Database) -> Leases:
    return Leases(database)


@pytest.fixture
async def owner(dsn: str) -> AsyncIterator[Owner]:
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


async def make_key(owner: Owner, place: Place, token_limit: int | None) -> UUID:
    key_id = uuid4()
    await owner.execute(
        "insert into users (tenant_id, user_id, email, name) values ($1, $2, $3, 'U') on conflict do nothing",
        place.tenant_id,
        place.user_id,
        f"{place.user_id}@example.org",
    )
    await owner.execute(
        "insert into api_keys (tenant_id, key_id, workspace_id, user_id, name, secret_hash, scopes)"
        " values ($1, $2, $3, $4, 'K', $5, '{chat}')",
        place.tenant_id,
        key_id,
        place.workspace_id,
        place.user_id,
        bytes(32),
    )
    await owner.execute(
        "insert into quota_limits (tenant_id, limit_id, workspace_id, scope, subject, amount)"
        " values ($1, $2, $3, 'key', $2::uuid::text, $4)",
        place.tenant_id,
        key_id,
        place.workspace_id,
        token_limit,
    )
    return key_id


def turn(place: Place, key_id: UUID | None, conversation_id: str | None = None) -> NewTurn:
    ids = (place.tenant_id, place.workspace_id, place.user_id)
    return NewTurn(*ids, conversation_id, "Mock", "gpt-4o", key_id=key_id)


async def begin(leases: Leases, place: Place, key_id: UUID | None, need: int, allowance: int = 0) -> Lease:
    outcome = await try_begin(leases, turn(place, key_id), place.window, need, allowance)
    assert isinstance(outcome, Lease)
    return outcome


async def quota(owner: Owner, place: Place) -> tuple[int, int]:
    """Used and leased tokens of the workspace."""
    return await window_of(owner, place.workspace_id, place.window.start)


async def budget(owner: Owner, place: Place, key_id: UUID) -> tuple[int, int]:
    """Used and leased tokens of the key."""
    return await window_of(owner, key_id, place.window.start)


def charge(tokens: int, seq: int = 1) -> Charge:
    return Charge("run", seq, "chat", "gpt-4o", "openAI", tokens - 1, 1)


async def test_a_turn_is_booked_for_the_workspace_and_for_the_key(
    leases: Leases, make_place: MakePlace, owner: Owner
) -> None:
    place = await make_place(1000)
    key_id = await make_key(owner, place, 500)
    lease = await begin(leases, place, key_id, 100, 50)
    assert lease.granted.tokens == 150
    assert await top_up(leases, lease, 100, 140) == 100
    assert await quota(owner, place) == await budget(owner, place, key_id) == (0, 250)
    without = await begin(leases, place, None, 10)
    await leases.settle(lease, Outcome.DONE, [charge(120)])
    await leases.settle(without, Outcome.DONE, [charge(10)])
    assert await quota(owner, place) == (130, 0)
    assert await budget(owner, place, key_id) == (120, 0)
    rows = await owner.fetch("select e.key_id, t.key_id from usage_events e join turns t using (turn_id)")
    assert {tuple(row) for row in rows} == {(key_id, key_id), (None, None)}


@pytest.mark.parametrize(
    ("workspace", "key", "by_key"),
    [(100, 40, True), (40, 100, False), (40, 40, False), (None, 40, True), (40, None, False)],
)
async def test_the_narrower_limit_refuses_and_is_named(
    leases: Leases,
    make_place: MakePlace,
    owner: Owner,
    workspace: int | None,
    key: int | None,
    by_key: bool,
) -> None:
    place = await make_place(workspace)
    key_id = await make_key(owner, place, key)
    held = await begin(leases, place, key_id, 30)
    refused = await try_begin(leases, turn(place, key_id, "c"), place.window, 11, 0)
    assert refused == Exhausted(0, 30, 40, place.window.end, key_id if by_key else place.workspace_id)
    assert await quota(owner, place) == await budget(owner, place, key_id) == (0, 30)
    assert await top_up(leases, held, 30, 30) == 10
    assert await top_up(leases, held, 30, 40) == 0


async def test_a_used_up_key_stops_nobody_else(leases: Leases, make_place: MakePlace, owner: Owner) -> None:
    place = await make_place(1000)
    spent, other = [await make_key(owner, place, 20) for _ in range(2)]
    await leases.settle(await begin(leases, place, spent, 20), Outcome.DONE, [charge(20)])
    assert isinstance(await try_begin(leases, turn(place, spent), place.window, 1, 0), Exhausted)
    assert (await begin(leases, place, other, 20)).granted.tokens == 20
    assert (await begin(leases, place, None, 500)).granted.tokens == 500


async def test_without_any_limit_everything_fits(leases: Leases, make_place: MakePlace, owner: Owner) -> None:
    place = await make_place(None)
    lease = await begin(leases, place, await make_key(owner, place, None), 10**9, 10**9)
    assert await top_up(leases, lease, 10**9, 0) == 10**9


async def test_a_changed_budget_holds_for_running_turns(
    leases: Leases, make_place: MakePlace, owner: Owner
) -> None:
    place = await make_place(None)
    key_id = await make_key(owner, place, None)
    lease = await begin(leases, place, key_id, 100)
    for limit, granted in ((120, 20), (10, 0), (None, 50)):
        await owner.execute("update quota_limits set amount = $1 where limit_id = $2", limit, key_id)
        assert await top_up(leases, lease, 50, 100) == granted


async def test_racing_turns_of_two_instances_exceed_neither_limit(
    database: Database, leases: Leases, make_place: MakePlace, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turns with three keys and without one; a lock cycle would be an error here, it is not tried again."""
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    place, other, chance = await make_place(1500), Leases(database), random.Random(11)
    limits: dict[UUID | None, int] = {await make_key(owner, place, n): n for n in (100, 400, 5000)}
    keys = [*limits, None]
    granted: dict[UUID | None, int] = dict.fromkeys(keys, 0)

    async def run(n: int) -> None:
        mine, key_id = (leases, other)[n % 2], keys[n % 4]
        step = chance.randint(1, 30)
        lease = await try_begin(mine, turn(place, key_id, f"c{n}"), place.window, step, step)
        if not isinstance(lease, Lease):
            return
        mine_granted = lease.granted.tokens
        for _ in range(4):
            mine_granted += await top_up(mine, lease, chance.randint(1, 40), mine_granted)
        async with database.tenant(place.tenant_id) as scope:
            over = await scope.fetch_value(
                "select count(*) from limit_windows w join quota_limits l using (tenant_id, limit_id)"
                " where w.tenant_id = $1 and w.used + w.leased > l.amount"
            )
        assert over == 0
        granted[key_id] += mine_granted
        await mine.settle(lease, Outcome.DONE, [charge(mine_granted)])

    await asyncio.gather(*(run(n) for n in range(120)))
    used, leased = await quota(owner, place)
    assert leased == 0
    assert used == sum(granted.values())
    assert used <= 1500
    for key_id, limit in limits.items():
        assert key_id is not None
        assert await budget(owner, place, key_id) == (granted[key_id], 0)
        assert granted[key_id] <= limit
    assert granted[keys[0]] >= 50  # far more was asked for than fits


async def test_racing_top_ups_share_a_key_to_the_last_token(
    leases: Leases, make_place: MakePlace, owner: Owner
) -> None:
    place = await make_place(10_000)
    key_id = await make_key(owner, place, 333)
    held = [await begin(leases, place, key_id, 1) for _ in range(30)]
    for _ in range(3):
        await asyncio.gather(*(top_up(leases, lease, 7, 0) for lease in held))
    assert await budget(owner, place, key_id) == await quota(owner, place) == (0, 333)


async def test_a_vanished_turn_is_charged_to_its_key_and_corrected(
    database: Database, leases: Leases, make_place: MakePlace, owner: Owner
) -> None:
    place = await make_place(1000)
    key_id = await make_key(owner, place, 100)
    dead = Leases(database, ttl_s=GONE_S)
    lost = await begin(dead, place, key_id, 100)
    await heartbeat(dead, lost, 70)
    assert await recover(leases) == 1
    lease = await begin(leases, place, key_id, 30)
    assert await budget(owner, place, key_id) == await quota(owner, place) == (70, 30)
    for _ in range(2):
        await dead.settle(lost, Outcome.DONE, [charge(60)])
    await leases.release(lease)
    assert await budget(owner, place, key_id) == await quota(owner, place) == (60, 0)
    rows = await owner.fetch("select tokens, key_id from usage_events order by tokens")
    assert [tuple(row) for row in rows] == [(-70, key_id), (60, key_id), (70, key_id)]


async def test_everything_at_once_keeps_both_books_balanced(
    database: Database, leases: Leases, make_place: MakePlace, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begins, top-ups, settlements and recoveries of the same rows at once, and no lock cycle."""
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    place, slow = await make_place(10_000), Leases(database, ttl_s=GONE_S)
    key_id = await make_key(owner, place, 5000)

    async def run(n: int) -> None:
        lease = await try_begin(slow, turn(place, key_id, f"c{n % 5}"), place.window, 5, 5)
        if isinstance(lease, Lease):
            await asyncio.gather(top_up(slow, lease, 5, 5), recover(leases), top_up(slow, lease, 5, 7))
            await slow.settle(lease, Outcome.DONE, [charge(8)])

    await asyncio.gather(*(run(n) for n in range(40)))
    booked = await owner.fetchval("select coalesce(sum(tokens), 0)::bigint from usage_events")
    assert await quota(owner, place) == await budget(owner, place, key_id) == (booked, 0)
    assert booked % 8 == 0


async def test_a_key_window_opens_with_what_the_key_used_in_its_time(
    leases: Leases, make_place: MakePlace, owner: Owner
) -> None:
    place = await make_place(None)
    key_id = await make_key(owner, place, 100)
    await leases.settle(await begin(leases, place, key_id, 60), Outcome.DONE, [charge(60)])
    await leases.settle(await begin(leases, place, None, 60), Outcome.DONE, [charge(90)])
    moved = Window(place.window.start - timedelta(hours=2), place.window.end - timedelta(hours=2))
    refused = await try_begin(leases, turn(place, key_id), moved, 41, 0)
    assert isinstance(refused, Exhausted)
    assert (refused.used, refused.limit_id) == (60, key_id)


async def test_one_conversation_at_a_time_with_a_key_too(
    leases: Leases, make_place: MakePlace, owner: Owner
) -> None:
    place = await make_place(1000)
    key_id = await make_key(owner, place, 500)
    outcomes = await asyncio.gather(
        *(try_begin(leases, turn(place, key_id, "c"), place.window, 10, 0) for _ in range(10))
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Busy"] * 9 + ["Lease"]
    assert Busy("c") in outcomes
    assert await quota(owner, place) == await budget(owner, place, key_id) == (0, 10)
