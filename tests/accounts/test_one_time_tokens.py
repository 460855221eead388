"""Links that work once."""

from __future__ import annotations

from uuid import UUID

from geko_proxy.accounts.one_time_tokens import OneTimeTokens, Purpose
from geko_proxy.accounts.registration import Registration
from geko_proxy.storage.database import Database


async def issue(database: Database, tenant_id: UUID, user_id: UUID, ttl_s: float = 60) -> str:
    async with database.tenant(tenant_id) as scope:
        return await OneTimeTokens(database).issue(
            scope, user_id, Purpose.VERIFY_EMAIL, {"email": "n@a.test"}, ttl_s
        )


async def test_a_link_works_once_for_its_purpose_only(database: Database) -> None:
    user = (
        await Registration(database).register(
            email="p@a.test", password="Correct-Horse-9", name="Pat", token_limit=None
        )
    ).user
    tokens = OneTimeTokens(database)
    token = await issue(database, user.tenant_id, user.user_id)
    assert await tokens.redeem(token, Purpose.RESET_PASSWORD) is None
    assert await tokens.redeem(token[:-1] + ("A" if token[-1] != "A" else "Q"), Purpose.VERIFY_EMAIL) is None
    found = await tokens.redeem(token, Purpose.VERIFY_EMAIL)
    assert found is not None
    assert (found.user_id, found.data) == (user.user_id, {"email": "n@a.test"})
    assert await tokens.redeem(token, Purpose.VERIFY_EMAIL) is None
    assert await tokens.redeem("x" * 86, Purpose.VERIFY_EMAIL) is None


async def test_a_newer_link_ends_the_older_and_time_ends_all(database: Database) -> None:
    user = (
        await Registration(database).register(
            email="p@a.test", password="Correct-Horse-9", name="Pat", token_limit=None
        )
    ).user
    tokens = OneTimeTokens(database)
    old = await issue(database, user.tenant_id, user.user_id)
    new = await issue(database, user.tenant_id, user.user_id)
    assert await tokens.redeem(old, Purpose.VERIFY_EMAIL) is None
    assert await tokens.redeem(new, Purpose.VERIFY_EMAIL) is not None
    late = await issue(database, user.tenant_id, user.user_id, ttl_s=-1)
    assert await tokens.redeem(late, Purpose.VERIFY_EMAIL) is None
