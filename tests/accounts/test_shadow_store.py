"""Shadow accounts: one per user and workspace, however many requests race."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from geko_proxy.accounts.shadow_store import ShadowStore
from geko_proxy.storage.database import Database
from tests.conftest import Account

ID = "0123456789abcdef01234567"


async def test_is_stored_once(database: Database, account: Account) -> None:
    store = ShadowStore(database)
    assert await store.get(*account.place) is None
    first = await store.put_if_absent(*account.place, ID, "s@geko.invalid")
    assert await store.put_if_absent(*account.place, "f" * 24, "t@geko.invalid") == first
    assert await store.get(*account.place) == first
    assert (first.librechat_user_id, first.email) == (ID, "s@geko.invalid")


async def test_the_owner_is_found_in_the_own_tenant_only(
    database: Database, account: Account, stranger: Account
) -> None:
    store = ShadowStore(database)
    row = await store.put_if_absent(*account.place, ID, "s@geko.invalid")
    assert await store.find_owner(account.tenant_id, ID) == row
    assert await store.find_owner(stranger.tenant_id, ID) is None
    assert await store.find_owner(account.tenant_id, "a\0b") is None


@pytest.mark.parametrize("bad", ["", "f" * 23, "F" * 24, "g" * 24, '{"$ne":null}', f"{ID}\n"])
async def test_only_ids_that_are_safe_to_mint_are_stored(
    database: Database, account: Account, bad: str
) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await ShadowStore(database).put_if_absent(*account.place, bad, "s@geko.invalid")


@pytest.mark.parametrize("with_scope", [True, False])
async def test_of_many_racing_requests_on_two_instances_one_creates(
    dsn: str, account: Account, *, with_scope: bool
) -> None:
    databases = [await Database.open(dsn, max_size=4) for _ in range(2)]
    stores = [ShadowStore(database) for database in databases]
    created = 0

    async def use(store: ShadowStore) -> str:
        nonlocal created
        async with store.creation_lock(*account.place) as scope:
            entered = scope if with_scope else None
            found = await store.get(*account.place, scope=entered)
            if found is None:
                created += 1
                await asyncio.sleep(0.02)  # LibreChat's answer
                found = await store.put_if_absent(*account.place, ID, "s@geko.invalid", scope=entered)
        return found.librechat_user_id

    assert set(await asyncio.gather(*(use(stores[n % 2]) for n in range(20)))) == {ID}
    assert created == 1
    for database in databases:
        await database.close()


async def test_other_users_are_not_kept_waiting(
    database: Database, account: Account, stranger: Account
) -> None:
    store = ShadowStore(database)
    async with store.creation_lock(*account.place), store.creation_lock(*stranger.place):
        await database.ping()


async def test_a_failed_creation_frees_the_lock(database: Database, account: Account) -> None:
    store = ShadowStore(database)
    with pytest.raises(ZeroDivisionError):
        async with store.creation_lock(*account.place):
            raise ZeroDivisionError
    async with store.creation_lock(*account.place) as scope:
        assert await store.get(*account.place, scope=scope) is None
