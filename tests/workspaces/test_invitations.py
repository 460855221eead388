"""Invitations in the database: their state, their limits, and who else's they are not."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from geko_proxy.storage.database import Database
from geko_proxy.workspaces import invitations
from geko_proxy.workspaces.invitations import Invitation, InvitationStore, State, TooMany, decode, may_invite
from geko_proxy.workspaces.members import MemberStore
from geko_proxy.workspaces.roles import Role
from tests.conftest import Account

WEEK = timedelta(days=7)


async def create(database: Database, account: Account, **more: Any) -> tuple[Invitation, str]:
    given = {"role": Role.MEMBER, "invited_by": account.user_id, "life": WEEK, **more}
    async with database.tenant(account.tenant_id) as scope:
        return await InvitationStore(database).create(scope, account.workspace_id, **given)


async def state(database: Database, token: str) -> State | None:
    found = await InvitationStore(database).find(token)
    return None if found is None else found.state


async def test_only_the_hash_is_kept(database: Database, account: Account) -> None:
    made, token = await create(database, account)
    assert await state(database, token) is State.OPEN
    assert made.expires_at - made.created_at == WEEK
    async with database.tenant(account.tenant_id) as scope:
        stored = await scope.fetch_value("select i::text from invitations i where tenant_id = $1")
    parts = decode(token)
    assert parts is not None
    assert parts[2].hex() in stored
    assert token not in stored


async def test_the_states(database: Database, account: Account) -> None:
    _, expired = await create(database, account, life=timedelta(0))
    assert await state(database, expired) is State.EXPIRED
    made, used = await create(database, account)
    async with database.tenant(account.tenant_id) as scope:
        await scope.execute(invitations.USE, made.invitation_id)
    assert await state(database, used) is State.USED
    made, revoked = await create(database, account)
    async with database.tenant(account.tenant_id) as scope:
        store = InvitationStore(database)
        assert await store.revoke(scope, account.workspace_id, made.invitation_id) is not None
        assert await store.revoke(scope, account.workspace_id, made.invitation_id) is None
    assert await state(database, revoked) is State.REVOKED
    assert await InvitationStore(database).list(account.tenant_id, account.workspace_id) == []
    async with database.tenant(account.tenant_id) as scope:
        await scope.execute("update workspaces set archived_at = now() where tenant_id = $1")
    _, token = made, used
    assert await state(database, token) is State.REVOKED


async def test_a_suspended_tenant_or_a_disabled_inviter_invites_nobody(
    database: Database, account: Account
) -> None:
    _, token = await create(database, account)
    for statement, undo in (
        ("update users set disabled_at = now()", "update users set disabled_at = null"),
        ("update tenants set status = 'suspended'", "update tenants set status = 'active'"),
    ):
        async with database.tenant(account.tenant_id) as scope:
            await scope.execute(f"{statement} where tenant_id = $1")
        assert await state(database, token) is None
        async with database.tenant(account.tenant_id) as scope:
            await scope.execute(f"{undo} where tenant_id = $1")
    assert await state(database, token) is State.OPEN


async def test_the_makers_role_of_today_counts(database: Database, account: Account) -> None:
    other = uuid4()
    async with database.tenant(account.tenant_id) as scope:
        await scope.execute(
            "insert into users (tenant_id, user_id, email, name) values ($1, $2, 'o@example.org', 'O')", other
        )
    members = MemberStore(database)
    await members.add(account.tenant_id, account.workspace_id, other, Role.OWNER)
    _, token = await create(database, account, invited_by=other, role=Role.OWNER)
    for role, wanted in ((Role.OWNER, State.OPEN), (Role.ADMIN, State.REVOKED), (Role.OWNER, State.OPEN)):
        await members.set_role(account.tenant_id, account.workspace_id, other, role)
        assert await state(database, token) is wanted


async def test_there_are_limits(
    database: Database, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invitations, "MAX_MAILED_AN_HOUR", 1)
    monkeypatch.setattr(invitations, "MAX_PENDING", 3)
    await create(database, account, email="a@example.org", mailed=True)
    with pytest.raises(TooMany) as refused:
        await create(database, account, email="b@example.org", mailed=True)
    assert refused.value.mailed
    await create(database, account)
    await create(database, account, life=timedelta(0))  # not open any more
    await create(database, account)
    with pytest.raises(TooMany) as refused:
        await create(database, account)
    assert not refused.value.mailed


async def test_other_tenants_have_no_part_in_it(
    database: Database, account: Account, stranger: Account
) -> None:
    made, token = await create(database, account)
    store = InvitationStore(database)
    async with database.tenant(stranger.tenant_id) as scope:
        assert await store.lock(scope, token) is None
        assert await store.revoke(scope, account.workspace_id, made.invitation_id) is None
        with pytest.raises(LookupError):
            await store.create(
                scope, account.workspace_id, role=Role.VIEWER, invited_by=stranger.user_id, life=WEEK
            )
    assert await store.list(stranger.tenant_id, account.workspace_id) == []
    assert await state(database, token) is State.OPEN


def test_nobody_gives_more_than_there_is_to_give() -> None:
    allowed = {(inviter, role) for inviter in (*Role, None) for role in Role if may_invite(inviter, role)}
    assert allowed == {(Role.OWNER, role) for role in Role} | {
        (Role.ADMIN, role) for role in (Role.ADMIN, Role.MEMBER, Role.VIEWER)
    }


@pytest.mark.parametrize("text", ["", "A" * 85, "A" * 87, "A" * 85 + "=", "A" * 85 + "é", "A" * 85 + "\n"])
def test_what_is_no_token(text: str) -> None:
    assert decode(text) is None
