"""The ledger's partitions: made ahead, dropped after the retention, and looked into alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.metering.upkeep import LedgerUpkeep, month_after
from geko_proxy.metering.usage_listing import PAGE
from geko_proxy.storage.database import Database

if TYPE_CHECKING:
    from tests.metering.conftest import Place

    MakePlace = Callable[[int | None], Awaitable[Place]]

INSERT = """
insert into usage_events (tenant_id, turn_id, run_id, seq, workspace_id, user_id, kind, endpoint, model, provider,
    input_tokens, output_tokens, cached_tokens, reasoning_tokens, estimated, source, occurred_at)
values ($1, $2, 'r', 1, $3, $4, 'chat', 'Mock', 'm', 'p', 5, 0, 0, 0, false, 'provider', $5)"""


async def partitions(dsn: str) -> set[str]:
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch(
        "select inhrelid::regclass::text as name from pg_inherits where inhparent = 'usage_events'::regclass"
    )
    await connection.close()
    return {row["name"] for row in rows}


async def use(database: Database, place: Place, *at: datetime) -> None:
    async with database.tenant(place.tenant_id) as scope:
        for each in at:
            await scope.execute(INSERT, uuid4(), place.workspace_id, place.user_id, each)


async def test_partitions_are_made_ahead_by_any_number_of_instances(
    database: Database, dsn: str, make_place: MakePlace
) -> None:
    place, march = await make_place(None), date(2031, 3, 31)
    await use(database, place, datetime(2031, 4, 3, tzinfo=UTC))  # before there is a partition for it
    instances = [LedgerUpkeep(database, today=lambda: march) for _ in range(3)]
    made = [name for names, _ in await asyncio.gather(*(each.run() for each in instances)) for name in names]
    assert sorted(made) == ["usage_events_203103", "usage_events_203104", "usage_events_203105"]
    assert set(made) <= await partitions(dsn)
    assert await instances[0].run() == ([], [])
    owner = await asyncpg.connect(dsn)
    assert await owner.fetchval("select count(*) from usage_events_203104") == 1
    await owner.close()


async def test_what_is_older_than_the_retention_goes_and_the_sums_stay(
    database: Database, dsn: str, make_place: MakePlace
) -> None:
    place = await make_place(None)
    for month in (1, 2, 3, 4):
        await LedgerUpkeep(database, today=lambda month=month: date(2031, month, 5)).run()  # type: ignore[misc]
        await use(database, place, datetime(2031, month, 20, tzinfo=UTC))
    async with database.tenant(place.tenant_id) as scope:
        await scope.execute(
            "insert into usage_days (tenant_id, workspace_id, day, user_id, key_id, endpoint, model, kind, tokens)"
            " values ($1, $2, '2031-01-20', $3, $3, 'Mock', 'm', 'chat', 5)",
            place.workspace_id,
            place.user_id,
        )
    april = LedgerUpkeep(database, retention_months=2, today=lambda: date(2031, 4, 30))
    _, dropped = await april.run()
    assert [name for name in dropped if name.startswith("usage_events_2031")] == ["usage_events_203101"]
    left = await partitions(dsn)
    assert {
        "usage_events_203102",
        "usage_events_203103",
        "usage_events_203104",
        "usage_events_default",
    } <= left
    async with database.tenant(place.tenant_id) as scope:
        assert await scope.fetch_value("select count(*) from usage_events where tenant_id = $1") == 3
        assert await scope.fetch_value("select sum(tokens)::int from usage_days where tenant_id = $1") == 5


async def test_zero_keeps_everything(database: Database) -> None:
    await LedgerUpkeep(database, today=lambda: date(2001, 1, 1)).run()
    assert (await LedgerUpkeep(database, today=lambda: date(2031, 1, 1)).run())[1] == []


async def test_a_locked_ledger_is_tried_again_later_and_does_not_block_others(
    database: Database, dsn: str
) -> None:
    owner = await asyncpg.connect(dsn)
    async with owner.transaction():
        await owner.execute("lock table usage_events in access exclusive mode")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await LedgerUpkeep(database, today=lambda: date(2031, 3, 1)).run()
    await owner.close()
    assert (await LedgerUpkeep(database, today=lambda: date(2031, 3, 1)).run())[0]


async def test_it_runs_at_the_start(database: Database, dsn: str) -> None:
    upkeep = LedgerUpkeep(database, today=lambda: date(2032, 7, 1))
    await upkeep.start()
    while "usage_events_203209" not in await partitions(dsn):  # another process's work in the product
        await asyncio.sleep(0.02)
    await upkeep.stop()


async def test_a_month_of_the_ledger_is_read_from_its_partition_alone(
    database: Database, make_place: MakePlace
) -> None:
    place = await make_place(None)
    for month in (1, 2, 3):
        await LedgerUpkeep(database, today=lambda month=month: date(2031, month, 5)).run()  # type: ignore[misc]
    start, end = datetime(2031, 2, 1, tzinfo=UTC), datetime(2031, 3, 1, tzinfo=UTC)
    arguments = (place.workspace_id, start, end, None, None, None, None, end, uuid4(), "", 0, 100)
    async with database.tenant(place.tenant_id) as scope:
        plan = await scope.fetch_value(f"explain (format json) {PAGE}", *arguments)
    assert tables(msgspec.json.decode(plan)) == {"usage_events_203102"}


def tables(plan: Any) -> set[str]:
    """Every table that a plan reads."""
    if isinstance(plan, list):
        return set().union(*(tables(each) for each in plan))
    if not isinstance(plan, dict):
        return set()
    own = {str(plan["Relation Name"])} if "Relation Name" in plan else set()
    return own.union(*(tables(each) for each in plan.values() if isinstance(each, dict | list)))


@given(st.dates(date(1971, 1, 1), date(9000, 1, 1)), st.integers(-800, 800))
def test_months_are_counted_over_years(day: date, months: int) -> None:
    found = month_after(day, months)
    assert found.day == 1
    assert (found.year - day.year) * 12 + found.month - day.month == months
