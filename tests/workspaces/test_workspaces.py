"""Workspaces: created with owner and quota, listed for their members."""

from __future__ import annotations

import asyncpg
import pytest

from geko_proxy.storage.database import Database
from geko_proxy.workspaces.members import MemberStore
from geko_proxy.workspaces.roles import Role
from geko_proxy.workspaces.workspaces import WorkspaceStore
from tests.conftest import Account


async def test_is_created_with_owner_and_quota(database: Database, account: Account) -> None:
    store = WorkspaceStore(database)
    made = await store.create(account.tenant_id, "Second", account.user_id, token_limit=7)
    assert await store.get(account.tenant_id, made.workspace_id) == made
    listed = await store.list_for_user(account.tenant_id, account.user_id)
    assert [(workspace.name, role) for workspace, role in listed] == [
        ("Default", Role.OWNER),
        ("Second", Role.OWNER),
    ]
    async with database.tenant(account.tenant_id) as scope:
        sql = "select amount from quota_limits where tenant_id = $1 and limit_id = $2"
        assert await scope.fetch_value(sql, made.workspace_id) == 7


async def test_archived_ones_are_got_but_not_listed_and_give_no_role(
    database: Database, account: Account
) -> None:
    async with database.tenant(account.tenant_id) as scope:
        await scope.execute("update workspaces set archived_at = now() where tenant_id = $1")
    store = WorkspaceStore(database)
    assert await store.list_for_user(account.tenant_id, account.user_id) == []
    workspace = await store.get(account.tenant_id, account.workspace_id)
    assert workspace is not None
    assert workspace.archived_at is not None
    assert await MemberStore(database).role(*account.place) is None


async def test_other_tenants_have_no_part_in_it(
    database: Database, account: Account, stranger: Account
) -> None:
    store = WorkspaceStore(database)
    assert await store.get(stranger.tenant_id, account.workspace_id) is None
    assert await store.list_for_user(stranger.tenant_id, account.user_id) == []
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await store.create(stranger.tenant_id, "Mine", account.user_id)
