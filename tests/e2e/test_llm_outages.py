"""Calls while the database is away, and calls of a process that is killed: they end well, and are charged."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from geko_proxy.storage.embedded import EmbeddedPostgres
from geko_proxy.storage.migrations import migrate
from tests.conftest import SQL
from tests.e2e.gateway import account_of, llm_side, toml
from tests.e2e.people import register
from tests.e2e.processes import Running, running
from tests.e2e.test_llm import billed, served, settled
from tests.e2e.test_llm_leavers import state

AWAY_S = 5.0


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A provider that writes down what it served."""
    log = tmp_path_factory.mktemp("provider") / "log"
    with running(["geko_proxy.demo.provider", "--port", "0", "--key", "provider-key"], {}, log) as server:
        yield server


@pytest.fixture
async def postgres() -> AsyncIterator[tuple[EmbeddedPostgres, Path, str]]:
    """A database server that the test may stop, its folder, and its address."""
    with tempfile.TemporaryDirectory(prefix="geko-", dir="/tmp", ignore_cleanup_errors=True) as name:
        server, home = EmbeddedPostgres(), Path(name)
        dsn = await asyncio.to_thread(server.start, home)
        await migrate(dsn, SQL)
        yield server, home, dsn
        await asyncio.to_thread(server.stop)


async def test_calls_go_on_while_the_database_is_away(
    stand_in: Running, provider: Running, postgres: tuple[EmbeddedPostgres, Path, str], tmp_path: Path
) -> None:
    server, home, dsn = postgres
    with llm_side(
        dsn, stand_in.url, toml({"Mock": provider.url}), tmp_path, GEKO_HOME=str(tmp_path / "geko")
    ) as side:
        async with aiohttp.ClientSession(side.geko.url, cookie_jar=aiohttp.DummyCookieJar()) as client:
            alice = await register(client, "away@example.org", "Alice")
            account = await account_of(alice)
            orders = ["[[tokens=60 delay_ms=20]]", "[[tokens=900 delay_ms=10]]", "[[tokens=60 delay_ms=20]]"]
            calls = [
                asyncio.create_task(side.call(account, "gpt-4o", text, user=account, stream=number < 2))
                for number, text in enumerate(orders)
            ]
            await asyncio.sleep(0.5)
            await asyncio.to_thread(server.stop)
            await asyncio.sleep(0.5)
            refused = await side.call(account, "gpt-4o", "now", user=account, stream=True)
            assert refused.status == 503, refused
            await asyncio.sleep(AWAY_S)
            assert await asyncio.to_thread(server.start, home) == dsn
            replies = await asyncio.gather(*calls)
            assert [reply.status for reply in replies] == [200, 200, 200]
            assert [len(reply.text.split()) for reply in replies[:2]] == [60, 900]
            assert all(reply.events[-1].data == b"[DONE]" for reply in replies[:2])
            found = await settled(dsn, alice, 3)
            made = await served(provider, account)
            assert sum(entry["tokens"] for entry in found) == billed(made)
            async with asyncio.timeout(30):
                while (now := await state(dsn, alice))["leases"]:
                    await asyncio.sleep(0.2)
            assert (now["leased"], now["calls"], now["used"]) == (0, 3, billed(made))


async def test_calls_of_a_process_that_is_killed_are_charged(
    e2e_dsn: str, stand_in: Running, provider: Running, tmp_path: Path
) -> None:
    def side_in(name: str) -> Path:
        (tmp_path / name).mkdir()
        return tmp_path / name

    settings = toml({"Mock": provider.url})
    with (
        llm_side(e2e_dsn, stand_in.url, settings, side_in("one")) as doomed,
        llm_side(e2e_dsn, stand_in.url, settings, side_in("two")) as other,
    ):
        async with aiohttp.ClientSession(other.geko.url, cookie_jar=aiohttp.DummyCookieJar()) as client:
            alice = await register(client, f"killed{os.getpid()}@example.org", "Alice")
            account = await account_of(alice)
            asked = "[[tokens=2000 delay_ms=10]]"
            calls = [
                asyncio.create_task(
                    doomed.call(account, "gpt-4o", asked, user=account, kind=kind, stream=True)
                )
                for kind in (None, "summary")
            ]
            await asyncio.sleep(5)
            os.kill(doomed.geko.pid, signal.SIGKILL)
            await asyncio.gather(*calls, return_exceptions=True)
            async with asyncio.timeout(40):
                found = await settled(e2e_dsn, alice, 2)
            made = billed(await served(provider, account))
            total = sum(entry["tokens"] for entry in found)
            assert made * 0.3 <= total <= made  # by the last heartbeat, which is 3 s old at most
            assert {entry["kind"] for entry in found} == {"chat", "summary"}
            assert all(entry["estimated"] for entry in found)
            assert (await state(e2e_dsn, alice))["leased"] == 0
