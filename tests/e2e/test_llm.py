"""Model calls through the internal listener, as LibreChat makes them: whose they are, what they may, what they cost."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from tests.e2e.gateway import KEY, LlmSide, account_of, llm_side, toml
from tests.e2e.people import Person, register
from tests.e2e.processes import Running, running

numbers = itertools.count(1)
MODELS = ("gpt-4o", "gpt-4o-mini")


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
    settings = toml({"Mock": provider.url, "Other": provider.url}, {"Mock": MODELS})
    with llm_side(e2e_dsn, stand_in.url, settings, tmp_path_factory.mktemp("llm")) as found:
        yield found


@pytest.fixture
async def alice(side: LlmSide) -> AsyncIterator[Person]:
    async with aiohttp.ClientSession(side.geko.url, cookie_jar=aiohttp.DummyCookieJar()) as client:
        yield await register(client, f"llm{os.getpid()}n{next(numbers)}@example.org", "Alice")


async def served(provider: Running, account: str) -> list[dict[str, Any]]:
    """What the provider has served to an account."""
    async with aiohttp.ClientSession(provider.url) as session, session.get("/served") as reply:
        return [call for call in (await reply.json())["calls"] if call["user"] == account]


def billed(calls: list[dict[str, Any]]) -> int:
    """What the provider would bill for calls."""
    return sum(call["usage"]["totalTokens"] for call in calls)


async def entries(dsn: str, person: Person) -> list[dict[str, Any]]:
    """The workspace's ledger, oldest first."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "select kind, endpoint, model, tokens, estimated, run_id, cached_tokens"
            " from usage_events where workspace_id = $1::uuid order by recorded_at, seq",
            person.workspace_id,
        )
    finally:
        await connection.close()
    return [dict(row) for row in rows]


async def settled(dsn: str, person: Person, number: int) -> list[dict[str, Any]]:
    """The ledger when it has so many entries, for calls whose end nobody waits for."""
    async with asyncio.timeout(20):
        while len(found := await entries(dsn, person)) < number:
            await asyncio.sleep(0.05)
    return found


async def test_a_stream_is_passed_on_and_charged_what_the_provider_reports(
    side: LlmSide, alice: Person, provider: Running, e2e_dsn: str
) -> None:
    account = await account_of(alice)
    reply = await side.call(alice, "gpt-4o", "[[tokens=30 cached=4]] go", stream=True, user=account)
    assert reply.status == 200
    assert len(reply.text.split()) == 30
    assert reply.events[-1].data == b"[DONE]"
    assert not any("usage" in chunk for chunk in reply.chunks)  # it was not asked for
    (call,) = await served(provider, account)
    (entry,) = await entries(e2e_dsn, alice)
    assert call["askedUsage"]
    assert (entry["kind"], entry["endpoint"], entry["model"], entry["run_id"]) == (
        "chat",
        "Mock",
        "gpt-4o",
        "m1",
    )
    assert (entry["tokens"], entry["cached_tokens"], entry["estimated"]) == (billed([call]), 4, False)
    assert not [name for name in call["headers"] if name.startswith("x-geko")]


async def test_usage_that_was_asked_for_stays_in_the_reply(side: LlmSide, alice: Person) -> None:
    options = {"include_usage": True}
    reply = await side.call(alice, "gpt-4o", "[[tokens=5]]", stream=True, stream_options=options)
    assert reply.chunks[-1]["usage"]["completion_tokens"] == 5


async def test_kinds_of_calls_are_told_apart(side: LlmSide, alice: Person, e2e_dsn: str) -> None:
    for kind in ("title", "memory", "summary"):
        assert (await side.call(alice, "gpt-4o-mini", "[[tokens=3]]", kind=kind)).status == 200
    assert (await side.call(alice, "gpt-4o-mini", "x", kind="nonsense")).status == 200
    found = [entry["kind"] for entry in await entries(e2e_dsn, alice)]
    assert found == ["title", "memory", "summary", "chat"]


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"key": "wrong"}, 401),
        ({"provider": "Nobody"}, 404),
        ({"person": None}, 403),
        ({"person": "0" * 24}, 403),
        ({"person": "nonsense"}, 403),
        ({"model": 7}, 400),
        ({"messages": "x"}, 400),
        ({"stream": "yes"}, 400),
        ({"path": "files"}, 404),
    ],
)
async def test_bad_calls_are_refused_in_the_providers_words(
    side: LlmSide, alice: Person, given: dict[str, Any], status: int
) -> None:
    person = given.pop("person", alice)
    reply = await side.call(person, given.pop("model", "gpt-4o"), "x", **given)
    assert reply.status == status, reply
    error = reply.json["error"]
    assert error["message"]
    assert error["code"]


