"""Callers that leave at any moment: nothing is left behind, and whatever was made is charged."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from tests.e2e.gateway import LlmSide, account_of, llm_side, toml
from tests.e2e.people import Person, register
from tests.e2e.processes import Running, running

numbers = itertools.count(1)
CALLS = int(os.environ.get("GEKO_TEST_LEAVERS", "300"))
AT_ONCE = 40


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A provider that writes down what it served."""
    log = tmp_path_factory.mktemp("provider") / "log"
    with running(["geko_proxy.demo.provider", "--port", "0", "--key", "provider-key"], {}, log) as server:
        yield server


@pytest.fixture(scope="module")
def side(
    e2e_dsn: str, stand_in: Running, provider: Running, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LlmSide]:
    """GEKO in front of it."""
    with llm_side(
        e2e_dsn, stand_in.url, toml({"Mock": provider.url}), tmp_path_factory.mktemp("leavers")
    ) as found:
        yield found


@pytest.fixture
async def alice(side: LlmSide) -> AsyncIterator[Person]:
    """Somebody who calls."""
    async with aiohttp.ClientSession(side.geko.url, cookie_jar=aiohttp.DummyCookieJar()) as client:
        yield await register(client, f"leave{os.getpid()}n{next(numbers)}@example.org", "Alice")


def descriptors(pid: int) -> int:
    """How many files and sockets a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident(pid: int) -> int:
    """Its memory, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


async def state(dsn: str, person: Person) -> dict[str, Any]:
    """What the workspace's leases and windows hold, and what is charged."""
    connection = await asyncpg.connect(dsn)
    try:
        row = await connection.fetchrow(
            "select (select count(*) from leases where workspace_id = $1::uuid) as leases,"
            " (select coalesce(sum(leased), 0) from limit_windows where workspace_id = $1::uuid) as leased,"
            " (select coalesce(sum(used), 0) from limit_windows where workspace_id = $1::uuid) as used,"
            " (select coalesce(sum(tokens), 0) from usage_events where workspace_id = $1::uuid) as charged,"
            " (select count(*) from usage_events where workspace_id = $1::uuid) as calls",
            person.workspace_id,
        )
    finally:
        await connection.close()
    assert row is not None
    return {name: int(value) for name, value in row.items()}


async def test_callers_that_leave_at_any_moment_leave_nothing_behind(
    side: LlmSide, provider: Running, alice: Person, e2e_dsn: str
) -> None:
    await alice.set_quota(100_000_000)
    account, room, chance = await account_of(alice), asyncio.Semaphore(AT_ONCE), random.Random(7)
    kinds: list[dict[str, Any]] = [{"stream": True}, {"stream": False}, {"logprobs": True}]

    async def one(number: int) -> None:
        patience = chance.uniform(0, 0.25) if number % 10 else None
        async with room:
            call = side.call(
                account, "gpt-4o", "[[tokens=20 delay_ms=4]] go", user=account, **kinds[number % 3]
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(call, patience)

    await asyncio.gather(*(one(number) for number in range(60)))
    before = descriptors(side.geko.pid), resident(side.geko.pid)
    await asyncio.gather(*(one(number) for number in range(CALLS)))
    async with asyncio.timeout(90):
        while (now := await state(e2e_dsn, alice))["leases"]:
            await asyncio.sleep(0.2)
    assert now["leased"] == 0
    assert now["used"] == now["charged"]
    after = descriptors(side.geko.pid), resident(side.geko.pid)
    print(f"{CALLS} calls: descriptors and KiB before {before}, after {after}; {now}")
    assert after[0] <= before[0] + AT_ONCE
    assert after[1] <= before[1] + 40_000
    async with aiohttp.ClientSession(provider.url) as session, session.get("/served") as reply:
        served = await reply.json()
    assert not served["running"]
    calls = [call for call in served["calls"] if call["user"] == account]
    billed = sum(call["usage"]["totalTokens"] for call in calls)
    # what a provider makes before it has sent a byte, or while nobody listens, only it knows
    assert now["calls"] == len(calls)
    assert billed * 0.8 <= now["charged"] <= billed * 1.02
