"""Every API of the LLM side with the providers' own Python clients: what they read, and what the ledger holds."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import anthropic
import asyncpg
import openai
import pytest

from tests.e2e.gateway import KEY, LlmSide, account_of, llm_side, toml
from tests.e2e.people import Person, register
from tests.e2e.processes import Running, running

numbers = itertools.count(1)
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
SOUND = ("a.wav", b"RIFF....WAVEfmt ", "audio/wav")


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    log = tmp_path_factory.mktemp("provider") / "log"
    with running(["geko_proxy.demo.provider", "--port", "0", "--key", "provider-key"], {}, log) as server:
        yield server


@pytest.fixture(scope="module")
def side(
    e2e_dsn: str, stand_in: Running, provider: Running, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LlmSide]:
    settings = toml({"Mock": provider.url, "Claude": provider.url})
    with llm_side(e2e_dsn, stand_in.url, settings, tmp_path_factory.mktemp("llm")) as found:
        yield found


@pytest.fixture
async def alice(side: LlmSide) -> AsyncIterator[Person]:
    async with aiohttp.ClientSession(side.geko.url, cookie_jar=aiohttp.DummyCookieJar()) as client:
        yield await register(client, f"apis{os.getpid()}n{next(numbers)}@example.org", "Alice")


@pytest.fixture
async def openai_client(side: LlmSide, alice: Person) -> AsyncIterator[openai.AsyncOpenAI]:
    headers = {"x-geko-user": await account_of(alice), "x-geko-message": "m1"}
    url = f"{side.url}/llm/Mock/v1"
    async with openai.AsyncOpenAI(
        api_key=KEY, base_url=url, default_headers=headers, max_retries=0
    ) as client:
        yield client


@pytest.fixture
async def claude(side: LlmSide, alice: Person) -> AsyncIterator[anthropic.AsyncAnthropic]:
    headers = {"x-geko-user": await account_of(alice), "x-geko-message": "m1"}
    url = f"{side.url}/llm/Claude"
    async with anthropic.AsyncAnthropic(
        api_key=KEY, base_url=url, default_headers=headers, max_retries=0
    ) as client:
        yield client


async def books(provider: Running, last: int) -> int:
    """What the provider bills for its last calls, when all have ended."""
    async with aiohttp.ClientSession(provider.url) as session, asyncio.timeout(20):
        while True:
            async with session.get("/served") as reply:
                shown = await reply.json()
            if not shown["running"]:
                return sum(call["usage"]["totalTokens"] for call in shown["calls"][-last:])
            await asyncio.sleep(0.05)


async def ledger(dsn: str, person: Person, number: int) -> list[tuple[str, str, str, int, bool]]:
    """The workspace's entries, when there are so many: kind, endpoint, model, tokens, estimated."""
    connection = await asyncpg.connect(dsn)
    query = (
        "select kind, endpoint, model, tokens, estimated from usage_events"
        " where workspace_id = $1::uuid order by recorded_at"
    )
    try:
        async with asyncio.timeout(20):
            while len(rows := await connection.fetch(query, person.workspace_id)) < number:
                await asyncio.sleep(0.05)
    finally:
        await connection.close()
    return [tuple(row) for row in rows]


