"""Signing keys in the database: made once, known everywhere before they sign, replaced, retired."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from geko_proxy.accounts.sealing import Sealer
from geko_proxy.accounts.signing_key_rotation import DELAY_S, RotationPlan, SigningKeyRotation
from geko_proxy.accounts.signing_key_store import SigningKeyStore, StillSigning, UnknownKid
from geko_proxy.accounts.signing_keys import BadKey, KeyRing, generate, to_pem
from geko_proxy.errors import ConfigError
from geko_proxy.storage.database import Database
from geko_proxy.storage.invalidation import Invalidation

SECRET = "e3f1c5d7e9b2406880aa11bb22cc33dd"
EDDSA = RotationPlan("EdDSA", token_ttl_s=900, rotation_days=90)


class Instance:
    """One GEKO: its rotation, and the ring that it uses."""

    def __init__(
        self, database: Database, invalidation: Invalidation, plan: RotationPlan, secret: str = SECRET
    ) -> None:
        self.ring = KeyRing()
        self.store = SigningKeyStore(database, Sealer(secret), invalidation)
        self.rotation = SigningKeyRotation(self.store, invalidation, plan, self.use)

    def use(self, ring: KeyRing) -> None:
        self.ring = ring

    def signer(self, later_s: float = 0) -> str:
        key = self.ring.signer("EdDSA", time.time() + later_s)
        assert key is not None
        return key.kid

    @property
    def published(self) -> set[str]:
        return {key["kid"] for key in self.rotation.jwks(time.time())}


@asynccontextmanager
async def instance(
    database: Database, dsn: str, plan: RotationPlan = EDDSA, secret: str = SECRET
) -> AsyncIterator[Instance]:
    invalidation = Invalidation(dsn)
    await invalidation.start()
    started = Instance(database, invalidation, plan, secret)
    try:
        await started.rotation.start()
        yield started
    finally:
        await started.rotation.stop()
        await invalidation.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


async def change(dsn: str, sql: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(sql)
    await connection.close()


async def test_instances_that_start_at_once_make_one_first_key(database: Database, dsn: str) -> None:
    async with instance(database, dsn) as one, instance(database, dsn) as two:
        await asyncio.gather(*(each.rotation.reload() for each in (one, two) * 3))
        assert one.signer() == two.signer()
        assert len(await one.store.rows()) == 1


async def test_a_new_key_is_known_everywhere_before_it_signs(database: Database, dsn: str) -> None:
    async with instance(database, dsn) as one, instance(database, dsn) as two:
        first = one.signer()
        second = await one.store.add("EdDSA", DELAY_S)
        assert second is not None
        await until(lambda: second in one.published and second in two.published)
        assert (one.signer(), two.signer()) == (first, first)
        assert (one.signer(DELAY_S + 5), two.signer(DELAY_S + 5)) == (second, second)
        old = two.ring.find(first)
        assert old is not None
        assert old.ends_at == pytest.approx(time.time() + DELAY_S + 900 + 60, abs=30)


async def test_a_retired_key_is_gone_everywhere(database: Database, dsn: str) -> None:
    async with instance(database, dsn) as one, instance(database, dsn) as two:
        first = one.signer()
        with pytest.raises(StillSigning):
            await one.store.retire(first)
        second = await one.store.add("EdDSA", 0)
        await until(lambda: two.signer() == second)
        await one.store.retire(first)
        await until(lambda: one.published == two.published == {second})
        with pytest.raises(UnknownKid):
            await one.store.retire(first)
        rows = {row.kid: row for row in await one.store.rows()}
        assert rows[first].sealed is None


async def test_an_old_key_is_replaced_once_and_erased_when_its_tokens_are_over(
    database: Database, dsn: str
) -> None:
    async with instance(database, dsn) as one, instance(database, dsn) as two:
        first = one.signer()
        await change(dsn, "update signing_keys set created_at = now() - interval '91 days'")
        # what is opened is remembered: a new instance reads the changed row
        async with instance(database, dsn) as three:
            await asyncio.gather(*(each.rotation.reload() for each in (one, two, three)))
            assert len(await one.store.rows()) == 2
            assert len(three.published) == 2
            assert three.signer() == first
            await change(dsn, "update signing_keys set signs_from = signs_from - interval '2 days'")
        async with instance(database, dsn) as four:
            assert four.signer() != first
            rows = {row.kid: row for row in await four.store.rows()}
            assert rows[first].retired_at is not None
            assert rows[first].sealed is None


async def test_private_keys_are_sealed_and_opened_by_the_right_secret_only(
    database: Database, dsn: str
) -> None:
    async with instance(database, dsn) as one:
        (row,) = await one.store.rows()
        assert row.sealed is not None
        assert "PRIVATE" not in row.sealed
    with pytest.raises(ConfigError, match="opens no signing key"):
        async with instance(database, dsn, secret="another" * 8):
            pass


async def test_files_are_read_anew_when_they_change(database: Database, dsn: str, tmp_path: Path) -> None:
    plan = RotationPlan("EdDSA", 900, files=tmp_path)
    (tmp_path / "1.pem").write_text(to_pem(generate("EdDSA")))
    async with instance(database, dsn, plan) as one:
        first = one.signer()
        (tmp_path / "2.pem").write_text(to_pem(generate("EdDSA")))
        await one.rotation.reload()
        assert one.signer() != first
        (tmp_path / "3.pem").write_text("broken")
        with pytest.raises(BadKey):
            await one.rotation.reload()
        assert len(one.published) == 2
        assert await one.store.rows() == []


async def test_files_without_a_key_that_signs(database: Database, dsn: str, tmp_path: Path) -> None:
    for content in ("", to_pem(generate("RS256"))):
        (tmp_path / "1.pem").write_text(content)
        with pytest.raises(ConfigError, match=r"auth\.signing_keys"):
            async with instance(database, dsn, RotationPlan("EdDSA", 900, files=tmp_path)):
                pass


async def test_with_hs256_no_key_is_made(database: Database, dsn: str) -> None:
    async with instance(database, dsn, RotationPlan("HS256", 900, rotation_days=90)) as one:
        assert one.published == set()
        kid = await one.store.add("EdDSA", 0)  # to change over: known before anything signs with it
        await until(lambda: one.published == {kid})


async def test_asking_for_unknown_keys_does_not_ask_the_database_each_time(
    database: Database, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with instance(database, dsn) as one:
        asked = 0
        rows = one.store.rows

        async def counting() -> object:
            nonlocal asked
            asked += 1
            return await rows()

        monkeypatch.setattr(one.store, "rows", counting)
        for _ in range(50):
            await one.rotation.refresh()
        assert asked <= 2
