"""The audit log: stored with the change, and never touched again."""

from __future__ import annotations

import asyncpg
import msgspec
import pytest

from geko_proxy.storage.database import Database
from geko_proxy.workspaces.audit import Audit
from tests.conftest import Account


async def write(database: Database, account: Account, *, fail: bool) -> None:
    async with database.tenant(account.tenant_id) as scope:
        await Audit().record(
            scope,
            actor_user_id=account.user_id,
            action="member.remove",
            target="user:1",
            ip="127.0.0.1",
            request_id="r1",
            details={"role": "admin", "n": 1},
        )
        if fail:
            raise ZeroDivisionError


async def test_an_entry_is_stored_with_its_transaction_only(database: Database, account: Account) -> None:
    await write(database, account, fail=False)
    with pytest.raises(ZeroDivisionError):
        await write(database, account, fail=True)
    async with database.tenant(account.tenant_id) as scope:
        rows = await scope.fetch("select * from audit_log where tenant_id = $1")
    assert len(rows) == 1
    assert rows[0]["actor_user_id"] == account.user_id
    assert (rows[0]["action"], rows[0]["target"], rows[0]["request_id"]) == ("member.remove", "user:1", "r1")
    assert msgspec.json.decode(rows[0]["details"]) == {"role": "admin", "n": 1}


@pytest.mark.parametrize("sql", ["update audit_log set action = ''", "delete from audit_log"])
async def test_nothing_is_changed_or_removed(database: Database, account: Account, sql: str) -> None:
    await write(database, account, fail=False)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with database.tenant(account.tenant_id) as scope:
            await scope.execute(f"{sql} where tenant_id = $1")
