"""Shared links: known to their tenant only, and owned by who made them."""

from __future__ import annotations

from geko_proxy.storage.database import Database
from geko_proxy.workspaces.shared_links import SharedLink, SharedLinkStore
from tests.conftest import Account


async def test_is_kept_for_its_tenant_until_deleted(
    database: Database, account: Account, stranger: Account
) -> None:
    store = SharedLinkStore(database)
    mine = SharedLink(account.tenant_id, "link", account.workspace_id, account.user_id)
    await store.put(mine)
    await store.put(mine)
    assert await store.get(account.tenant_id, "link") == mine
    assert await store.get(stranger.tenant_id, "link") is None
    assert await store.get(account.tenant_id, "li\0nk") is None
    theirs = SharedLink(stranger.tenant_id, "link", stranger.workspace_id, stranger.user_id)
    await store.put(theirs)
    await store.delete(account.tenant_id, "link")
    assert await store.get(account.tenant_id, "link") is None
    assert await store.get(stranger.tenant_id, "link") == theirs
