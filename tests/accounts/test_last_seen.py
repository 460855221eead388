"""When sessions were last used: written seldom, and never backwards."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import asyncpg
import pytest

from geko_proxy.accounts.last_seen import EVERY_S, LastSeen
from geko_proxy.accounts.session_list import SessionEntry, SessionList
from geko_proxy.accounts.sessions import OpenedSession, Sessions
from geko_proxy.errors import StoreError
from geko_proxy.storage.database import Database
from tests.conftest import Account


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def opened(database: Database, account: Account, dsn: str) -> OpenedSession:
    """A session that was last used an hour ago."""
    key = (account.tenant_id, account.user_id, account.workspace_id)
    found = await Sessions(database).open(*key, "192.0.2.1", "curl/8")
    connection = await asyncpg.connect(dsn)
    await connection.execute("update sessions set last_seen_at = now() - interval '1 hour'")
    await connection.close()
    return found


async def entry(database: Database, account: Account) -> SessionEntry:
    (found,) = await SessionList(database, 86_400).of_user(account.tenant_id, account.user_id)
    return found


def ago_s(seen: datetime) -> float:
    return (datetime.now(seen.tzinfo) - seen).total_seconds()


async def test_uses_are_written_at_most_once_a_minute(
    database: Database, account: Account, opened: OpenedSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, calls = Clock(), 0
    call = database.call

    async def counting(sql: str, *args: object) -> Any:
        nonlocal calls
        calls += 1
        return await call(sql, *args)

    monkeypatch.setattr(database, "call", counting)
    last_seen = LastSeen(database, clock)
    for second in range(120):
        clock.now = 1000.0 + second
        for _ in range(10):
            last_seen.note(account.tenant_id, opened.session_id, "192.0.2.9")
        await last_seen.flush()
    assert calls == 120 // EVERY_S
    found = await entry(database, account)
    assert ago_s(found.last_seen_at) < 30
    assert found.ip == "192.0.2.9"


async def test_a_later_time_is_not_overwritten_by_an_earlier_one(
    database: Database, account: Account, opened: OpenedSession
) -> None:
    clock = Clock()
    late, early = LastSeen(database, clock), LastSeen(database, clock)
    early.note(account.tenant_id, opened.session_id, "192.0.2.2")
    clock.now += 100
    late.note(account.tenant_id, opened.session_id, "192.0.2.3")
    await late.flush()
    await early.flush()
    found = await entry(database, account)
    assert (found.ip, ago_s(found.last_seen_at) < 30) == ("192.0.2.3", True)


async def test_what_is_left_is_written_at_the_end(
    database: Database, account: Account, opened: OpenedSession
) -> None:
    last_seen = LastSeen(database)
    await last_seen.start()
    last_seen.note(account.tenant_id, opened.session_id, "")
    await last_seen.stop()
    found = await entry(database, account)
    assert ago_s(found.last_seen_at) < 30
    assert found.ip == "192.0.2.1"


async def test_a_lost_database_is_no_end(
    database: Database, account: Account, opened: OpenedSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(sql: str, *args: object) -> Any:
        raise StoreError("gone")

    monkeypatch.setattr(database, "call", lost)
    last_seen = LastSeen(database)
    last_seen.note(account.tenant_id, opened.session_id, "")
    await last_seen.stop()


async def test_only_the_session_that_is_meant(
    database: Database, account: Account, stranger: Account, opened: OpenedSession
) -> None:
    last_seen = LastSeen(database)
    last_seen.note(stranger.tenant_id, opened.session_id, "192.0.2.66")
    await last_seen.flush()
    found = await entry(database, account)
    assert ago_s(found.last_seen_at) > 3000
