"""Reports of usage."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import date, timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from geko_proxy.metering.leases import Lease, Leases, NewTurn
from geko_proxy.metering.ledger import Charge, Source
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.metering.reports import MemberUsage, ModelUsage, Reports
from geko_proxy.metering.windows import Window, month_window
from geko_proxy.storage.database import Database
from tests.metering.leasing import try_begin

if TYPE_CHECKING:
    from tests.metering.conftest import Place

    MakePlace = Callable[[int | None], Awaitable[Place]]


def days(window: Window) -> tuple[date, date]:
    """The days of a window of a tenant in UTC."""
    return window.start.date(), (window.end - timedelta(days=1)).date()


async def use(leases: Leases, place: Place, user_id: UUID, *charges: Charge) -> None:
    turn = NewTurn(place.tenant_id, place.workspace_id, user_id, None, "Mock", "m")
    lease = await try_begin(leases, turn, place.window, 1, 0)
    assert isinstance(lease, Lease)
    await leases.settle(lease, Outcome.DONE, charges)


async def test_usage_in_total_by_member_and_by_model(database: Database, make_place: MakePlace) -> None:
    place, leases, other = await make_place(1000), Leases(database), uuid4()
    await use(leases, place, place.user_id, Charge("a", 1, "chat", "big", "p", 90, 10))
    guess = Charge("b", -1, "chat", "small", "", 20, 5, estimated=True, source=Source.ESTIMATE)
    await use(leases, place, place.user_id, Charge("b", 1, "chat", "big", "p", 45, 5), guess)
    await use(leases, place, other, Charge("c", 1, "chat", "small", "p", 190, 10))
    await try_begin(leases, place.turn(), place.window, 30, 0)
    report = await Reports(database).usage(
        place.tenant_id, place.workspace_id, place.window, *days(place.window)
    )
    assert (report.used, report.leased, report.limit, report.remaining) == (375, 30, 1000, 595)
    assert report.by_member == (MemberUsage(other, 200, 1), MemberUsage(place.user_id, 175, 2))
    assert report.by_model == (ModelUsage("small", 225, 1, 25), ModelUsage("big", 150, 2, 0))
    assert report.used == sum(member.tokens for member in report.by_member)


async def test_nothing_used_is_zeros(database: Database, make_place: MakePlace) -> None:
    place = await make_place(None)
    report = await Reports(database).usage(
        place.tenant_id, place.workspace_id, place.window, *days(place.window)
    )
    assert (report.used, report.leased, report.limit, report.remaining) == (0, 0, None, None)
    assert (report.by_member, report.by_model) == ((), ())


async def test_another_month_and_another_tenant_see_nothing(
    database: Database, make_place: MakePlace
) -> None:
    place, leases = await make_place(10), Leases(database)
    await use(leases, place, place.user_id, Charge("a", 1, "chat", "m", "p", 90, 10))
    reports = Reports(database)
    this = (place.window, *days(place.window))
    assert (await reports.usage(place.tenant_id, place.workspace_id, *this)).remaining == 0
    past = month_window(place.window.start - timedelta(days=1), "UTC")
    assert (await reports.usage(place.tenant_id, place.workspace_id, past, *days(past))).by_model == ()
    stranger = await make_place(10)
    assert (await reports.usage(stranger.tenant_id, place.workspace_id, *this)).used == 0
    assert (await reports.usage(stranger.tenant_id, place.workspace_id, *this)).by_model == ()