async def test_the_internal_listener_is_not_on_the_public_port(side: LlmSide, alice: Person) -> None:
    for path in ("/llm/Mock/v1/models", "/llm/Mock/v1/chat/completions"):
        answer = await alice.call("POST", path, {}, Authorization=f"Bearer {KEY}")
        assert answer.status == 404
    assert (await side.get("/healthz", key="")).status == 200
    assert (await side.get("/metrics", key="")).status == 401
    assert (await side.get("/metrics")).status == 200


async def test_a_workspace_calls_its_models_only_and_sees_no_others(
    side: LlmSide, alice: Person, provider: Running
) -> None:
    await alice.set_config(models=["Mock/gpt-4o-mini", "Other/*"], defaultModel="Mock/gpt-4o-mini")
    account = await account_of(alice)
    for kind in (None, "title", "memory"):
        reply = await side.call(alice, "gpt-4o", "x", kind=kind, user=account)
        assert reply.status == 403
        assert "illegal_model_request" in reply.json["error"]["message"]
        assert reply.headers["x-should-retry"] == "false"
    assert await served(provider, account) == []
    listed = await side.get("/llm/Mock/v1/models", account)
    assert [row["id"] for row in listed.json["data"]] == ["gpt-4o-mini"]
    others = await side.get("/llm/Other/v1/models", account)
    assert "gpt-4o" in [row["id"] for row in others.json["data"]]
    assert (await side.get("/llm/Mock/v1/models")).status == 403


async def test_a_stream_is_cut_where_the_quota_ends_and_ends_well_formed(
    side: LlmSide, alice: Person, provider: Running, e2e_dsn: str
) -> None:
    account = await account_of(alice)
    await alice.set_quota(300)
    options = {"include_usage": True}
    text = "[[tokens=2000 delay_ms=10]] go"
    reply = await side.call(alice, "gpt-4o", text, stream=True, stream_options=options, user=account)
    assert reply.status == 200
    finish = [choice["finish_reason"] for chunk in reply.chunks for choice in chunk["choices"]]
    assert finish[-1] == "length"
    assert set(finish[:-1]) == {None}
    assert reply.events[-1].data == b"[DONE]"
    (entry,) = await settled(e2e_dsn, alice, 1)
    async with asyncio.timeout(10):
        while (await served(provider, account))[0]["outcome"] == "running":
            await asyncio.sleep(0.02)
    (call,) = await served(provider, account)
    assert call["outcome"] == "left"
    assert entry["estimated"]
    assert 300 <= entry["tokens"] <= 330
    assert abs(entry["tokens"] - billed([call])) <= 3
    assert abs(reply.chunks[-1]["usage"]["total_tokens"] - entry["tokens"]) <= 3
    refused = await side.call(alice, "gpt-4o", "x")
    assert refused.status == 402
    assert "used up" in refused.json["error"]["message"]
    assert refused.headers["x-should-retry"] == "false"


