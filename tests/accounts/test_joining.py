"""Joining: by invitation, and by a verified address of a tenant's domain."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from geko_proxy.accounts.joining import Joining, NotInvited, NotOpen, Origin, OtherAddress, OtherTenant
from geko_proxy.accounts.registration import EmailTaken, InvalidRegistration, Registration
from geko_proxy.storage.database import Database
from geko_proxy.workspaces.audit import Audit
from geko_proxy.workspaces.auto_join import AutoJoin, AutoJoinStore
from geko_proxy.workspaces.invitations import InvitationStore
from geko_proxy.workspaces.members import MemberStore
from geko_proxy.workspaces.roles import Role
from geko_proxy.workspaces.workspaces import WorkspaceStore
from tests.conftest import Account

ORIGIN = Origin("192.0.2.7", "r1")
PASSWORD = "Correct-Horse-9"


@pytest.fixture
def joining(database: Database) -> Joining:
    stores = (MemberStore(database), InvitationStore(database), AutoJoinStore(database), Audit())
    return Joining(database, *stores)


async def invite(database: Database, account: Account, **more: Any) -> str:
    given = {"role": Role.ADMIN, "invited_by": account.user_id, "life": timedelta(days=1), **more}
    async with database.tenant(account.tenant_id) as scope:
        return (await InvitationStore(database).create(scope, account.workspace_id, **given))[1]


async def audited(database: Database, account: Account) -> list[str]:
    async with database.tenant(account.tenant_id) as scope:
        rows = await scope.fetch(
            "select action from audit_log where tenant_id = $1 order by occurred_at, action"
        )
    return [row["action"] for row in rows]


async def verified(database: Database, account: Account, email: str) -> bool:
    async with database.tenant(account.tenant_id) as scope:
        found = await scope.fetch_value(
            "select email_verified_at is not null from users where tenant_id = $1 and email = $2", email
        )
    return bool(found)


async def test_somebody_new_joins(joining: Joining, database: Database, account: Account) -> None:
    token = await invite(database, account)
    user, offer = await joining.register(
        token, email="New@Example.org", password=PASSWORD, name=" New ", origin=ORIGIN
    )
    assert (user.tenant_id, user.email, user.name) == (account.tenant_id, "new@example.org", "New")
    assert offer.workspace == "Default"
    role = await MemberStore(database).role(account.tenant_id, account.workspace_id, user.user_id)
    assert role is Role.ADMIN
    assert await audited(database, account) == ["invitation.accept"]
    assert not await verified(database, account, user.email)
    with pytest.raises(NotOpen):
        await joining.register(token, email="b@example.org", password=PASSWORD, name="B", origin=ORIGIN)


async def test_the_shortest_password_is_the_operators(database: Database, account: Account) -> None:
    stores = (MemberStore(database), InvitationStore(database), AutoJoinStore(database), Audit())
    strict = Joining(database, *stores, min_password=len(PASSWORD) + 1)
    token = await invite(database, account)
    with pytest.raises(InvalidRegistration) as caught:
        await strict.register(token, email="n@example.org", password=PASSWORD, name="N", origin=ORIGIN)
    assert set(caught.value.problems) == {"password"}


async def test_nothing_is_used_up_by_what_fails(
    joining: Joining, database: Database, account: Account, stranger: Account
) -> None:
    token = await invite(database, account, email="bound@example.org")
    with pytest.raises(EmailTaken):
        await joining.register(
            await invite(database, account), email=stranger.email, password=PASSWORD, name="B", origin=ORIGIN
        )
    with pytest.raises(OtherAddress):
        await joining.register(token, email="b@example.org", password=PASSWORD, name="B", origin=ORIGIN)
    with pytest.raises(InvalidRegistration):
        await joining.register(token, email=None, password="short", name="", origin=ORIGIN)
    with pytest.raises(OtherTenant):
        await joining.accept(token, stranger.tenant_id, stranger.user_id, ORIGIN)
    with pytest.raises(OtherAddress):
        await joining.accept(token, account.tenant_id, account.user_id, ORIGIN)
    for unknown in ("x", "A" * 86):
        with pytest.raises(NotInvited):
            await joining.accept(unknown, account.tenant_id, account.user_id, ORIGIN)
    assert await audited(database, account) == []
    user, _ = await joining.register(token, email=None, password=PASSWORD, name="B", origin=ORIGIN)
    assert user.email == "bound@example.org"


async def test_a_verified_address_joins_its_tenant(
    joining: Joining, database: Database, account: Account
) -> None:
    given: dict[str, Any] = {"name": "New", "username": None, "password_hash": None, "origin": ORIGIN}
    assert await joining.register_verified(email="new@corp.example", **given) is None
    setting = AutoJoin(("corp.example",), account.workspace_id, Role.VIEWER)
    async with database.tenant(account.tenant_id) as scope:
        await AutoJoinStore(database).put(scope, setting, account.user_id)
    user = await joining.register_verified(email=" New@Corp.example", **given)
    assert user is not None
    assert (user.tenant_id, user.email) == (account.tenant_id, "new@corp.example")
    assert await verified(database, account, user.email)
    ((_, role),) = await WorkspaceStore(database).list_for_user(account.tenant_id, user.user_id)
    assert role is Role.VIEWER
    assert await audited(database, account) == ["member.auto_join"]
    with pytest.raises(EmailTaken):
        await joining.register_verified(email="new@corp.example", **given)
    for other in ("x@other.example", "x@sub.corp.example", "no address"):
        assert await joining.register_verified(email=other, **given) is None


async def test_joining_after_verification(
    joining: Joining, database: Database, account: Account, stranger: Account
) -> None:
    async with database.tenant(account.tenant_id) as scope:
        setting = AutoJoin(("example.org",), account.workspace_id, Role.VIEWER)
        await AutoJoinStore(database).put(scope, setting, account.user_id)
    second = await WorkspaceStore(database).create(account.tenant_id, "Second", account.user_id)
    place = (account.tenant_id, second.workspace_id)
    user = await Registration(database).add_member(*place, "c@example.org", PASSWORD, "C", Role.MEMBER)
    assert not await joining.after_verification(account.tenant_id, user.user_id, ORIGIN)
    for who in (account, stranger):
        async with database.tenant(who.tenant_id) as scope:
            await scope.execute("update users set email_verified_at = now() where tenant_id = $1")
    assert await joining.after_verification(account.tenant_id, user.user_id, ORIGIN)
    assert not await joining.after_verification(account.tenant_id, user.user_id, ORIGIN)
    # the owner keeps the role there is; somebody of another tenant is not moved
    assert not await joining.after_verification(account.tenant_id, account.user_id, ORIGIN)
    assert not await joining.after_verification(stranger.tenant_id, stranger.user_id, ORIGIN)
    roles = await MemberStore(database).list(account.tenant_id, account.workspace_id)
    assert [member.role for member in roles] == [Role.OWNER, Role.VIEWER]
