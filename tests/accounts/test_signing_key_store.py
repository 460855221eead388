"""Signing keys as rows: sealed, bound to their name, and out of reach."""

from __future__ import annotations

import asyncpg
import pytest

from geko_proxy.accounts.sealing import Sealer
from geko_proxy.accounts.signing_key_store import SigningKeyStore, UnknownKid, with_ends
from geko_proxy.accounts.signing_keys import BadKey, generate, key_of, to_pem
from geko_proxy.storage.database import Database
from geko_proxy.storage.invalidation import Invalidation

SECRET = "e3f1c5d7e9b2406880aa11bb22cc33dd"


async def change(dsn: str, sql: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(sql)
    await connection.close()


@pytest.mark.parametrize("kid", ["", "nobody", "'; drop table signing_keys --", "\0", "x" * 9999])
async def test_nobodys_key_can_not_be_retired(
    database: Database, invalidation: Invalidation, kid: str
) -> None:
    with pytest.raises(UnknownKid):
        await SigningKeyStore(database, Sealer(SECRET), invalidation).retire(kid)


async def test_a_key_that_somebody_put_into_the_database_is_not_believed(
    database: Database, dsn: str, invalidation: Invalidation
) -> None:
    store = SigningKeyStore(database, Sealer(SECRET), invalidation)
    kid = await store.add("EdDSA", 0)
    mine = key_of(generate("EdDSA"))
    for sealed in ("AAAA", "", to_pem(generate("EdDSA")), "é"):
        await change(dsn, f"update signing_keys set sealed_key = '{sealed}'")
        with pytest.raises(BadKey):
            store.open((await store.rows())[0])
    assert kid != mine.kid
    # a sealed key moved to another name
    await store.add("EdDSA", 0)
    await change(
        dsn,
        "update signing_keys a set sealed_key = b.sealed_key from signing_keys b"
        " where a.sealed_key = 'é' and b.kid <> a.kid",
    )
    opened = 0
    for row in await store.rows():
        try:
            opened += bool(store.open(row))
        except BadKey:
            continue
    assert opened == 1


async def test_gekos_role_can_not_read_the_table(database: Database) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with database.system() as system:
            await system.fetch("select * from signing_keys")


def test_each_algorithm_has_its_own_line() -> None:
    first, second = (key_of(generate("EdDSA"), signs_from=start) for start in (100.0, 200.0))
    other = key_of(generate("RS256"), signs_from=150.0)
    ends = {key.kid: key.ends_at for key in with_ends([second, other, first], 60)}
    assert ends == {first.kid: 260.0, second.kid: float("inf"), other.kid: float("inf")}
