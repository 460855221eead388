"""Members: roles, their cache, and the owner that must remain."""

from __future__ import annotations

import asyncio
from uuid import UUID

import asyncpg
import pytest

from geko_proxy.accounts.registration import Registration
from geko_proxy.storage.database import Database
from geko_proxy.storage.invalidation import Invalidation
from geko_proxy.workspaces.members import LastOwner, MemberStore, NotMember
from geko_proxy.workspaces.roles import Role
from tests.conftest import Account


async def add_user(database: Database, account: Account, role: Role, email: str = "m@example.org") -> UUID:
    place = (account.tenant_id, account.workspace_id)
    user = await Registration(database).add_member(*place, email, "long enough", "Member", role)
    return user.user_id


async def test_roles_are_listed_changed_and_ended(database: Database, account: Account) -> None:
    members = MemberStore(database)
    place = (account.tenant_id, account.workspace_id)
    user_id = await add_user(database, account, Role.VIEWER)
    assert [(m.user_id, m.role, m.email) for m in await members.list(*place)] == [
        (account.user_id, Role.OWNER, account.email),
        (user_id, Role.VIEWER, "m@example.org"),
    ]
    assert await members.role(*place, user_id) is Role.VIEWER
    await members.set_role(*place, user_id, Role.ADMIN)
    assert await members.role(*place, user_id) is Role.ADMIN
    await members.remove(*place, user_id)
    assert await members.role(*place, user_id) is None
    assert await members.add(*place, user_id, Role.MEMBER)
    assert not await members.add(*place, user_id, Role.OWNER)
    assert await members.role(*place, user_id) is Role.MEMBER


async def test_a_change_is_seen_by_other_instances_at_once(
    database: Database, dsn: str, invalidation: Invalidation, account: Account
) -> None:
    elsewhere = Invalidation(dsn)
    await elsewhere.start()
    here, there = MemberStore(database, invalidation), MemberStore(database, elsewhere)
    heard: asyncio.Queue[str] = asyncio.Queue()
    elsewhere.subscribe("role", heard.put_nowait)
    user_id = await add_user(database, account, Role.ADMIN)
    key = (account.tenant_id, account.workspace_id, user_id)
    assert await there.role(*key) is Role.ADMIN
    await here.set_role(*key, Role.VIEWER)
    await heard.get()
    assert await there.role(*key) is Role.VIEWER
    await here.remove(*key)
    await heard.get()
    assert await there.role(*key) is None
    await elsewhere.stop()


async def test_the_last_owner_stays(database: Database, account: Account) -> None:
    members = MemberStore(database)
    await add_user(database, account, Role.ADMIN)
    with pytest.raises(LastOwner):
        await members.remove(*account.place)
    with pytest.raises(LastOwner):
        await members.set_role(*account.place, Role.ADMIN)
    await members.set_role(*account.place, Role.OWNER)
    assert await members.role(*account.place) is Role.OWNER


async def test_two_owners_who_demote_each_other_at_once_leave_one(
    database: Database, account: Account
) -> None:
    members = MemberStore(database)
    place = (account.tenant_id, account.workspace_id)
    other = await add_user(database, account, Role.OWNER)
    for _ in range(5):
        results = await asyncio.gather(
            members.set_role(*place, account.user_id, Role.MEMBER),
            members.remove(*place, other),
            return_exceptions=True,
        )
        assert sorted(type(result).__name__ for result in results) == ["LastOwner", "NoneType"]
        assert [m.role for m in await members.list(*place)].count(Role.OWNER) == 1
        await members.add(*place, other, Role.OWNER)
        for user_id in (account.user_id, other):
            await members.set_role(*place, user_id, Role.OWNER)


async def test_who_is_no_member(database: Database, account: Account, stranger: Account) -> None:
    members = MemberStore(database)
    place = (account.tenant_id, account.workspace_id, stranger.user_id)
    with pytest.raises(NotMember):
        await members.set_role(*place, Role.OWNER)
    with pytest.raises(NotMember):
        await members.remove(*place)
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await members.add(*place, Role.OWNER)
    assert await members.role(*place) is None
    assert await members.role(stranger.tenant_id, account.workspace_id, account.user_id) is None
