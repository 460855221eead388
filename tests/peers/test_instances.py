"""Instances learn of each other, and notice who is gone, but not because the database was away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from uuid import UUID, uuid4

import pytest

from geko_proxy.peers import instances as module
from geko_proxy.peers.instances import Instances
from geko_proxy.storage.database import Database
from geko_proxy.storage.invalidation import Invalidation
from tests.conftest import run


async def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_they_see_each_other_come_and_go(database: Database, invalidation: Invalidation) -> None:
    one, two = (Instances(database, invalidation, uuid4()) for _ in range(2))
    gone: list[UUID] = []
    one.on_gone = gone.append
    await one.start("http://10.0.0.1:1")
    assert one.others == {}
    await two.start("http://10.0.0.2:2")
    assert two.others == {one.instance_id: "http://10.0.0.1:1"}
    await until(lambda: one.others == {two.instance_id: "http://10.0.0.2:2"})
    await two.stop()
    await until(lambda: not one.others)
    assert gone == [two.instance_id]
    await one.stop()


async def test_who_is_silent_is_gone_and_forgotten_after_an_hour(database: Database) -> None:
    one, two = (Instances(database, None, uuid4()) for _ in range(2))
    for each in (one, two, one):
        await each.beat()
    assert set(one.others) == {two.instance_id}
    gone: list[UUID] = []
    one.on_gone = gone.append
    await run(database.dsn, "update instances set seen_at = now() - interval '14 s'")
    await one.beat()
    assert gone == [two.instance_id]
    await two.beat()
    await one.beat()
    assert set(one.others) == {two.instance_id}
    await run(database.dsn, "update instances set seen_at = now() - interval '61 min'")
    await one.beat()
    row = await database.call("select count(*) as n from live_instance($1, 1e9)", two.instance_id)
    assert row is not None
    assert row["n"] == 0


async def test_nobody_is_gone_because_the_database_was_away(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (Instances(database, None, uuid4()) for _ in range(2))
    now = 1000.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    for each in (two, one):
        await each.beat()
    await run(database.dsn, "update instances set seen_at = now() - interval '20 s'")
    for after_s in (20, 4, 4):  # the first one comes late, and then the others get time to come too
        now += after_s
        await one.beat()
        assert set(one.others) == {two.instance_id}
    now += 6
    await one.beat()
    assert not one.others


async def test_one_that_nobody_can_reach_says_so(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = (Instances(database, None, uuid4()) for _ in range(2))
    for each in (one, two, one, two):
        await each.beat()
    assert [each.getMessage() for each in caplog.records if "peer_url" in each.getMessage()]
    assert sum("peer_url" in each.getMessage() for each in caplog.records) == 2  # once each
