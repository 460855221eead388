"""The list of a person's sessions."""

from __future__ import annotations

from datetime import timedelta

import asyncpg

from geko_proxy.accounts.session_list import SessionList
from geko_proxy.accounts.sessions import Sessions
from geko_proxy.storage.database import Database
from tests.conftest import Account


async def test_shows_ones_own_that_go_on(
    database: Database, account: Account, stranger: Account, dsn: str
) -> None:
    sessions, listed = Sessions(database), SessionList(database, 30 * 86_400)
    place = (account.tenant_id, account.user_id, account.workspace_id)
    first, second, over, old = [await sessions.open(*place, "192.0.2.1", "curl/8") for _ in range(4)]
    await sessions.open(stranger.tenant_id, stranger.user_id, stranger.workspace_id, None, None)
    await sessions.revoke(account.tenant_id, over.session_id)
    connection = await asyncpg.connect(dsn)
    old_one = "update sessions set created_at = now() - interval '30 days' where session_id = $1"
    await connection.execute(old_one, old.session_id)
    await connection.close()
    await sessions.rotate(first.refresh_token, "192.0.2.2", "Mozilla/5.0")
    found = await listed.of_user(account.tenant_id, account.user_id)
    assert [entry.session_id for entry in found] == [first.session_id, second.session_id]
    assert (found[0].ip, found[0].user_agent, found[1].ip) == ("192.0.2.2", "Mozilla/5.0", "192.0.2.1")
    assert await listed.of_user(stranger.tenant_id, account.user_id) == []
    age = await listed.age(account.tenant_id, first.session_id)
    assert age is not None
    assert age < timedelta(minutes=5)
    assert await listed.age(account.tenant_id, over.session_id) is None
    assert await listed.age(stranger.tenant_id, first.session_id) is None
