"""API keys in a real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from geko_proxy.accounts import api_keys as module
from geko_proxy.accounts.api_keys import ApiKeys, KeyScope, KeyTerms, TooManyKeys
from geko_proxy.accounts.key_text import KeyText
from geko_proxy.storage.database import Database
from geko_proxy.storage.invalidation import Invalidation
from tests.conftest import Account

MONTH = datetime(2026, 11, 1, tzinfo=UTC)
TERMS = KeyTerms("ci", (KeyScope.CHAT, KeyScope.USAGE_READ), ("Mock/*",), 500)


@pytest.fixture
async def keys(database: Database, invalidation: Invalidation) -> ApiKeys:
    return ApiKeys(database, invalidation)


@pytest.fixture
async def elsewhere(database: Database, dsn: str) -> AsyncIterator[ApiKeys]:
    """Another instance's view of the same keys."""
    heard = Invalidation(dsn)
    await heard.start()
    yield ApiKeys(database, heard)
    await heard.stop()


async def create(
    database: Database, keys: ApiKeys, account: Account, terms: KeyTerms = TERMS
) -> tuple[UUID, str]:
    async with database.tenant(account.tenant_id) as scope:
        return await keys.create(scope, account.workspace_id, account.user_id, terms)


async def gone(keys: ApiKeys, text: str) -> bool:
    """Whether a key stops working within a second."""
    for _ in range(100):
        if await keys.verify(text) is None:
            return True
        await asyncio.sleep(0.01)
    return False


async def test_a_new_key_is_good_and_says_for_whom(
    database: Database, keys: ApiKeys, account: Account
) -> None:
    key_id, text = await create(database, keys, account)
    for _ in range(2):  # from the database, from the cache
        key = await keys.verify(text)
        assert key is not None
        assert (key.key_id, key.name, key.models) == (key_id, "ci", ("Mock/*",))
        assert (key.tenant_id, key.workspace_id, key.user_id) == account.place
        assert key.allows(KeyScope.CHAT)
        assert not key.allows(KeyScope.WORKSPACE_READ)


async def test_the_secret_is_nowhere_in_the_database(
    database: Database, keys: ApiKeys, account: Account, dsn: str
) -> None:
    _, text = await create(database, keys, account)
    connection = await asyncpg.connect(dsn)
    (row,) = await connection.fetch("select api_keys::text as whole, secret_hash from api_keys")
    await connection.close()
    secret = KeyText.decode(text).secret
    assert row["secret_hash"] == KeyText.decode(text).hash()
    assert secret.hex() not in row["whole"]
    assert text[26:69] not in row["whole"]


async def test_wrong_secrets_and_unknown_ids_are_none(
    database: Database, keys: ApiKeys, account: Account
) -> None:
    key_id, text = await create(database, keys, account)
    assert await keys.verify(text) is not None  # now it is in the cache
    assert await keys.verify(KeyText.new(key_id).encode()) is None
    assert await keys.verify(KeyText.new(uuid4()).encode()) is None
    assert await keys.verify(text[:-1]) is None
    assert await keys.verify(text) is not None


