"""Many turns, limits of all kinds and two instances at once: windows hold what the ledger says, to the token."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg
import pytest

from geko_proxy.metering import leases as module
from geko_proxy.metering.leases import Amount, Lease, Leases, NewTurn
from geko_proxy.metering.ledger import Charge
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.metering.limits import Limit, LimitScope, LimitStore, Unit, arrays, holds_of
from geko_proxy.metering.windows import Period
from geko_proxy.storage.database import Database
from tests.metering.leasing import recover
from tests.metering.test_key_budgets import make_key

if TYPE_CHECKING:
    from tests.metering.conftest import Place

    MakePlace = Callable[[int | None], Awaitable[Place]]
    Owner = asyncpg.Connection[asyncpg.Record]

ZONE = "America/St_Johns"
MODELS = ["gpt-4o", "meta/llama-3", "meta/gpt_x"]
COST = 3  # billionths a token
TURNS = 160


@pytest.fixture
async def owner(dsn: str) -> AsyncIterator[Owner]:
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


async def add(owner: Owner, place: Place, limit: Limit) -> None:
    await owner.execute(
        "insert into quota_limits (tenant_id, limit_id, workspace_id, scope, subject, period, start_day, unit, amount,"
        " grace) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        place.tenant_id,
        limit.limit_id,
        limit.workspace_id,
        limit.scope,
        limit.subject,
        limit.period,
        limit.start_day,
        limit.unit,
        limit.amount,
        limit.grace,
    )


def limit_of(place: Place, scope: LimitScope, subject: str, **terms: object) -> Limit:
    return replace(Limit(uuid4(), place.workspace_id, scope, subject), **terms)  # type: ignore[arg-type]


def first_limits(place: Place, users: list[UUID]) -> list[Limit]:
    return [
        limit_of(place, LimitScope.MEMBER, "*", period=Period.DAY, amount=6000, grace=300),
        limit_of(place, LimitScope.MEMBER, str(users[0]), period=Period.WEEK, start_day=3, amount=3000),
        limit_of(place, LimitScope.MODEL, "Mock/gpt*", unit=Unit.COST, amount=5000 * COST),
        limit_of(place, LimitScope.WORKSPACE, "", period=Period.DAY, unit=Unit.COST, amount=11_000 * COST),
    ]


def later_limits(place: Place, users: list[UUID]) -> list[Limit]:
    return [
        limit_of(place, LimitScope.MODEL, "*/meta/*", period=Period.DAY),
        limit_of(place, LimitScope.MODEL, "Mock/gpt_x", period=Period.DAY),  # matches nothing
        limit_of(place, LimitScope.MODEL, "*/gpt*", period=Period.WEEK, start_day=7),  # not meta/gpt_x
        limit_of(place, LimitScope.MEMBER, "*", unit=Unit.COST, start_day=23),
        limit_of(place, LimitScope.WORKSPACE, "", period=Period.WEEK, unit=Unit.COST, amount=10**9),
        limit_of(place, LimitScope.MEMBER, str(users[1]), start_day=9, amount=2000),
    ]


@dataclass
class Storm:
    """What happens: turns that begin, take, give back, hold more, settle, vanish."""

    place: Place
    limits: LimitStore
    instances: list[Leases]
    dead: Leases
    users: list[UUID]
    keys: list[UUID | None]
    chance: random.Random
    begun: int = 0
    refused: int = 0

    async def turn(self, n: int) -> None:
        chance, place = self.chance, self.place
        await asyncio.sleep(chance.random() * 0.7)
        leases = self.dead if n % 8 == 0 else self.instances[n % 2]
        new = NewTurn(
            place.tenant_id,
            place.workspace_id,
            chance.choice(self.users),
            f"c{n}",
            "Mock",
            chance.choice(MODELS),
            key_id=chance.choice(self.keys),
        )
        need = chance.randint(1, 60)
        holds = holds_of(await self.list(), new.actor, new.started_at, ZONE)
        lease = await leases.begin(new, holds, Amount(need, need * COST), Amount(50, 50 * COST))
        if not isinstance(lease, Lease):
            self.refused += 1
            return
        self.begun += 1
        await self.run(leases, lease)

    async def run(self, leases: Leases, lease: Lease) -> None:
        chance, granted = self.chance, lease.granted
        for _ in range(chance.randint(1, 5)):
            await asyncio.sleep(chance.random() * 0.1)
            step = chance.choice(["top up", "top up", "hold", "give back", "beat"])
            if step == "top up":
                more = chance.randint(1, 90)
                got = await leases.top_up(lease, Amount(0), Amount(more, more * COST), granted)
                granted = Amount(granted.tokens + got.tokens, granted.cost + got.cost)
            elif step == "hold":
                turn = lease.turn
                await leases.hold(lease, holds_of(await self.list(), turn.actor, turn.started_at, ZONE))
            elif step == "give back":
                less = await leases.give_back(lease, Amount(granted.tokens // 2, granted.cost // 2))
                granted = Amount(granted.tokens - less.tokens, granted.cost - less.cost)
            else:
                await leases.heartbeat(lease.tenant_id, {lease.turn_id: granted})
        if leases is self.dead and chance.random() < 0.7:
            return  # an instance that has vanished; some of its turns come back
        await leases.settle(lease, Outcome.DONE, self.charges(min(granted.tokens, granted.cost // COST)))

    def charges(self, tokens: int) -> list[Charge]:
        halves = (tokens // 2, tokens - tokens // 2)
        return [
            Charge("run", seq, "chat", "m", "p", n, 0, cost=n * COST) for seq, n in enumerate(halves, 1) if n
        ]

    async def list(self) -> tuple[Limit, ...]:
        return await self.limits.list(self.place.tenant_id, self.place.workspace_id)


async def test_windows_agree_with_the_ledger(
    database: Database, make_place: MakePlace, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock cycle would be an error here: it is not tried again."""
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    place, chance = await make_place(12_000), random.Random(5)
    users = [place.user_id, uuid4(), uuid4()]
    keys = [await make_key(owner, place, 1500), await make_key(owner, place, None), None]
    for limit in first_limits(place, users):
        await add(owner, place, limit)
    # without a cache: what the others have made is seen at once
    storm = Storm(
        place,
        LimitStore(database, ttl_s=0),
        [Leases(database), Leases(database)],
        Leases(database, ttl_s=-1.0),
        users,
        keys,
        chance,
    )
    new = later_limits(place, users)

    async def change() -> None:
        for limit in new:
            await asyncio.sleep(0.1)
            await add(owner, place, limit)
        await owner.execute("delete from quota_limits where limit_id = $1", new[-2].limit_id)
        await owner.execute("update quota_limits set amount = 50 where limit_id = $1", place.workspace_id)

    async def adopt() -> None:
        for _ in range(8):
            await asyncio.sleep(0.1)
            await recover(storm.instances[0])

    await asyncio.gather(change(), adopt(), *(storm.turn(n) for n in range(TURNS)))
    await recover(storm.instances[1])
    assert storm.begun > 20
    assert storm.refused > 5
    await check(owner, place)


