"""A stand-in LibreChat that calls its models through GEKO: the ledger and the provider's books agree to the token."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import asyncpg
import pytest

from tests.e2e.gateway import KEY, toml
from tests.e2e.people import Person, deltas, register
from tests.e2e.processes import JWT_REFRESH_SECRET, JWT_SECRET, Running, geko_environment, running

numbers = itertools.count(1)
HEAD = {"endpoint": "MockUsage", "endpointType": "custom", "model": "gpt-4o"}


@dataclass(frozen=True)
class Chain:
    """LibreChat behind GEKO in front of a provider."""

    geko: Running
    provider: Running
    dsn: str

    async def served(self, person: Person) -> list[dict[str, Any]]:
        """What the provider has served to a person's account, when all has ended."""
        account = (await person.call("GET", "/api/user")).json["id"]
        async with aiohttp.ClientSession(self.provider.url) as session, asyncio.timeout(20):
            while True:
                async with session.get("/served") as reply:
                    shown = await reply.json()
                if not shown["running"]:
                    return [call for call in shown["calls"] if call["user"] == account]
                await asyncio.sleep(0.05)

    async def ledger(self, person: Person, number: int) -> list[dict[str, Any]]:
        """The workspace's entries, when there are so many."""
        connection = await asyncpg.connect(self.dsn)
        query = (
            "select kind, model, tokens, estimated, run_id from usage_events where workspace_id = $1::uuid"
        )
        try:
            async with asyncio.timeout(20):
                while len(rows := await connection.fetch(query, person.workspace_id)) < number:
                    await asyncio.sleep(0.05)
        finally:
            await connection.close()
        return [dict(row) for row in rows]


@pytest.fixture(scope="module")
def chain(e2e_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("chain")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    secrets = ["--jwt-secret", JWT_SECRET, "--jwt-refresh-secret", JWT_REFRESH_SECRET]
    llm = ["--llm-url", f"http://127.0.0.1:{port}/llm", "--llm-key", KEY, "--memory-model", "gpt-4o-mini"]
    books = ["geko_proxy.demo.provider", "--port", "0", "--key", "provider-key"]
    with (
        running(books, {}, folder / "provider") as provider,
        running(
            ["geko_proxy.demo.librechat", "--port", "0", *secrets, *llm], {}, folder / "librechat"
        ) as librechat,
    ):
        listed = ("gpt-4o", "gpt-4o-mini")
        names = ("Mock", "MockUsage")
        settings = toml(dict.fromkeys(names, provider.url), dict.fromkeys(names, listed))
        config = folder / "geko.toml"
        config.write_text(settings.replace("port = 0", f"port = {port}"))
        command = ["geko_proxy", "--config", str(config), "serve"]
        with running(command, geko_environment(e2e_dsn, librechat.url), folder / "geko") as geko:
            yield Chain(geko, provider, e2e_dsn)


@pytest.fixture
async def alice(chain: Chain) -> AsyncIterator[Person]:
    async with aiohttp.ClientSession(chain.geko.url, cookie_jar=aiohttp.DummyCookieJar()) as client:
        yield await register(client, f"chain{os.getpid()}n{next(numbers)}@example.org", "Alice")


def visible(call: dict[str, Any]) -> bool:
    """Whether a call makes the answer; titles and memory are asked for otherwise."""
    return not call["lastUser"].startswith(("Provide a concise", "# Current Chat"))


def billed(calls: list[dict[str, Any]]) -> int:
    """What the provider would bill."""
    return sum(call["usage"]["totalTokens"] for call in calls)


async def test_every_call_of_a_turn_is_charged_once(chain: Chain, alice: Person) -> None:
    events = await alice.chat("hello [[tokens=40 delay_ms=2]]", **{**HEAD, "endpoint": "Mock"})
    assert len(deltas(events).split()) == 40
    calls = await chain.served(alice)
    ledger = await chain.ledger(alice, 3)
    assert sorted(entry["kind"] for entry in ledger) == ["chat", "memory", "title"]
    assert sum(entry["tokens"] for entry in ledger) == billed(calls)
    assert len(calls) == 3
    assert {entry["run_id"] for entry in ledger} == {events[-1]["responseMessage"]["messageId"]}


async def test_agents_tools_and_sub_agents_are_charged(chain: Chain, alice: Person) -> None:
    child = await agent(alice, model="gpt-4o-mini")
    subagents = {"enabled": True, "allowSelf": False, "agent_ids": [child]}
    parent = await agent(alice, model="gpt-4o", subagents=subagents, tools=["search_mcp_files"])
    order = "[[calls=3 subagent=9 tokens=12 only=gpt-4o]]"
    events = await alice.chat(order, endpoint="agents", endpointType=..., agent_id=parent)
    calls = await chain.served(alice)
    ledger = await chain.ledger(alice, len(calls))
    assert [call["model"] for call in calls if visible(call)] == [
        "gpt-4o",
        "gpt-4o-mini",
        "gpt-4o",
        "gpt-4o",
    ]
    assert sum(entry["tokens"] for entry in ledger) == billed(calls)
    assert len(ledger) == len(calls)
    assert events[-1]["responseMessage"]["content"][-1]["type"] == "text"


async def agent(person: Person, **fields: Any) -> str:
    """A new agent's id."""
    body = {"name": "Helper", "provider": "MockUsage", "tools": [], **fields}
    answer = await person.call("POST", "/api/agents", body)
    assert answer.status == 201, answer
    return str(answer.json["id"])


async def test_failures_retries_and_deaths_are_charged_what_was_written(chain: Chain, alice: Person) -> None:
    for order in (
        "status=400",
        "status=500 times=1 tokens=5",
        "die_after=6 tokens=20",
        "error_after=6 tokens=20",
    ):
        await alice.chat(f"x [[only=gpt-4o delay_ms=3 {order}]]", **HEAD)
    calls = await chain.served(alice)
    billable = [call for call in calls if call["usage"]["totalTokens"]]
    ledger = await chain.ledger(alice, len(billable))
    assert sum(entry["tokens"] for entry in ledger) == billed(calls)


async def test_an_abort_is_charged_what_was_written(chain: Chain, alice: Person) -> None:
    order = "x [[only=gpt-4o tokens=99 delay_ms=2 hang_after=12]]"
    stream_id = await alice.start(order, **HEAD)
    async with alice.subscribed(stream_id) as reply:
        await reply.content.readuntil(b'" wise"')
        assert (await alice.call("POST", "/api/agents/chat/abort", {"streamId": stream_id})).status == 200
        await reply.read()
    calls = await chain.served(alice)
    ledger = await chain.ledger(alice, len(calls))
    assert [call["outcome"] for call in calls if visible(call)] == ["left"]
    assert sum(entry["tokens"] for entry in ledger) == billed(calls)
    assert [entry["estimated"] for entry in ledger if entry["kind"] == "chat"] == [True]


async def test_the_page_lists_the_workspaces_models(chain: Chain, alice: Person) -> None:
    listed = (await alice.call("GET", "/api/models")).json
    assert listed["MockUsage"] == ["gpt-4o", "gpt-4o-mini"]
    await alice.set_config(models=["MockUsage/gpt-4o-mini"])
    listed = (await alice.call("GET", "/api/models")).json
    assert listed["MockUsage"] == ["gpt-4o-mini"]