async def test_chat_completions(
    openai_client: openai.AsyncOpenAI, alice: Person, provider: Running, e2e_dsn: str
) -> None:
    messages: Any = [{"role": "user", "content": "[[tokens=9 reasoning=4 cached=2]]"}]
    stream = await openai_client.chat.completions.create(model="gpt-4o", messages=messages, stream=True)
    text = [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
    assert len("".join(text).split()) == 9
    whole = await openai_client.chat.completions.create(model="gpt-4o", messages=messages)
    assert whole.usage is not None
    assert len((whole.choices[0].message.content or "").split()) == 9
    tools: Any = [TOOL]
    messages = [{"role": "user", "content": "[[calls=2]]"}]
    called = await openai_client.chat.completions.create(model="gpt-4o", messages=messages, tools=tools)
    assert called.choices[0].finish_reason == "tool_calls"
    rows = await ledger(e2e_dsn, alice, 3)
    assert sum(row[3] for row in rows) == await books(provider, 3)
    assert {row[:3] + row[4:] for row in rows} == {("chat", "Mock", "gpt-4o", False)}


async def test_responses(
    openai_client: openai.AsyncOpenAI, alice: Person, provider: Running, e2e_dsn: str
) -> None:
    whole = await openai_client.responses.create(model="gpt-4o", input="[[tokens=7]]")
    assert len(whole.output_text.split()) == 7
    async with openai_client.responses.stream(model="gpt-4o", input="[[tokens=8 delay_ms=1]]") as stream:
        async for _ in stream:
            pass
        assert len((await stream.get_final_response()).output_text.split()) == 8
    rows = await ledger(e2e_dsn, alice, 2)
    assert sum(row[3] for row in rows) == await books(provider, 2)
    assert not any(row[4] for row in rows)
    with pytest.raises(openai.BadRequestError, match="background"):
        await openai_client.responses.create(model="gpt-4o", input="x", background=True)


async def test_messages(
    claude: anthropic.AsyncAnthropic, alice: Person, provider: Running, e2e_dsn: str
) -> None:
    messages: Any = [{"role": "user", "content": "[[tokens=6 cached=2 cache_write=3]]"}]
    whole = await claude.messages.create(model="claude-sonnet-4", max_tokens=500, messages=messages)
    assert [len(block.text.split()) for block in whole.content if block.type == "text"] == [6]
    async with claude.messages.stream(model="claude-sonnet-4", max_tokens=500, messages=messages) as stream:
        assert len((await stream.get_final_text()).split()) == 6
    rows = await ledger(e2e_dsn, alice, 2)
    assert sum(row[3] for row in rows) == await books(provider, 2)
    assert {row[:3] + row[4:] for row in rows} == {("chat", "Claude", "claude-sonnet-4", False)}


async def test_embeddings_pictures_and_sound(
    openai_client: openai.AsyncOpenAI, alice: Person, provider: Running, e2e_dsn: str
) -> None:
    embedded = await openai_client.embeddings.create(model="text-embedding-3-small", input=["foxes", "dogs"])
    assert len(embedded.data) == 2
    drawn = await openai_client.images.generate(model="gpt-image-1", prompt="a fox")
    assert drawn.data
    heard = await openai_client.audio.transcriptions.create(model="gpt-4o-transcribe", file=SOUND)
    assert heard.text
    exact = await books(provider, 3)
    spoken = await openai_client.audio.speech.create(model="gpt-4o-mini-tts", voice="alloy", input="Good day")
    assert spoken.content.startswith(b"RIFF")
    rows = await ledger(e2e_dsn, alice, 4)
    assert sorted(row[0] for row in rows) == ["audio", "audio", "embedding", "image"]
    assert sum(row[3] for row in rows if not row[4]) == exact
    assert [row[4] for row in rows if row[2] == "gpt-4o-mini-tts"] == [True]


Cut = Callable[[], Awaitable[str]]


async def test_what_is_cut_is_well_formed_for_the_providers_clients(
    openai_client: openai.AsyncOpenAI,
    claude: anthropic.AsyncAnthropic,
    alice: Person,
    provider: Running,
    e2e_dsn: str,
) -> None:
    order = "[[tokens=3000 delay_ms=10]]"
    messages: Any = [{"role": "user", "content": order}]

    async def chat() -> str:
        stream = await openai_client.chat.completions.create(model="gpt-4o", messages=messages, stream=True)
        return str([choice.finish_reason async for chunk in stream for choice in chunk.choices][-1])

    async def whole() -> str:
        answer = await openai_client.chat.completions.create(model="gpt-4o", messages=messages)
        return str(answer.choices[0].finish_reason)

    async def respond() -> str:
        stream = await openai_client.responses.create(model="gpt-4o", input=order, stream=True)
        return [event.type async for event in stream][-1]

    async def claudes() -> str:
        async with claude.messages.stream(
            model="claude-sonnet-4", max_tokens=9000, messages=messages
        ) as stream:
            return str((await stream.get_final_message()).stop_reason)

    cuts: list[tuple[Cut, str]] = [
        (chat, "length"),
        (whole, "length"),
        (respond, "response.incomplete"),
        (claudes, "max_tokens"),
    ]
    used = 0
    for number, (cut, reason) in enumerate(cuts, 1):
        await alice.set_quota(used + 250)
        assert await cut() == reason
        rows = await ledger(e2e_dsn, alice, number)
        assert rows[-1][4]
        assert abs(rows[-1][3] - await books(provider, 1)) <= 3
        used = sum(row[3] for row in rows)
    for refused in (openai_client.responses.create(model="gpt-4o", input="x"), whole()):
        with pytest.raises(openai.APIStatusError, match="used up") as found:
            await refused
        assert found.value.status_code == 402
    with pytest.raises(anthropic.APIStatusError, match="used up"):
        await claudes()
