"""Calls that shall cost nothing, reach another model, or go on for ever: by members, authors of agents, providers."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from tests.e2e.gateway import KEY, LlmSide, account_of, llm_side, toml
from tests.e2e.hostile import DONE, STREAM_HEAD, Conversation, Hostile, delta, finish, hostile, whole
from tests.e2e.people import Person, invite, register
from tests.e2e.processes import Running
from tests.e2e.test_llm import settled

numbers = itertools.count(1)
FALLBACK = "Other/backup"


@pytest.fixture(scope="module")
def bad() -> Iterator[Hostile]:
    """The provider of "Mock" and "Other"."""
    with hostile() as server:
        server.answers("backup", STREAM_HEAD + delta("from the fallback") + finish() + DONE)
        yield server


@pytest.fixture(scope="module")
def side(
    e2e_dsn: str, stand_in: Running, bad: Hostile, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LlmSide]:
    """GEKO in front of it; "Listed" has one model only."""
    settings = toml(dict.fromkeys(("Mock", "Other", "Listed"), bad.url), {"Listed": ("one",)})
    with llm_side(e2e_dsn, stand_in.url, settings, tmp_path_factory.mktemp("attack")) as found:
        yield found


@pytest.fixture
async def alice(side: LlmSide) -> AsyncIterator[Person]:
    """Somebody who calls."""
    async with aiohttp.ClientSession(side.geko.url, cookie_jar=aiohttp.DummyCookieJar()) as client:
        yield await register(client, f"calls{os.getpid()}n{next(numbers)}@example.org", "Alice")


def endless(bad: Hostile, model: str) -> str:
    """Order a stream that only ends when GEKO closes it."""

    async def act(talk: Conversation) -> None:
        await talk.say(STREAM_HEAD)
        leaving = asyncio.create_task(talk.wait_until_left())
        while not leaving.done():
            await talk.say(delta("word "))
            await asyncio.sleep(0.02)

    bad.acts[model] = act
    return model


async def left(bad: Hostile, model: str) -> None:
    """Wait until GEKO has closed the connection of a model's last call."""
    async with asyncio.timeout(15):
        while not all(talk.left.is_set() for talk in bad.talks if talk.body.get("model") == model):
            await asyncio.sleep(0.05)


