"""Users: found by e-mail over all tenants, by id in their own tenant only."""

from __future__ import annotations

import asyncpg
import pytest

from geko_proxy.accounts.passwords import hash_password, verify_password
from geko_proxy.accounts.users import UserStore
from geko_proxy.storage.database import Database
from tests.conftest import Account


async def test_is_found_by_email_as_typed(database: Database, account: Account, stranger: Account) -> None:
    for expected in (account, stranger):
        found = await UserStore(database).find_login(f" {expected.email.upper()}")
        assert found is not None
        user, stored = found
        assert (user.tenant_id, user.user_id) == (expected.tenant_id, expected.user_id)
        assert await verify_password("long enough", stored)


@pytest.mark.parametrize("email", ["nobody@example.org", "", "owner@example.org\0", "\ud800@b.co", "%"])
async def test_unknown_and_impossible_addresses_find_nobody(
    database: Database, account: Account, email: str
) -> None:
    assert await UserStore(database).find_login(email) is None


async def test_a_disabled_user_cannot_sign_in(database: Database, dsn: str, account: Account) -> None:
    owner = await asyncpg.connect(dsn)
    await owner.execute("update users set disabled_at = now()")
    await owner.close()
    store = UserStore(database)
    assert await store.find_login(account.email) is None
    user = await store.get(account.tenant_id, account.user_id)
    assert user is not None
    assert user.disabled_at is not None


async def test_is_got_in_the_own_tenant_only(database: Database, account: Account, stranger: Account) -> None:
    store = UserStore(database)
    user = await store.get(account.tenant_id, account.user_id)
    assert user is not None
    assert (user.email, user.name, user.username) == (account.email, "Somebody", None)
    assert await store.get(stranger.tenant_id, account.user_id) is None


async def test_a_new_password_replaces_the_old_one(database: Database, account: Account) -> None:
    store = UserStore(database)
    await store.set_password(account.tenant_id, account.user_id, await hash_password("another one"))
    found = await store.find_login(account.email)
    assert found is not None
    assert await verify_password("another one", found[1])
    assert not await verify_password("long enough", found[1])