async def check(owner: Owner, place: Place) -> None:
    """Every window against what the ledger says, read in Python."""
    events = await owner.fetch(
        "select e.tokens, e.cost, e.occurred_at, e.user_id, e.key_id, t.endpoint, t.model"
        " from usage_events e join turns t using (tenant_id, turn_id)"
    )
    limits = {row["limit_id"]: Limit.from_row(row) for row in await owner.fetch("select * from quota_limits")}
    windows = await owner.fetch("select * from limit_windows")
    assert len(windows) > 15
    assert events
    for window in windows:
        assert window["leased"] == 0, window
        limit = limits.get(window["limit_id"])
        if limit is None:
            continue
        used = sum(
            event["cost" if limit.unit is Unit.COST else "tokens"]
            for event in events
            if window["starts_at"] <= event["occurred_at"] < window["ends_at"]
            and counts(limit, window["subject"], event, place)
        )
        assert window["used"] == used, (limit, window, used)
    days = await owner.fetchrow("select sum(tokens) as tokens, sum(cost) as cost from usage_days")
    assert days is not None
    assert days["tokens"] == sum(event["tokens"] for event in events)
    assert days["cost"] == sum(event["cost"] for event in events)
    assert await owner.fetchval("select count(*) from leases") == 0


def counts(limit: Limit, subject: str, event: asyncpg.Record, place: Place) -> bool:
    turn = NewTurn(
        place.tenant_id,
        place.workspace_id,
        event["user_id"],
        None,
        event["endpoint"],
        event["model"],
        key_id=event["key_id"],
    )
    return limit.concerns(turn.actor) and subject in ("", str(event["user_id"]))


async def test_a_turn_that_ends_before_it_holds_a_new_limit_is_charged_to_it(
    database: Database, make_place: MakePlace, owner: Owner
) -> None:
    place, leases = await make_place(None), Leases(database)
    old = place.turn("old")
    running = await leases.begin(old, holds_of([], old.actor, old.started_at, "UTC"), Amount(10), Amount(0))
    limit = limit_of(place, LimitScope.MEMBER, "*", period=Period.DAY)
    await add(owner, place, limit)
    new = place.turn("new")
    holds = holds_of([limit], new.actor, new.started_at, "UTC")
    other = await leases.begin(new, holds, Amount(10), Amount(0))
    assert isinstance(running, Lease)
    assert isinstance(other, Lease)
    charge = Charge("run", 1, "chat", "m", "p", 7, 0)
    await leases.settle(running, Outcome.DONE, [charge])
    await leases.settle(other, Outcome.DONE, [replace(charge, input_tokens=5)])
    row = await owner.fetchrow("select used, leased from limit_windows where limit_id = $1", limit.limit_id)
    assert row is not None
    assert tuple(row) == (12, 0)


