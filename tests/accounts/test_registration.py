"""Registration: all or nothing, one account per e-mail in the whole installation."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from geko_proxy.accounts.registration import (
    EmailTaken,
    InvalidRegistration,
    Registered,
    Registration,
)
from geko_proxy.accounts.users import UserStore
from geko_proxy.storage.database import Database
from geko_proxy.workspaces.members import MemberStore
from geko_proxy.workspaces.roles import Role
from geko_proxy.workspaces.tenants import TenantStatus
from tests.conftest import Account

GOOD: dict[str, Any] = {
    "email": "Ann@Example.org",
    "password": "long enough",
    "name": " Ann ",
    "token_limit": 500,
}


async def count(dsn: str, table: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval(f"select count(*) from {table}"))
    finally:
        await connection.close()


async def test_creates_tenant_owner_workspace_and_quota(database: Database) -> None:
    done = await Registration(database).register(**GOOD, username="ann", tenant_name=" Ann's shop ")
    assert (done.user.email, done.user.name, done.user.username) == ("ann@example.org", "Ann", "ann")
    assert (done.tenant.name, done.tenant.time_zone) == ("Ann's shop", "UTC")
    assert done.tenant.status is TenantStatus.ACTIVE
    assert done.workspace.name == "Default"
    place = (done.tenant.tenant_id, done.workspace.workspace_id, done.user.user_id)
    assert await MemberStore(database).role(*place) is Role.OWNER
    async with database.tenant(done.tenant.tenant_id) as scope:
        sql = "select amount from quota_limits where tenant_id = $1 and limit_id = $2"
        assert await scope.fetch_value(sql, done.workspace.workspace_id) == 500


async def test_without_limit_and_names(database: Database) -> None:
    done = await Registration(database).register(**(GOOD | {"token_limit": None}), username=" ")
    assert done.tenant.name == "Ann"
    assert done.user.username is None
    async with database.tenant(done.tenant.tenant_id) as scope:
        row = await scope.fetch_row("select amount from quota_limits where tenant_id = $1")
    assert row is not None
    assert row["amount"] is None


async def test_a_taken_email_creates_nothing(database: Database, dsn: str, account: Account) -> None:
    with pytest.raises(EmailTaken):
        await Registration(database).register(**(GOOD | {"email": account.email.upper()}))
    for table in ("tenants", "users", "login_emails", "workspaces", "workspace_members"):
        assert await count(dsn, table) == 1, table


async def test_of_racing_registrations_one_wins(database: Database, dsn: str) -> None:
    registration = Registration(database)
    results = await asyncio.gather(*(registration.register(**GOOD) for _ in range(6)), return_exceptions=True)
    assert sum(isinstance(result, Registered) for result in results) == 1
    assert sum(isinstance(result, EmailTaken) for result in results) == 5
    assert await count(dsn, "tenants") == 1


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"email": "nobody"}, {"email"}),
        ({"password": "short"}, {"password"}),
        ({"password": "x" * 129}, {"password"}),
        ({"name": "  "}, {"name"}),
        ({"name": "a\0b"}, {"name"}),
        ({"name": "a\ud800"}, {"name"}),
        ({"name": "a\u2028b"}, {"name"}),  # a line break in the subject of an invitation
        ({"tenant_name": "\u202emoc.elpmaxe"}, {"tenantName"}),
        ({"username": "x"}, {"username"}),
        ({"tenant_name": "x" * 121}, {"tenantName"}),
        ({"token_limit": -1}, {"tokenLimit"}),
        ({"token_limit": 2**63}, {"tokenLimit"}),
        (
            {"email": "", "password": "", "name": "", "username": "\n\n\n x \n"},
            {"email", "password", "name", "username"},
        ),
    ],
)
async def test_all_problems_are_told_by_field(
    database: Database, dsn: str, change: dict[str, Any], fields: set[str]
) -> None:
    with pytest.raises(InvalidRegistration) as caught:
        await Registration(database).register(**(GOOD | change))
    assert set(caught.value.problems) == fields
    assert all(caught.value.problems.values())
    assert await count(dsn, "tenants") == 0


async def test_adds_a_member_to_a_workspace(database: Database, account: Account) -> None:
    registration = Registration(database)
    place = (account.tenant_id, account.workspace_id)
    user = await registration.add_member(*place, "m@example.org", "long enough", "M", Role.MEMBER)
    assert await MemberStore(database).role(*place, user.user_id) is Role.MEMBER
    found = await UserStore(database).find_login("m@example.org")
    assert found is not None
    assert found[0] == user
    with pytest.raises(EmailTaken):
        await registration.add_member(*place, "m@example.org", "long enough", "M", Role.MEMBER)
    with pytest.raises(InvalidRegistration):
        await registration.add_member(*place, "m", "x", "", Role.MEMBER)


async def test_no_member_is_added_to_another_tenants_workspace(
    database: Database, dsn: str, account: Account, stranger: Account
) -> None:
    registration = Registration(database)
    for workspace_id in (stranger.workspace_id, uuid4()):
        with pytest.raises(LookupError):
            await registration.add_member(
                account.tenant_id, workspace_id, "m@example.org", "long enough", "M", Role.OWNER
            )
    assert await count(dsn, "users") == 2
    assert await count(dsn, "login_emails") == 2
