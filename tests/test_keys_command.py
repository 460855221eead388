"""`geko keys`."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from geko_proxy import keys_command
from geko_proxy.accounts.signing_key_store import StillSigning, StoredKey, UnknownKid
from geko_proxy.config import AuthSettings, DatabaseSettings, Settings
from geko_proxy.errors import ConfigError

SECRET = "e3f1c5d7e9b2406880aa11bb22cc33dd"


def read(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    keys_command.add_parser(parser.add_subparsers())
    return parser.parse_args(["keys", *words])


async def run(capsys: pytest.CaptureFixture[str], dsn: str, *words: str, **auth: Any) -> list[str]:
    given = AuthSettings(**{"encryption_secret": SECRET, **auth})
    settings = Settings(database=DatabaseSettings(url=dsn), auth=given)
    await keys_command.run(settings, read(*words))
    return capsys.readouterr().out.splitlines()


async def test_keys_are_made_listed_and_retired(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run(capsys, dsn, "list") == ["there are no keys"]
    (first,) = [line.split()[1] for line in await run(capsys, dsn, "rotate")]
    (second,) = [line.split()[1] for line in await run(capsys, dsn, "rotate")]
    await run(capsys, dsn, "rotate", "--algorithm", "RS256")
    listed = [line.split()[:3] for line in await run(capsys, dsn, "list")]
    assert [first, "EdDSA", "signing"] in listed
    assert [second, "EdDSA", "next"] in listed
    assert [words[1:] for words in listed].count(["RS256", "signing"]) == 1
    with pytest.raises(StillSigning):
        await run(capsys, dsn, "retire", first)
    await run(capsys, dsn, "retire", first, "--force")
    with pytest.raises(UnknownKid):
        await run(capsys, dsn, "retire", first)
    assert [first, "EdDSA", "retired"] in [line.split()[:3] for line in await run(capsys, dsn, "list")]


async def test_what_was_done_to_keys_stays_on_record(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    (kid,) = [line.split()[1] for line in await run(capsys, dsn, "rotate")]
    await run(capsys, dsn, "retire", kid, "--force")
    with pytest.raises(UnknownKid):
        await run(capsys, dsn, "retire", kid)
    retired, made = (line.split("  ") for line in await run(capsys, dsn, "log"))
    assert [made[2:4], retired[2:4]] == [["signing_key.add", kid], ["signing_key.retire", kid]]
    assert made[1] == retired[1] == keys_command.whoami()
    assert SECRET not in "".join(made)
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("set role geko_app")
        for statement in ("delete from installation_log", "select * from installation_log"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()


async def test_what_keeps_it_from_working(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="encryption_secret"):
        await run(capsys, dsn, "list", encryption_secret="changeme")
    with pytest.raises(ConfigError, match="by its files"):
        await run(capsys, dsn, "rotate", signing_keys="/keys")


@pytest.mark.parametrize(
    ("signs_in_s", "successor_in_s", "state"),
    [
        (10, None, "next"),
        (-10, None, "signing"),
        (-10, 5, "signing"),
        (-10, -5, "verifying"),
        (-99, -61, "over"),
    ],
)
def test_the_states(signs_in_s: int, successor_in_s: int | None, state: str) -> None:
    now = datetime.now(UTC)
    row = StoredKey("k", "EdDSA", "sealed", now, now + timedelta(seconds=signs_in_s), None)
    successor = None if successor_in_s is None else now.timestamp() + successor_in_s
    assert keys_command.state_of(row, successor, 60, now.timestamp()) == state