async def test_each_wrong_key_costs_the_same_look(
    database: Database, keys: ApiKeys, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_id, text = await create(database, keys, account)
    assert await keys.verify(text) is not None
    looks: list[int] = []
    real = database.system

    def counted() -> Any:
        looks.append(1)
        return real()

    monkeypatch.setattr(database, "system", counted)
    for wrong in (KeyText.new(key_id), KeyText.new(uuid4())):
        for _ in range(2):
            looks.clear()
            assert await keys.verify(wrong.encode()) is None
            assert len(looks) == 1


async def test_revoking_is_seen_by_all_instances_within_a_second(
    database: Database, keys: ApiKeys, elsewhere: ApiKeys, account: Account
) -> None:
    key_id, text = await create(database, keys, account)
    assert await elsewhere.verify(text) is not None
    async with database.tenant(account.tenant_id) as scope:
        assert await keys.revoke(scope, key_id, user_id=uuid4()) is None
        assert await keys.revoke(scope, key_id, workspace_id=uuid4()) is None
        assert await keys.revoke(scope, key_id, user_id=account.user_id) is not None
        assert await keys.revoke(scope, key_id, user_id=account.user_id) is None
    keys.forget(key_id)
    assert await keys.verify(text) is None
    assert await gone(elsewhere, text)


@pytest.mark.parametrize(
    "statement",
    [
        "update users set disabled_at = now()",
        "update api_keys set expires_at = now()",
        "delete from api_keys",
    ],
)
async def test_whatever_ends_a_key_is_heard(
    database: Database, elsewhere: ApiKeys, account: Account, dsn: str, statement: str
) -> None:
    _, text = await create(database, elsewhere, account)
    assert await elsewhere.verify(text) is not None
    connection = await asyncpg.connect(dsn)
    await connection.execute(statement)
    await connection.close()
    assert await gone(elsewhere, text)


async def test_a_key_ends_when_it_expires_also_in_the_cache(
    database: Database, keys: ApiKeys, account: Account
) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    _, text = await create(database, keys, account, KeyTerms("short", (KeyScope.CHAT,), expires_at=soon))
    assert await keys.verify(text) is not None
    assert await gone(keys, text)
    assert datetime.now(UTC) >= soon


async def test_changed_terms_hold_at_once(
    database: Database, keys: ApiKeys, elsewhere: ApiKeys, account: Account
) -> None:
    key_id, text = await create(database, keys, account)
    key = await elsewhere.verify(text)
    terms = KeyTerms("renamed", (KeyScope.WORKSPACE_WRITE,), None, None)
    async with database.tenant(account.tenant_id) as scope:
        assert not await keys.update(scope, uuid4(), key_id, terms)
        assert await keys.update(scope, account.user_id, key_id, terms)
        record = await keys.get(scope, account.user_id, key_id, MONTH)
    assert record is not None
    assert record.terms == terms
    for _ in range(100):
        key = await elsewhere.verify(text)
        if key is not None and key.models is None:
            break
        await asyncio.sleep(0.01)
    assert key is not None
    assert key.allows(KeyScope.WORKSPACE_READ)  # to write is to read
    assert not key.allows(KeyScope.CHAT)


async def test_uses_are_written_in_one_statement_and_never_go_back(
    database: Database, keys: ApiKeys, account: Account, stranger: Account
) -> None:
    first, _ = await create(database, keys, account)
    second, _ = await create(database, keys, stranger)  # of another tenant
    before = datetime.now(UTC)
    for key_id in (first, second, first):
        keys.note_use(key_id)
    await keys.flush_uses()
    keys._used[first] = before - timedelta(hours=1)  # another instance is late
    await keys.flush_uses()
    for who in (account, stranger):
        (record,) = await keys.list_of_user(who.tenant_id, who.user_id, MONTH)
        assert record.last_used_at is not None
        assert record.last_used_at >= before


async def test_uses_survive_a_database_that_is_away(
    database: Database, keys: ApiKeys, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_id, _ = await create(database, keys, account)
    keys.note_use(key_id)
    with monkeypatch.context() as patch:
        patch.setattr(module, "TOUCH", "select nonsense")
        with pytest.raises(asyncpg.PostgresError):
            await keys.flush_uses()
    await keys.flush_uses()
    (record,) = await keys.list_of_workspace(account.tenant_id, account.workspace_id, MONTH)
    assert record.last_used_at is not None


async def test_racing_calls_do_not_pass_the_limit_of_keys(
    database: Database, keys: ApiKeys, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_KEYS", 3)
    made = await asyncio.gather(*(create(database, keys, account) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(each, TooManyKeys) for each in made) == 5
    assert len(await keys.list_of_user(account.tenant_id, account.user_id, MONTH)) == 3


async def test_another_tenant_sees_and_touches_nothing(
    database: Database, keys: ApiKeys, account: Account, stranger: Account
) -> None:
    key_id, text = await create(database, keys, account)
    assert await keys.list_of_workspace(stranger.tenant_id, account.workspace_id, MONTH) == []
    async with database.tenant(stranger.tenant_id) as scope:
        assert await keys.get(scope, account.user_id, key_id, MONTH) is None
        assert await keys.revoke(scope, key_id) is None
    assert await keys.verify(text) is not None
