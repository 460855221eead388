"""A crash of PostgreSQL takes back what was committed in its last moments: begin_lease does not wait for the disk."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from geko_proxy.accounts.registration import Registration
from geko_proxy.errors import StoreError
from geko_proxy.metering.call_leases import CallLeases, CallOrigin, Parent
from geko_proxy.metering.leases import Amount, Lease, Leases, NewTurn
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.metering.limits import holds_of
from geko_proxy.storage.database import Database
from geko_proxy.storage.embedded import EmbeddedPostgres
from geko_proxy.storage.migrations import migrate
from tests.conftest import SQL
from tests.metering.leasing import charge

# The log is written seldom, so that a crash takes back whatever did not ask for more.
SETTINGS = {"wal_writer_delay": "10s"}


@dataclass
class Crashing:
    """A PostgreSQL that is killed as by a power failure, and what is in it."""

    server: EmbeddedPostgres
    home: Path
    dsn: str
    database: Database
    turn: NewTurn

    async def crash(self) -> None:
        postmaster = int((self.home / "postgres" / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGQUIT)  # "immediate": nothing more is written
        await asyncio.to_thread(self.server.stop)
        await asyncio.to_thread(self.server.start, self.home)
        for _ in range(100):  # the pool meets its dead connections
            try:
                await self.database.ping()
                break
            except StoreError:
                await asyncio.sleep(0.05)

    async def begin(self, leases: Leases) -> Lease:
        holds = holds_of((), self.turn.actor, self.turn.started_at, "UTC")
        lease = await leases.begin(self.turn, holds, Amount(10), Amount(20))
        assert isinstance(lease, Lease)
        return lease

    async def call(self, leases: Leases, message: Lease) -> Lease:
        """A call that makes the answer of a message."""
        turn = replace(self.turn, turn_id=uuid4(), conversation_id=None)
        holds = holds_of((), turn.actor, turn.started_at, "UTC")
        origin = CallOrigin("chat", "conversation", "m1", Parent(message.turn_id, None, None))
        begun = await CallLeases(self.database, leases).begin(turn, holds, Amount(10), Amount(20), origin)
        assert isinstance(begun, Lease)
        return begun

    async def flush(self) -> None:
        """All that was committed so far is on disk."""
        await self.database.call("select pg_logical_emit_message(true, 'geko', '')")

    async def days(self) -> tuple[int, int, int]:
        """Messages, calls and tokens in the sums by day."""
        connection = await asyncpg.connect(self.dsn)
        try:
            row = await connection.fetchrow(
                "select sum(turns) as turns, sum(calls) as calls, sum(tokens) as tokens from usage_days"
            )
        finally:
            await connection.close()
        assert row is not None
        return row["turns"], row["calls"], row["tokens"]

    async def books(self) -> tuple[int, int, int]:
        """Turns; tokens used and leased."""
        connection = await asyncpg.connect(self.dsn)
        try:
            turns = await connection.fetchval("select count(*) from turns")
            row = await connection.fetchrow("select used, leased from limit_windows")
            return turns, *(row if row is not None else (0, 0))
        finally:
            await connection.close()


@pytest.fixture(scope="module")
def crashing_home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="geko-"))
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
async def crashing(crashing_home: Path) -> AsyncIterator[Crashing]:
    server = EmbeddedPostgres(SETTINGS)
    dsn = await asyncio.to_thread(server.start, crashing_home)
    try:
        await migrate(dsn, SQL)
        database = await Database.open(dsn)
        connection = await asyncpg.connect(dsn)
        await connection.execute("truncate tenants cascade")
        await connection.close()
        done = await Registration(database).register(
            email=f"{uuid4().hex}@example.org", password="long enough", name="C", token_limit=1000
        )
        await database.call("select pg_logical_emit_message(true, 'geko', '')")
        place = (done.tenant.tenant_id, done.workspace.workspace_id, done.user.user_id)
        turn = NewTurn(*place, "conversation", "Mock", "gpt-4o", started_at=datetime.now(UTC))
        yield Crashing(server, crashing_home, dsn, database, turn)
        await database.close()
    finally:
        await asyncio.to_thread(server.stop)


async def test_a_turn_whose_start_is_lost_is_charged_all_the_same(crashing: Crashing) -> None:
    leases = Leases(crashing.database)
    lease = await crashing.begin(leases)
    await crashing.crash()
    assert (await crashing.books())[0] == 0  # it is really gone
    await leases.settle(lease, Outcome.DONE, [charge(12)])
    await crashing.crash()  # a settlement is on disk when it returns
    await leases.settle(lease, Outcome.DONE, [charge(12)])
    connection = await asyncpg.connect(crashing.dsn)
    row = await connection.fetchrow(
        "select state, outcome, conversation_id, (select sum(tokens) from usage_events) as tokens,"
        " (select sum(tokens) from usage_days) as days from turns"
    )
    await connection.close()
    assert row is not None
    assert tuple(row) == ("settled", "done", "conversation", 12, 12)
    next_turn = NewTurn(crashing.turn.tenant_id, crashing.turn.workspace_id,
                        crashing.turn.user_id, "conversation", "Mock", "gpt-4o")  # fmt: skip
    crashing.turn = next_turn
    await crashing.begin(leases)
    assert await crashing.books() == (2, 12, 42)  # 12: what the conversation holds by now


async def test_a_running_turn_whose_start_is_lost_goes_on(crashing: Crashing) -> None:
    leases = Leases(crashing.database)
    lease = await crashing.begin(leases)
    await crashing.crash()
    gone = await leases.heartbeat(lease.tenant_id, {lease.turn_id: Amount(15)})
    assert gone == {lease.turn_id}
    granted = await leases.top_up(lease, Amount(5), Amount(40), Amount(35))
    assert granted.tokens == 45
    assert await crashing.books() == (1, 0, 75)
    assert not await leases.restore(lease, Amount(30), Amount(30))  # it is there again
    await leases.settle(lease, Outcome.DONE, [charge(50)])
    assert await crashing.books() == (1, 50, 0)


@pytest.mark.parametrize("message_is_lost", [False, True])
@pytest.mark.parametrize("call_goes_on", [False, True])
async def test_an_answer_whose_calls_start_is_lost_is_charged_once(
    crashing: Crashing, *, message_is_lost: bool, call_goes_on: bool
) -> None:
    leases = Leases(crashing.database)
    message = await crashing.begin(leases)
    if not message_is_lost:
        await crashing.flush()
    call = await crashing.call(leases, message)
    await crashing.crash()
    assert (await crashing.books())[0] == (0 if message_is_lost else 1)
    if call_goes_on:
        assert (await leases.top_up(call, Amount(5), Amount(40), Amount(35))).tokens == 45
        if message_is_lost:
            assert (await leases.top_up(message, Amount(5), Amount(40), Amount(35))).tokens == 45
    await leases.settle(call, Outcome.DONE, [charge(33)])
    await leases.settle(message, Outcome.DONE, [charge(30)])
    assert (await crashing.books())[0] == 2
    assert await crashing.days() == (1, 1, 33)
    if call_goes_on or not message_is_lost:  # else the window is lost, too; the next turn opens it
        assert await crashing.books() == (2, 33, 0)
