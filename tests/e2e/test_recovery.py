"""Instances that die, or are slow, while answers run: what LibreChat knows of them is charged, once."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from geko_proxy.storage.embedded import EmbeddedPostgres
from geko_proxy.storage.migrations import migrate
from tests.conftest import SQL
from tests.e2e.people import Person, login, register
from tests.e2e.processes import Running, geko_environment, running
from tests.e2e.test_failures import order

LEDGER = """
select e.tokens::int, e.estimated, e.source, t.state, t.outcome, t.conversation_id
from turns t left join usage_events e using (tenant_id, turn_id) where t.workspace_id = $1
order by t.started_at, e.recorded_at, e.seq desc"""
EXPIRE = "update leases set expires_at = now() - interval '1 second' where workspace_id = $1"


@dataclass
class Books:
    """The database's view of one workspace."""

    connection: asyncpg.Connection[asyncpg.Record]
    workspace_id: str

    async def ledger(self) -> list[dict[str, Any]]:
        return [dict(row) for row in await self.connection.fetch(LEDGER, self.workspace_id)]

    async def expire(self) -> None:
        """The time passes that a lease lives without a heartbeat."""
        await self.connection.execute(EXPIRE, self.workspace_id)

    async def settled(self) -> list[dict[str, Any]]:
        """The ledger once no turn runs; what is leased and used agrees with it then."""
        open_turns = "select count(*) from turns where workspace_id = $1 and ended_at is null"
        for _ in range(600):
            if await self.connection.fetchval(open_turns, self.workspace_id) == 0:
                break
            await asyncio.sleep(0.05)
        ledger = await self.ledger()
        window = await self.connection.fetchrow(
            "select used, leased from limit_windows where limit_id = $1", self.workspace_id
        )
        assert window is not None
        assert (window["used"], window["leased"]) == (sum(row["tokens"] or 0 for row in ledger), 0)
        return ledger


@pytest.fixture
def short_home() -> Iterator[Path]:
    """A folder for a PostgreSQL: pytest's own are too deep for a unix socket."""
    home = Path(tempfile.mkdtemp(prefix="geko-"))
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
async def books(e2e_dsn: str, alice: Person) -> AsyncIterator[Books]:
    """The books of Alice's workspace."""
    connection = await asyncpg.connect(e2e_dsn)
    yield Books(connection, alice.workspace_id)
    await connection.close()


Doomed = Callable[..., Any]


@pytest.fixture
def other(e2e_dsn: str, stand_in: Running, log_dir: Path, alice: Person, books: Books) -> Doomed:
    """Alice at a second instance; its leases are taken for expired once the context ends. `geko` lives on."""

    @asynccontextmanager
    async def begin(end: signal.Signals = signal.SIGKILL) -> AsyncIterator[tuple[Person, int]]:
        with running(
            ["geko_proxy", "serve"], geko_environment(e2e_dsn, stand_in.url), log_dir / "log"
        ) as doomed:
            async with aiohttp.ClientSession(doomed.url) as client:
                yield await login(client, alice.email), doomed.pid
                os.kill(doomed.pid, end)
        await books.expire()

    return begin


async def come_back(person: Person, conversation: str) -> list[Any]:
    """As the browser does it when its instance is gone: it asks again until there is a stream."""
    for _ in range(100):
        async with person.subscribed(conversation, "?resume=true") as reply:
            if reply.status == 200:
                break
        await asyncio.sleep(0.1)
    return await person.listen(conversation, "?resume=true")


async def test_an_answer_that_goes_on_is_read_to_its_end(other: Doomed, alice: Person, books: Books) -> None:
    async with other() as (person, _):
        conversation = await person.start("go on [[tokens=80 prompt=5 delay_ms=60]]")
        await asyncio.sleep(1.5)
    events = await come_back(alice, conversation)
    assert events[0]["sync"] is True
    assert events[-1]["final"] is True
    assert not events[-1].get("aborted")
    (row,) = await books.settled()
    assert (row["tokens"], row["estimated"], row["source"]) == (85, False, "provider")
    assert (row["state"], row["outcome"]) == ("recovered", "done")
    assert (await alice.chat("next [[tokens=2 prompt=3]]", conversationId=conversation))[-1]["final"] is True


async def test_an_answer_that_has_ended_is_charged_by_what_is_stored(
    other: Doomed, alice: Person, books: Books
) -> None:
    events = await alice.chat("first [[tokens=7 prompt=4]]")
    conversation = events[-1]["conversation"]["conversationId"]
    async with other() as (person, pid):
        await person.start("second [[tokens=11 prompt=40 cached=8 delay_ms=30]]", conversationId=conversation)
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(1)
    first, second = await books.settled()
    assert (first["tokens"], first["state"]) == (11, "settled")
    assert (second["tokens"], second["estimated"], second["source"]) == (51, False, "provider")
    assert second["state"] == "recovered"


async def test_without_reports_the_stored_answer_is_counted(other: Doomed, books: Books) -> None:
    async with other() as (person, pid):
        await person.start("unreported [[tokens=40 delay_ms=10]]", endpoint="Mock")
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(1)
    (row,) = await books.settled()
    assert (row["estimated"], row["source"]) == (True, "recovered")
    assert 40 <= row["tokens"] <= 80  # a word is about a token, and the prompt is short