async def test_a_window_that_ends_later_in_another_time_zone_goes_on(
    database: Database, make_place: MakePlace, owner: Owner
) -> None:
    """London's March ends an hour before UTC's, and begins with it."""
    place, leases = await make_place(1000), Leases(database)

    async def use(at: datetime, zone: str) -> None:
        turn = replace(place.turn(), started_at=at)
        lease = await leases.begin(turn, holds_of([], turn.actor, at, zone), Amount(100), Amount(0))
        assert isinstance(lease, Lease)
        await leases.settle(lease, Outcome.DONE, [Charge("run", 1, "chat", "m", "p", 10, 0)])

    await use(datetime(2026, 3, 31, 22, 30, tzinfo=UTC), "Europe/London")
    await use(datetime(2026, 3, 31, 23, 30, tzinfo=UTC), "Europe/London")
    await use(datetime(2026, 3, 31, 23, 40, tzinfo=UTC), "UTC")
    rows = await owner.fetch("select used, leased, starts_at, ends_at from limit_windows order by starts_at")
    assert [tuple(row) for row in rows] == [
        (30, 0, datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)),
        (20, 0, datetime(2026, 3, 31, 23, tzinfo=UTC), datetime(2026, 4, 30, 23, tzinfo=UTC)),
    ]


async def test_what_was_leased_beyond_a_lowered_limit_comes_back_and_no_more(
    database: Database, make_place: MakePlace, owner: Owner
) -> None:
    place, leases = await make_place(1000), Leases(database)
    first, second = place.turn("a"), place.turn("b")
    held = []
    for turn in (first, second):
        holds = holds_of([], turn.actor, turn.started_at, "UTC")
        lease = await leases.begin(turn, holds, Amount(100), Amount(300))
        assert isinstance(lease, Lease)
        held.append(lease)
    assert await leases.give_back(held[0], Amount(300)) == Amount(0)  # nothing is over
    await owner.execute("update quota_limits set amount = 600, grace = 50")
    assert await leases.give_back(held[0], Amount(100)) == Amount(100)
    assert await leases.give_back(held[1], Amount(300)) == Amount(50)
    assert await leases.give_back(held[0], Amount(300)) == Amount(0)
    assert (await leases.top_up(held[0], Amount(1), Amount(0), Amount(300))).tokens == 0
    await leases.settle(held[0], Outcome.DONE, ())
    await leases.settle(held[1], Outcome.DONE, ())
    assert await leases.give_back(held[1], Amount(300)) == Amount(0)
    row = await owner.fetchrow("select used, leased from limit_windows")
    assert row is not None
    assert tuple(row) == (0, 0)


async def test_a_limit_that_is_raised_while_a_turn_is_refused_makes_it_try_again(
    database: Database, make_place: MakePlace, owner: Owner
) -> None:
    """Found without room, and then with room: neither a refusal without a limit nor a turn without a lease."""
    place, leases = await make_place(1000), Leases(database)
    turn = place.turn()
    holds = holds_of([], turn.actor, turn.started_at, "UTC")
    await leases.open_windows(place.tenant_id, place.workspace_id, holds)
    keys = (place.tenant_id, place.workspace_id, *arrays(holds))
    with pytest.raises(asyncpg.SerializationError):
        await owner.fetch("select * from refuse_lease($1, $2, $3, $4, $5, 1000, 0)", *keys)
    (row,) = await owner.fetch("select * from refuse_lease($1, $2, $3, $4, $5, 1001, 0)", *keys)
    assert (row["limit_id"], row["limited_to"]) == (place.workspace_id, 1000)


async def test_the_ledger_is_read_once_for_a_window(
    database: Database, make_place: MakePlace, owner: Owner
) -> None:
    """A process that has just started must not keep charges waiting for windows that are there."""
    place = await make_place(1000)
    turn = place.turn()
    holds = holds_of([], turn.actor, turn.started_at, "UTC")
    await Leases(database).open_windows(place.tenant_id, place.workspace_id, holds)
    async with owner.transaction():
        await owner.execute("select lock_charges($1, false)", place.workspace_id)  # somebody is charged
        await asyncio.wait_for(
            Leases(database).open_windows(place.tenant_id, place.workspace_id, holds), timeout=30
        )
