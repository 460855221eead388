"""Invalidation between instances, also after a lost connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from geko_proxy.errors import StoreError
from geko_proxy.storage.database import Database
from geko_proxy.storage.invalidation import Invalidation

LISTENERS = "select pid from pg_stat_activity where datname = current_database() and query ilike 'listen%'"


@pytest.fixture
async def other(dsn: str) -> AsyncIterator[Invalidation]:
    """Another instance."""
    started = Invalidation(dsn)
    await started.start()
    yield started
    await started.stop()


def collect(invalidation: Invalidation, topic: str) -> asyncio.Queue[str]:
    keys: asyncio.Queue[str] = asyncio.Queue()
    invalidation.subscribe(topic, keys.put_nowait)
    return keys


async def test_reaches_every_instance_and_only_the_topic(
    database: Database, invalidation: Invalidation, other: Invalidation
) -> None:
    here, there, elsewhere = (
        collect(invalidation, "role"),
        collect(other, "role"),
        collect(other, "tenant"),
    )
    await invalidation.publish(database, "role", "a b/c")
    await invalidation.publish(database, "tenant", "t")
    assert await here.get() == "a b/c"
    assert await there.get() == "a b/c"
    assert await elsewhere.get() == "t"
    assert there.empty()


async def test_is_announced_with_the_commit(database: Database, invalidation: Invalidation) -> None:
    keys = collect(invalidation, "role")
    with pytest.raises(ZeroDivisionError):
        await publish_and_fail(database, invalidation)
    async with database.system() as system:
        await invalidation.publish(system, "role", "committed")
    assert await keys.get() == "committed"


async def publish_and_fail(database: Database, invalidation: Invalidation) -> None:
    async with database.system() as system:
        await invalidation.publish(system, "role", "rolled back")
        raise ZeroDivisionError


async def test_after_a_lost_connection_everything_is_dropped_and_changes_arrive_again(
    dsn: str, database: Database, invalidation: Invalidation
) -> None:
    keys = collect(invalidation, "role")
    owner = await asyncpg.connect(dsn)
    try:
        for row in await owner.fetch(LISTENERS):
            await owner.execute("select pg_terminate_backend($1)", row["pid"])
    finally:
        await owner.close()
    assert await keys.get() == "*"
    assert invalidation.connected
    await invalidation.publish(database, "role", "again")
    assert await keys.get() == "again"


async def test_a_failing_subscriber_does_not_stop_the_others(
    database: Database, invalidation: Invalidation, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(key: str) -> None:
        raise ZeroDivisionError(key)

    invalidation.subscribe("role", fail)
    keys = collect(invalidation, "role")
    await invalidation.publish(database, "role", "k")
    assert await keys.get() == "k"
    assert "subscriber of role failed" in caplog.text


async def test_stops_and_says_when_there_is_no_server(dsn: str) -> None:
    stopped = Invalidation(dsn)
    await stopped.start()
    await stopped.stop()
    assert not stopped.connected
    with pytest.raises(StoreError):
        await Invalidation("postgresql://postgres@127.0.0.1:1/postgres").start()