async def test_a_caller_that_leaves_ends_a_reply_in_one_piece(
    side: LlmSide, bad: Hostile, alice: Person, e2e_dsn: str
) -> None:
    async def half_a_reply(talk: Conversation) -> None:
        await talk.say(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{")
        await talk.wait_until_left()

    bad.acts["half"] = half_a_reply
    calling = asyncio.create_task(side.call(alice, "half", "hello", logprobs=True))
    async with asyncio.timeout(10):
        while not bad.talks or bad.talks[-1].body.get("model") != "half":
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)
    calling.cancel()
    await left(bad, "half")
    (entry,) = await settled(e2e_dsn, alice, 1)
    assert entry["estimated"]


async def test_a_reply_that_is_too_large_is_given_up(side: LlmSide, bad: Hostile, alice: Person) -> None:
    async def flood(talk: Conversation) -> None:
        await talk.say(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")
        leaving = asyncio.create_task(talk.wait_until_left())
        while not leaving.done():
            await talk.say(b" " * 1_000_000)

    bad.acts["flood"] = flood
    reply = await side.call(alice, "flood", "hello", logprobs=True)
    assert (reply.status, reply.json["error"]["code"]) == (502, "provider_error")
    await left(bad, "flood")


async def test_who_is_removed_gets_no_more_of_a_running_call(
    side: LlmSide, bad: Hostile, alice: Person, e2e_dsn: str
) -> None:
    bob = await invite(alice, "member", f"bob{os.getpid()}n{next(numbers)}@example.org")
    model = endless(bad, "endless")
    account = await account_of(bob)
    calls = [asyncio.create_task(side.call(account, model, "hello", stream=each)) for each in (True, False)]
    async with asyncio.timeout(10):
        while len([talk for talk in bad.talks if talk.body.get("model") == model]) < 2:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.3)
    members = f"/v1/workspaces/{alice.workspace_id}/members"
    (user,) = [
        row["userId"] for row in (await alice.call("GET", members)).json["members"] if row["role"] == "member"
    ]
    assert (await alice.call("DELETE", f"{members}/{user}")).status == 204
    async with asyncio.timeout(15):
        streamed, whole_reply = await asyncio.gather(*calls)
    assert streamed.events[-1].data == b"[DONE]"
    assert streamed.chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert whole_reply.json["choices"][0]["finish_reason"] == "length"
    await left(bad, model)
    assert all(entry["tokens"] > 10 for entry in await settled(e2e_dsn, alice, 2))
    assert (await side.call(account, model, "again")).status == 403


@pytest.mark.parametrize("field", ["models", "fallbacks"])
async def test_a_call_names_one_model_only(side: LlmSide, bad: Hostile, alice: Person, field: str) -> None:
    """OpenRouter and LiteLLM know others in the body, which no list of the workspace's has seen."""
    await alice.set_config(models=["Mock/cheap"], defaultModel="Mock/cheap")
    bad.answers("cheap", STREAM_HEAD + delta("x") + finish() + DONE)
    others: dict[str, Any] = {field: ["expensive"]}
    reply = await side.call(alice, "cheap", "hello", **others)
    assert reply.status == 400
    assert field in reply.json["error"]["message"]
    others[field] = None
    assert (await side.call(alice, "cheap", "hello", **others)).status == 200


async def test_no_fallback_answers_for_a_model_that_is_not_there(
    side: LlmSide, bad: Hostile, alice: Person
) -> None:
    """Else its name would be a way around the limits of the fallback's model."""
    await alice.set_config(models=["Listed/*", FALLBACK], fallback=[FALLBACK])
    assert (await side.call(alice, "nonsense", "hello", provider="Listed")).status == 404
    bad.answers("one", whole("application/json", b"{}", status=b"500 Broken"))
    reply = await side.call(alice, "one", "hello", provider="Listed", stream=True)
    assert reply.text == "from the fallback"


@pytest.mark.parametrize(
    "path",
    [
        "/llm/Mock/v1/../../metrics",
        "/llm/Mock/v1/%2e%2e/models",
        "/llm/Mock%2fv1/v1/models",
        "/llm/Mock/v1//models",
        "/llm/Mock/v1/models%00",
        "/llm/Mock/v1/models/../chat/completions",
        "/llm//v1/models",
        "//evil/llm/Mock/v1/models",
    ],
)
async def test_no_path_leads_past_the_routes(side: LlmSide, bad: Hostile, alice: Person, path: str) -> None:
    before = len(bad.talks)
    host, _, port = side.url.rpartition("/")[2].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    account = await account_of(alice)
    head = f"GET {path} HTTP/1.1\r\nHost: geko\r\nAuthorization: Bearer {KEY}\r\nx-geko-user: {account}\r\n"
    writer.write(f"{head}Connection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    assert answer.split(b" ")[1] in (b"400", b"404", b"405"), answer
    assert b"Traceback" not in answer
    assert len(bad.talks) == before


async def test_nothing_of_a_provider_leaks(side: LlmSide, bad: Hostile, alice: Person) -> None:
    head = b"HTTP/1.1 %b\r\nSet-Cookie: a=b\r\nServer: secret-box\r\nX-Internal: 10.0.0.1\r\nLocation: http://10.0.0.1/\r\n"
    for status in (b"200 OK", b"302 Found", b"401 No", b"400 Bad", b"500 Broken"):
        model = bad.answers(
            status.decode(),
            head % status + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        )
        reply = await side.call(alice, model, "hello")
        told = json.dumps(dict(reply.headers)).lower()
        assert "set-cookie" not in told
        assert not [name for name in ("secret-box", "x-internal", "10.0.0.1") if name in told]
        assert "provider-key" not in told + reply.raw.decode()
        assert bad.url.removeprefix("http://") not in told + reply.raw.decode()
    log = side.geko.log_text()
    assert "provider-key" not in log
    assert KEY not in log
    metrics = (await side.get("/metrics")).raw.decode()
    assert not [name for name in (KEY, "provider-key", alice.workspace_id, "302 Found") if name in metrics]


async def test_made_up_models_make_no_metrics(side: LlmSide, bad: Hostile, alice: Person) -> None:
    async def count() -> int:
        return len((await side.get("/metrics")).raw.splitlines())

    await side.call(alice, "made-up", "hello")
    before = await count()
    for number in range(50):
        bad.answers(f"made-up-{number}", whole("application/json", b"{}", status=b"404 Not Found"))
        assert (await side.call(alice, f"made-up-{number}", "hello")).status == 404
    assert await count() <= before + 5


async def test_two_accounts_in_one_call_are_the_headers(
    side: LlmSide, bad: Hostile, alice: Person, e2e_dsn: str
) -> None:
    """An agent's author can put `user` into the body (`modelKwargs`), never a header."""
    async with aiohttp.ClientSession(side.geko.url, cookie_jar=aiohttp.DummyCookieJar()) as client:
        bob = await register(client, f"calls{os.getpid()}n{next(numbers)}@example.org", "Bob")
        victim = await account_of(bob)
    bad.answers("plain", STREAM_HEAD + delta("some words") + finish() + DONE)
    await side.call(alice, "plain", "hello", user=victim)
    assert len(await settled(e2e_dsn, alice, 1)) == 1
    body: dict[str, Any] = {"model": "plain", "messages": [], "user": victim}
    for named in ("", "{{LIBRECHAT_USER_ID}}", "x" * 300, f"{victim},{victim}", f"{victim}\t0"):
        headers = {"Authorization": f"Bearer {KEY}", "x-geko-user": named}
        async with (
            aiohttp.ClientSession(side.url) as session,
            session.post("/llm/Mock/v1/chat/completions", json=body, headers=headers) as reply,
        ):
            assert reply.status == 403
