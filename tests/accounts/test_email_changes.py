"""The login address of a user, changed by the user's own tenant only."""

from __future__ import annotations

import asyncpg
import pytest

from geko_proxy.accounts.email_changes import Confirmed, DeadLink, EmailChanges
from geko_proxy.accounts.one_time_tokens import OneTimeTokens, Purpose
from geko_proxy.accounts.registration import EmailTaken
from geko_proxy.accounts.users import User, UserStore
from geko_proxy.storage.database import Database, Scope
from tests.conftest import Account

REPLACE = "select replace_login_email($2, $3, $4) where $1::uuid is not null"


@pytest.fixture
def changes(database: Database) -> EmailChanges:
    return EmailChanges(database, OneTimeTokens(database))


async def nothing(scope: Scope, confirmed: Confirmed) -> None:
    """No audit entry."""


async def user_of(database: Database, account: Account) -> User:
    user = await UserStore(database).get(account.tenant_id, account.user_id)
    assert user is not None
    return user


async def test_another_tenants_login_can_not_be_taken_over(
    database: Database, account: Account, stranger: Account
) -> None:
    async with database.tenant(account.tenant_id) as scope:
        for user_id in (stranger.user_id, account.user_id):
            assert not await scope.fetch_value(REPLACE, stranger.email, "mine@example.org", user_id)
        with pytest.raises(asyncpg.UniqueViolationError):
            await scope.fetch_value(REPLACE, account.email, stranger.email, account.user_id)


async def test_outside_a_tenant_nothing_is_replaced(database: Database, account: Account) -> None:
    with pytest.raises(asyncpg.PostgresError):
        async with database.system() as system:
            await system.fetch_value(
                "select replace_login_email($1, 'x@example.org', $2)", account.email, account.user_id
            )


async def test_is_free(changes: EmailChanges, account: Account, stranger: Account) -> None:
    assert not await changes.is_free(stranger.email)
    assert await changes.is_free("free@example.org")


async def test_a_change_is_all_or_nothing(
    database: Database, changes: EmailChanges, account: Account
) -> None:
    user = await user_of(database, account)
    token = await changes.issue(user, "new@example.org")

    async def fails(scope: Scope, confirmed: Confirmed) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await changes.confirm(token, fails)
    assert await user_of(database, account) == user
    assert await changes.is_free("new@example.org")


async def test_links_that_are_dead(
    database: Database, changes: EmailChanges, account: Account, stranger: Account
) -> None:
    user = await user_of(database, account)
    token = await changes.issue(user, "new@example.org")
    async with database.tenant(account.tenant_id) as scope:
        await scope.execute("update users set disabled_at = now() where tenant_id = $1")
        reset = await OneTimeTokens(database).issue(scope, user.user_id, Purpose.RESET_PASSWORD, {}, 60)
    for dead in (token, token, reset, "", "x" * 86, "é"):
        with pytest.raises(DeadLink):
            await changes.confirm(dead, nothing)
    token = await changes.issue(await user_of(database, stranger), account.email)
    with pytest.raises(EmailTaken):
        await changes.confirm(token, nothing)
