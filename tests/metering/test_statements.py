"""The walls in the database itself: tenants, and a ledger that only grows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
import pytest

from geko_proxy.metering import statements
from geko_proxy.metering.leases import Lease, Leases, start_of
from geko_proxy.metering.ledger import Charge
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.storage.database import Database
from tests.metering.leasing import try_begin

if TYPE_CHECKING:
    from tests.metering.conftest import Place

    MakePlace = Callable[[int | None], Awaitable[Place]]

TABLES = ("quota_limits", "limit_windows", "turns", "leases", "usage_events", "usage_days")


async def used(database: Database, place: Place) -> Lease:
    """A place with a row in each table; the lease of a turn that runs."""
    leases = Leases(database)
    settled = await try_begin(leases, place.turn(), place.window, 10, 0)
    running = await try_begin(leases, place.turn(), place.window, 10, 0)
    assert isinstance(settled, Lease)
    assert isinstance(running, Lease)
    await leases.settle(settled, Outcome.DONE, [Charge("r", 1, "chat", "m", "p", 5, 5)])
    return running


@pytest.mark.parametrize("table", TABLES)
async def test_row_level_security_hides_other_tenants(
    database: Database, make_place: MakePlace, table: str
) -> None:
    place = await make_place(100)
    await used(database, place)
    async with database.tenant(place.tenant_id) as scope:
        assert await scope.fetch_value(f"select count(*) from {table} where tenant_id = $1") > 0
    async with database.tenant(uuid4()) as scope:
        assert await scope.fetch_value(f"select count(*) from {table} where $1::uuid is not null") == 0
    async with database.system() as system:
        assert await system.fetch_value(f"select count(*) from {table}") == 0


@pytest.mark.parametrize(
    "sql",
    [
        "update usage_events set model = 'x' where tenant_id = $1",
        "delete from usage_events where tenant_id = $1",
    ],
)
async def test_the_ledger_is_append_only(database: Database, make_place: MakePlace, sql: str) -> None:
    place = await make_place(100)
    await used(database, place)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with database.tenant(place.tenant_id) as scope:
            await scope.execute(sql)


async def test_another_tenant_cannot_touch_a_lease(database: Database, make_place: MakePlace) -> None:
    place, stranger = await make_place(100), await make_place(100)
    lease = await used(database, place)
    async with database.tenant(stranger.tenant_id) as scope:
        assert await scope.fetch_row(statements.TOP_UP, lease.turn_id, 0, 10, 0, 0, 0, 0, 60.0) is None
        beat = await scope.fetch_row(statements.HEARTBEAT, [lease.turn_id], [0], [0], None, 60.0)
        assert beat is not None
        assert beat["turn_ids"] == []
        settled = (lease.turn_id, "done", "[]", False, *start_of(lease), *lease.call)
        assert await scope.fetch_row(statements.SETTLE, *settled) is None
        taken = (lease.turn_id, *start_of(lease), 1, 0, 0, 0, None, 60.0, *lease.call)
        assert await scope.fetch_value(statements.RESTORE, *taken) is False
        assert await scope.fetch_row(statements.HOLD, lease.turn_id, [], [], []) is None


async def test_only_the_taking_over_of_expired_leases_sees_all_tenants(
    database: Database, make_place: MakePlace
) -> None:
    place = await make_place(100)
    lease = await used(database, place)
    async with database.system() as system:
        assert await system.fetch_value("select count(*) from leases") == 0
    adopted = await Leases(database).adopt(place.window.end.replace(year=9000))
    assert [each.lease.turn_id for each in adopted] == [lease.turn_id]
