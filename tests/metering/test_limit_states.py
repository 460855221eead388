"""How full limits are now, and who sees which."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg

from geko_proxy.metering.leases import Amount, Lease, Leases, NewTurn
from geko_proxy.metering.ledger import Charge
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.metering.limit_states import LimitState, LimitStates, Viewer, balance_of
from geko_proxy.metering.limits import Limit, LimitScope, LimitStore, Unit
from geko_proxy.metering.windows import Period, Window, month_window
from geko_proxy.storage.database import Database
from tests.metering.leasing import begin_under

if TYPE_CHECKING:
    from tests.metering.conftest import Place

    MakePlace = Callable[[int | None], Awaitable[Place]]

INSERT = """
insert into quota_limits (tenant_id, limit_id, workspace_id, scope, subject, period, unit, amount, raised_by,
    raised_until)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, now() + interval '1 hour')"""


async def add(
    dsn: str,
    place: Place,
    scope: str,
    subject: str,
    amount: int | None,
    *,
    period: str = "month",
    unit: str = "tokens",
    raised_by: int = 0,
) -> UUID:
    owner, limit_id = await asyncpg.connect(dsn), uuid4()
    row = (place.tenant_id, limit_id, place.workspace_id, scope, subject, period, unit, amount, raised_by)
    await owner.execute(INSERT, *row)
    await owner.close()
    return limit_id


async def use(database: Database, place: Place, user_id: UUID, tokens: int, *, running: bool = False) -> None:
    limits = await LimitStore(database).list(place.tenant_id, place.workspace_id)
    turn = NewTurn(place.tenant_id, place.workspace_id, user_id, None, "Mock", "gpt-4o")
    leases = Leases(database)
    lease = await begin_under(leases, limits, turn, Amount(tokens, tokens * 1000))
    assert isinstance(lease, Lease)
    if not running:
        charge = Charge("r", 1, "chat", "gpt-4o", "p", tokens - 1, 1, cost=tokens * 1000)
        await leases.settle(lease, Outcome.DONE, [charge])


async def states(database: Database, place: Place, viewer: Viewer) -> list[LimitState]:
    reader = LimitStates(database, LimitStore(database))
    return await reader.states(place.tenant_id, place.workspace_id, "UTC", viewer)


def seen(found: list[LimitState]) -> set[tuple[str, str, int, int, int | None]]:
    return {(each.limit.scope, each.subject, each.used, each.leased, each.remaining) for each in found}


async def test_everybody_sees_what_concerns_them(database: Database, dsn: str, make_place: MakePlace) -> None:
    place, other = await make_place(1000), uuid4()
    await add(dsn, place, "member", "*", 200, raised_by=50)
    await add(dsn, place, "member", str(other), 300, period="day")
    await add(dsn, place, "model", "Mock/*", 500, period="week")
    await add(dsn, place, "key", str(uuid4()), 400)
    await add(dsn, place, "workspace", "", None, unit="cost")  # none at all
    await use(database, place, place.user_id, 30)
    await use(database, place, other, 100, running=True)
    mine, theirs = str(place.user_id), str(other)
    shared = {("workspace", "", 30, 100, 870), ("model", "", 30, 100, 370)}
    own = seen(await states(database, place, Viewer(place.user_id, everything=False)))
    assert own == shared | {("member", mine, 30, 0, 220)}
    all_of_it = seen(await states(database, place, Viewer(place.user_id, everything=True)))
    assert all_of_it == own | {
        ("member", theirs, 0, 100, 150),
        ("member", theirs, 0, 100, 200),
        ("key", "", 0, 0, 400),
    }


async def test_own_keys_are_seen(database: Database, dsn: str, make_place: MakePlace) -> None:
    place, key = await make_place(None), uuid4()
    await add(dsn, place, "key", str(key), 400)
    assert seen(await states(database, place, Viewer(uuid4(), everything=False))) == set()
    viewer = Viewer(place.user_id, everything=False, key_ids=frozenset({key}))
    assert seen(await states(database, place, viewer)) == {("key", "", 0, 0, 400)}


async def test_a_new_limit_counts_what_was_used_before_any_turn_holds_it(
    database: Database, dsn: str, make_place: MakePlace
) -> None:
    place = await make_place(None)
    await use(database, place, place.user_id, 30)
    await use(database, place, uuid4(), 12)
    await add(dsn, place, "workspace", "", 100, period="day")
    await add(dsn, place, "member", "*", 100, period="day")
    await add(dsn, place, "model", "Mock/gpt-*", 50_000, period="day", unit="cost")
    await add(dsn, place, "model", "Other/*", 50, period="day")
    found = await states(database, place, Viewer(place.user_id, everything=False))
    assert [each.used for each in found] == [42, 30, 42_000, 0]
    await use(database, place, place.user_id, 3)  # opens the windows
    found = await states(database, place, Viewer(place.user_id, everything=False))
    assert [each.used for each in found] == [45, 33, 45_000, 0]


def state(remaining: int, scope: LimitScope, unit: Unit = Unit.TOKENS) -> LimitState:
    limit = Limit(uuid4(), uuid4(), scope, "x", Period.MONTH, unit=unit, amount=remaining)
    return LimitState(limit, "", month_window(datetime.now(UTC), "UTC"), 0, 0, remaining)


def test_the_balance_is_what_stops_first() -> None:
    large, small = state(900, LimitScope.WORKSPACE), state(10, LimitScope.MEMBER)
    money, spent = (state(amount, LimitScope.WORKSPACE, Unit.COST) for amount in (5, 0))
    model = state(1, LimitScope.MODEL)
    assert balance_of([large, model, small]) is small
    assert balance_of([large, money]) is large  # they can't be compared
    assert balance_of([large, small, spent]) is spent
    assert balance_of([money, model]) is money
    assert balance_of([model]) is None


def test_nothing_is_left_when_more_is_used() -> None:
    window = Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))
    limit = state(5, LimitScope.WORKSPACE).limit
    assert LimitState(limit, "", window, 90, 20, 100).remaining == 0
    assert LimitState(limit, "", window, 90, 20, None).remaining is None