async def test_who_takes_an_answer_over_holds_it_to_the_quota(
    other: Doomed, alice: Person, books: Books
) -> None:
    await alice.set_quota(150)
    async with other() as (person, pid):
        conversation = await person.start("too much [[tokens=900 prompt=5 delay_ms=20]]")
        await asyncio.sleep(0.5)
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(4)  # it goes on unseen
    (row,) = await books.settled()
    assert (row["outcome"], row["state"], row["estimated"]) == ("cut", "recovered", True)
    assert (await alice.call("GET", f"/api/agents/chat/status/{conversation}")).json["active"] is False
    messages = (await alice.call("GET", f"/api/messages/{conversation}")).json
    *text, reason = messages[-1]["content"]
    assert "quota" in reason["error"]
    words = sum(len(part["text"].split()) for part in text)
    assert 150 < words < 700  # what was made unseen is kept, and charged
    assert abs(row["tokens"] - 5 - words) <= 0.1 * words + 10


async def test_an_answer_that_was_taken_over_can_be_stopped(
    other: Doomed, alice: Person, books: Books
) -> None:
    async with other() as (person, _):
        conversation = await person.start("stop me [[tokens=900 prompt=5 delay_ms=50]]")
        await asyncio.sleep(1.2)
    listening = asyncio.create_task(come_back(alice, conversation))
    for _ in range(100):
        answer = await alice.call("POST", "/api/agents/chat/abort", {"conversationId": conversation})
        if answer.status == 200:
            break
        await asyncio.sleep(0.1)
    assert (await listening)[-1]["aborted"] is True
    (row,) = await books.settled()
    assert (row["outcome"], row["estimated"], row["source"]) == ("aborted", True, "recovered")
    assert row["tokens"] > 20


async def test_an_answer_that_was_taken_over_ends_with_its_key(
    other: Doomed, alice: Person, books: Books
) -> None:
    made = await alice.call("POST", "/v1/api-keys", {"name": "ci", "scopes": ["chat"]})
    body = {"message": "go on [[tokens=400 prompt=5 delay_ms=50]]", "model": "MockUsage/gpt-4o-mini"}
    async with other() as (person, _):
        headers = {"Authorization": f"Bearer {made.json['key']}"}
        async with person.client.post("/v1/chat/send", json=body, headers=headers) as reply:
            await reply.content.readuntil(b"event: token")
            await asyncio.sleep(1)
    assert (await alice.call("DELETE", f"/v1/api-keys/{made.json['id']}")).status == 204
    async with asyncio.timeout(12):  # the whole answer takes twenty seconds
        (row,) = await books.settled()
    assert (row["outcome"], row["state"]) == ("aborted", "recovered")
    assert 0 < row["tokens"] < 400


async def test_librechat_being_away_delays_and_does_not_lose(
    other: Doomed, books: Books, stand_in: Running
) -> None:
    async with other() as (person, pid):
        await person.start("later [[tokens=9 prompt=5 delay_ms=10]]")
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(0.6)
        await order(stand_in, path="/api/agents/chat/status/*", kind="status", status=503, times=3)
        await order(stand_in, path="/api/messages/*", kind="close", times=1)
    (row,) = await books.settled()
    assert (row["tokens"], row["estimated"]) == (14, False)


async def test_an_instance_that_was_only_slow_is_charged_once(
    other: Doomed, alice: Person, books: Books
) -> None:
    async with other(signal.SIGTERM) as (person, pid):
        await person.start("slow [[tokens=60 prompt=5 delay_ms=50]]")
        await asyncio.sleep(1)
        os.kill(pid, signal.SIGSTOP)
        await books.expire()
        (row,) = await books.settled()
        assert (row["tokens"], row["state"]) == (65, "recovered")
        os.kill(pid, signal.SIGCONT)
        for _ in range(100):
            if (await books.ledger())[0]["state"] == "settled":
                break
            await asyncio.sleep(0.1)
    (row,) = await books.settled()
    assert (row["tokens"], row["state"], row["source"]) == (65, "settled", "provider")


async def test_what_ended_while_the_database_was_away_survives_kill_9(
    stand_in: Running, short_home: Path, tmp_path: Path
) -> None:
    """The client saw the end; the process that knew what it cost is gone before the database is back."""
    postgres = EmbeddedPostgres()
    dsn = await asyncio.to_thread(postgres.start, short_home)
    try:
        await migrate(dsn, SQL)
        environ = geko_environment(dsn, stand_in.url, GEKO_HOME=str(tmp_path / "geko"))
        with running(["geko_proxy", "serve"], environ, tmp_path / "log") as doomed:
            async with aiohttp.ClientSession(doomed.url, cookie_jar=aiohttp.DummyCookieJar()) as client:
                person = await register(client, "outage@example.org", "Alice")
                conversation = await person.start("outage [[tokens=30 prompt=5 delay_ms=50]]")
                listening = asyncio.create_task(person.listen(conversation))
                await asyncio.sleep(0.3)
                await asyncio.to_thread(postgres.stop)
                last = (await listening)[-1]
                assert (last["final"], last.get("aborted")) == (True, None), last
            (journal,) = (tmp_path / "geko" / "journal").iterdir()
            assert person.workspace_id.encode() in journal.read_bytes()
            os.kill(doomed.pid, signal.SIGKILL)
        assert await asyncio.to_thread(postgres.start, short_home) == dsn
        connection = await asyncpg.connect(dsn)
        books = Books(connection, person.workspace_id)
        with running(["geko_proxy", "serve"], environ, tmp_path / "log2"):
            (row,) = await books.settled()
            assert (row["tokens"], row["estimated"], row["outcome"]) == (35, False, "done")
            await books.expire()
            await asyncio.sleep(3)  # whoever looks for lost turns finds none
            assert await books.settled() == [row]
            assert not list((tmp_path / "geko" / "journal").iterdir())
        await connection.close()
    finally:
        await asyncio.to_thread(postgres.stop)