async def test_a_reply_in_one_piece_is_cut_too(
    side: LlmSide, alice: Person, provider: Running, e2e_dsn: str
) -> None:
    account = await account_of(alice)
    whole = await side.call(alice, "gpt-4o", "[[tokens=40 cached=2]] go", user=account)
    choice = whole.json["choices"][0]
    assert (len(choice["message"]["content"].split()), choice["finish_reason"]) == (40, "stop")
    assert whole.json["usage"]["completion_tokens"] == 40
    assert whole.json["object"] == "chat.completion"
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    asked = await side.call(alice, "gpt-4o", "[[calls=2]] go", user=account, tools=[tool])
    (called,) = asked.json["choices"][0]["message"]["tool_calls"]
    assert called["function"]["name"] == "look"
    assert called["id"]
    (first, second) = await entries(e2e_dsn, alice)
    await alice.set_quota(first["tokens"] + second["tokens"] + 250)
    cut = await side.call(alice, "gpt-4o", "[[tokens=4000 delay_ms=5]] go", user=account, kind="title")
    assert cut.status == 200
    assert cut.json["choices"][0]["finish_reason"] == "length"
    assert 100 < len(cut.json["choices"][0]["message"]["content"].split()) < 280
    assert cut.json["usage"]["total_tokens"] >= 250
    (*_, entry) = await settled(e2e_dsn, alice, 3)
    async with asyncio.timeout(10):
        while any(call["outcome"] == "running" for call in await served(provider, account)):
            await asyncio.sleep(0.02)
    calls = await served(provider, account)
    assert [call["outcome"] for call in calls] == ["done", "done", "left"]
    assert entry["kind"] == "title"
    assert abs(entry["tokens"] - billed(calls[-1:])) <= 3


async def test_a_caller_that_leaves_ends_the_call_and_pays_for_what_was_made(
    side: LlmSide, alice: Person, provider: Running, e2e_dsn: str
) -> None:
    account = await account_of(alice)
    headers = {"Authorization": f"Bearer {KEY}", "x-geko-user": account}
    message = {"role": "user", "content": "[[tokens=5000 delay_ms=5]]"}
    body = {"model": "gpt-4o", "messages": [message], "stream": True, "user": account}
    async with (
        aiohttp.ClientSession(side.url) as session,
        session.post("/llm/Mock/v1/chat/completions", json=body, headers=headers) as reply,
    ):
        for _ in range(20):
            await reply.content.readany()
    (entry,) = await settled(e2e_dsn, alice, 1)
    async with asyncio.timeout(10):
        while (await served(provider, account))[0]["outcome"] == "running":
            await asyncio.sleep(0.02)
    (call,) = await served(provider, account)
    assert call["outcome"] == "left"
    assert entry["estimated"]
    assert abs(entry["tokens"] - billed([call])) <= 3


async def test_errors_of_the_provider_cost_nothing(side: LlmSide, alice: Person, e2e_dsn: str) -> None:
    reply = await side.call(alice, "gpt-4o", "[[status=400 message=no]]", stream=True)
    assert reply.status == 400
    assert "no" in reply.json["error"]["message"]
    wrong_key = await side.call(alice, "gpt-4o", "[[status=401]]")
    assert wrong_key.status == 502
    assert await entries(e2e_dsn, alice) == []
    retried = await side.call(alice, "gpt-4o", "[[status=500 times=1 tokens=4]] again", stream=True)
    assert retried.text.split()
    assert len(await entries(e2e_dsn, alice)) == 1


async def test_calls_that_nobody_meters_go_on_as_they_are_and_are_not_counted_by_address(
    side: LlmSide, alice: Person, stand_in: Running, provider: Running, e2e_dsn: str, tmp_path: Path
) -> None:
    settings = toml({"Mock": provider.url}, llm=f'unknown_accounts = "{alice.workspace_id}"')
    environment = {"GEKO_FILTER_QUOTA_ENABLED": "false", "GEKO_FILTER_RATE_LIMIT_LIMIT": "2"}
    with llm_side(e2e_dsn, stand_in.url, settings, tmp_path, **environment) as other:
        for number in range(4):
            user = f"nobody{os.getpid()}n{number}"
            reply = await other.call(None, "gpt-4o", "[[tokens=5]]", user=user)
            assert reply.status == 200
            assert reply.json["usage"]["completion_tokens"] == 5
            streamed = await other.call(None, "gpt-4o", "[[tokens=5]]", user=user, stream=True)
            assert len(streamed.text.split()) == 5
            whole, stream = await served(provider, user)
            assert (whole["stream"], stream["stream"]) == (False, True)
    assert await entries(e2e_dsn, alice) == []
