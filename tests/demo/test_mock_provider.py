"""The mock provider: its books agree with what was read from it, whatever the API and however a call ends."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geko_proxy.demo.provider import MockProvider
from geko_proxy.demo.provider.asked import BadCall, chat, count
from geko_proxy.demo.provider.orders import BadOrder, Order
from geko_proxy.demo.provider.plan import THOUGHT, WORDS
from geko_proxy.metering.tokens import TokenCounter

SEARCH = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
TOOLS = [{"type": "function", "function": {"name": "search", "parameters": SEARCH}}]


@pytest.fixture
async def provider() -> AsyncIterator[MockProvider]:
    async with MockProvider(key="k") as running:
        yield running


async def post(provider: MockProvider, path: str, body: Any, key: str = "k") -> tuple[int, bytes, Any]:
    """A call: status, raw reply, headers."""
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{provider.url}/v1/{path}", json=body, headers=headers) as reply,
    ):
        return reply.status, await reply.read(), reply.headers


def chat_body(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "user": "u1", "messages": [{"role": "user", "content": text}], **more}


def events(raw: bytes) -> list[Any]:
    """The data of a stream's events."""
    found = [line[6:] for line in raw.decode().splitlines() if line.startswith("data: ")]
    return [json.loads(data) for data in found if data != "[DONE]"]


def deltas(raw: bytes) -> list[Any]:
    """The deltas of a chat stream."""
    return [choice["delta"] for event in events(raw) for choice in event.get("choices", [])]


async def streamed(provider: MockProvider, text: str, **more: Any) -> bytes:
    return (await post(provider, "chat/completions", chat_body(text, stream=True, **more)))[1]


def test_each_word_is_one_token() -> None:
    counter = TokenCounter()
    assert [counter.count(f" {word}") for word in WORDS] == [1] * len(WORDS)
    assert counter.count(WORDS[0]) == counter.count(THOUGHT) == 1
    assert counter.count(" ".join(WORDS * 9)) == 9 * len(WORDS)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tokens=st.integers(0, 150),
    reasoning=st.integers(0, 5),
    silent=st.integers(0, 5),
    limit=st.none() | st.integers(1, 90),
    text=st.text(max_size=30),
)
async def test_the_books_hold_what_the_stream_said(
    provider: MockProvider, tokens: int, reasoning: int, silent: int, limit: int | None, text: str
) -> None:
    order = f"{text.replace('[', '(')} [[tokens={tokens} reasoning={reasoning} silent={silent}]]"
    more = {} if limit is None else {"max_completion_tokens": limit}
    raw = await streamed(provider, order, stream_options={"include_usage": True}, **more)
    said = "".join(each.get("content") or each.get("reasoning_content") or "" for each in deltas(raw))
    usage, entry = events(raw)[-1]["usage"], provider.books.calls[-1]
    unseen = silent if limit is None else min(silent, limit)
    assert usage["completion_tokens"] == TokenCounter().count(said) + unseen == entry.usage.completion
    assert usage["prompt_tokens"] == entry.usage.prompt
    assert usage["total_tokens"] == entry.usage.total
    assert raw.endswith(b"data: [DONE]\n\n")
    cut = limit is not None and limit < silent + reasoning + tokens
    assert events(raw)[-2]["choices"][0]["finish_reason"] == ("length" if cut else "stop")


@pytest.mark.parametrize(
    ("order", "asked", "told"),
    [("", False, False), ("", True, True), ("always", False, True), ("never", True, False)],
)
async def test_usage_is_told_as_ordered(provider: MockProvider, order: str, asked: bool, told: bool) -> None:
    text = f"hi [[tokens=3{f' usage={order}' if order else ''}]]"
    raw = await streamed(provider, text, **({"stream_options": {"include_usage": True}} if asked else {}))
    assert any(event.get("usage") for event in events(raw)) is told
    assert provider.books.total.tokens["completionTokens"] == 3


async def test_a_caller_that_leaves_is_billed_for_what_was_written(provider: MockProvider) -> None:
    body = chat_body("hi [[tokens=500 delay_ms=10]]", stream=True)
    headers = {"Authorization": "Bearer k"}
    url = f"{provider.url}/v1/chat/completions"
    async with aiohttp.ClientSession() as http, http.post(url, json=body, headers=headers) as reply:
        raw = await reply.content.readuntil(b'" jumps"')
        reply.close()
    while provider.books.running:
        await asyncio.sleep(0.01)
    (entry,) = provider.books.calls
    read = sum("content" in each for each in deltas(raw[: raw.rindex(b"data: ")])) + 1
    assert (entry.outcome, entry.usage_sent) == ("left", False)
    assert 5 <= read - 1 <= entry.usage.completion < 30
    assert entry.usage.prompt == 3 + 3 + 1 + count("hi [[tokens=500 delay_ms=10]]")
    assert provider.books.total.shown()["cut"] == 1


@pytest.mark.parametrize(("order", "outcome"), [("die_after=4", "died"), ("error_after=4", "error event")])
async def test_an_answer_that_breaks_off_is_billed_so_far(
    provider: MockProvider, order: str, outcome: str
) -> None:
    try:
        raw = await streamed(provider, f"hi [[tokens=9 {order}]]")
        assert events(raw)[-1]["error"]["message"]
    except aiohttp.ClientPayloadError:
        assert outcome == "died"
    assert (provider.books.calls[-1].outcome, provider.books.calls[-1].usage.completion) == (outcome, 4)


async def test_a_whole_reply_that_never_came_is_not_billed(provider: MockProvider) -> None:
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await post(provider, "chat/completions", chat_body("hi [[tokens=9 die_after=4]]"))
    assert (provider.books.calls[0].outcome, provider.books.total.shown()["totalTokens"]) == ("died", 0)


async def test_failures_and_their_words(provider: MockProvider) -> None:
    text = "hi [[status=429 message=slow_down retry_after=7]]"
    status, raw, headers = await post(provider, "chat/completions", chat_body(text, stream=True))
    assert (status, headers["Retry-After"]) == (429, "7")
    error = json.loads(raw)["error"]
    assert (error["message"], error["code"]) == ("slow_down", "rate_limit_exceeded")
    status, raw, _ = await post(provider, "messages", {**chat_body("hi [[status=529]]"), "max_tokens": 5})
    assert (status, json.loads(raw)["error"]["type"]) == (529, "overloaded_error")
    shown = provider.books.total.shown()
    assert (shown["calls"], shown["refused"], shown["totalTokens"]) == (2, 2, 0)


async def test_fails_so_many_times_then_works(provider: MockProvider) -> None:
    body = chat_body("hi [[status=500 times=2 tokens=1]]")
    assert [(await post(provider, "chat/completions", body))[0] for _ in range(4)] == [500, 500, 200, 200]
    provider.order("gpt-4o", "status=503 times=1")
    body = chat_body("hi [[tokens=1]]")
    assert [(await post(provider, "chat/completions", body))[0] for _ in range(2)] == [503, 200]


async def test_orders_in_the_models_name_and_standing_ones(provider: MockProvider) -> None:
    body = chat_body("hi") | {"model": "gpt-4o~tokens=3,usage=never"}
    _, raw, _ = await post(provider, "chat/completions", body)
    reply = json.loads(raw)
    assert (reply["choices"][0]["message"]["content"], "usage" in reply) == ("the quick brown", False)
    async with aiohttp.ClientSession() as http:
        async with http.put(f"{provider.url}/orders", json={"*": "tokens=2"}) as told:
            assert told.status == 200
        async with http.put(f"{provider.url}/orders", json={"*": "tokens=many"}) as told:
            assert (await told.json())["error"]["message"] == "order tokens=many: expected a number"
    _, raw, _ = await post(provider, "chat/completions", chat_body("hi"))
    assert json.loads(raw)["choices"][0]["message"]["content"] == "the quick"


async def test_a_tool_is_asked_for_until_it_has_answered(provider: MockProvider) -> None:
    user = {"role": "user", "content": "find [[calls=2 tokens=4]]"}
    raw = await streamed(provider, user["content"], tools=TOOLS, stream_options={"include_usage": True})
    calls = [each["tool_calls"][0] for each in deltas(raw) if "tool_calls" in each]
    arguments = "".join(each["function"].get("arguments", "") for each in calls)
    assert calls[0]["function"]["name"] == "search"
    assert json.loads(arguments) == {"query": "the quick brown fox"}
    assert events(raw)[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert events(raw)[-1]["usage"]["completion_tokens"] == count("search") + TokenCounter().count(arguments)
    made = {"id": calls[0]["id"], "type": "function", "function": {"name": "search", "arguments": arguments}}
    thread = [
        user,
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "tool_call_id": calls[0]["id"], "content": "nothing"},
    ]
    _, second, _ = await post(
        provider, "chat/completions", {**chat_body(""), "messages": thread, "tools": TOOLS}
    )
    assert json.loads(second)["choices"][0]["message"]["content"] == "the quick brown fox"


async def test_a_sub_agent_gets_an_order_of_its_own(provider: MockProvider) -> None:
    properties = {"description": {"type": "string"}, "subagent_type": {"type": "string", "enum": ["writer"]}}
    schema = {"type": "object", "properties": properties, "required": ["description", "subagent_type"]}
    tools = [*TOOLS, {"type": "function", "function": {"name": "subagent", "parameters": schema}}]
    _, raw, _ = await post(
        provider, "chat/completions", chat_body("go [[subagent=7 delay_ms=0]]", tools=tools)
    )
    (asked,) = json.loads(raw)["choices"][0]["message"]["tool_calls"]
    assert asked["function"]["name"] == "subagent"
    given_to_it = json.loads(asked["function"]["arguments"])
    assert given_to_it["subagent_type"] == "writer"
    assert "tokens=7" in given_to_it["description"]


async def test_messages_api(provider: MockProvider) -> None:
    body = {**chat_body("hi [[tokens=3 reasoning=2 prompt=40 cached=10 cache_write=5]]"), "max_tokens": 99}
    body |= {"metadata": {"user_id": "u2"}}
    _, raw, _ = await post(provider, "messages", {**body, "stream": True})
    found = {event["type"]: event for event in events(raw)}
    assert found["message_start"]["message"]["usage"]["input_tokens"] == 25
    assert found["message_delta"]["usage"]["output_tokens"] == 5
    said = [e["delta"].get("text", "") for e in events(raw) if e["type"] == "content_block_delta"]
    assert "".join(said) == "the quick brown"
    _, raw, _ = await post(provider, "messages", body)
    whole = json.loads(raw)
    assert [part["type"] for part in whole["content"]] == ["thinking", "text"]
    assert whole["usage"]["output_tokens"] == 5
    assert [(e.user, e.usage.total) for e in provider.books.calls] == [("u2", 45)] * 2


async def test_messages_api_with_tools(provider: MockProvider) -> None:
    tools = [{"name": "search", "input_schema": SEARCH}]
    asked = {"role": "user", "content": "find [[calls=2 tokens=4]]"}
    body = {"model": "claude-sonnet-4", "max_tokens": 99, "messages": [asked], "tools": tools}
    _, raw, _ = await post(provider, "messages", body)
    (use,) = json.loads(raw)["content"]
    assert (use["type"], use["name"], use["input"]) == (
        "tool_use",
        "search",
        {"query": "the quick brown fox"},
    )
    prompts = []
    for output in ("nothing", "nothing " * 9):
        result = {"type": "tool_result", "tool_use_id": use["id"], "content": output}
        thread = [asked, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
        _, raw, _ = await post(provider, "messages", {**body, "messages": thread})
        reply = json.loads(raw)
        assert (reply["stop_reason"], reply["content"][0]["text"]) == ("end_turn", "the quick brown fox")
        prompts.append(reply["usage"]["input_tokens"])
    assert prompts[1] - prompts[0] == count("nothing " * 9) - count("nothing")


async def test_responses_api(provider: MockProvider) -> None:
    tools = [{"type": "function", "name": "search", "parameters": SEARCH}]
    body: dict[str, Any] = {
        "model": "gpt-4o",
        "user": "u3",
        "input": "hi [[tokens=3 calls=2]]",
        "tools": tools,
    }
    _, raw, _ = await post(provider, "responses", {**body, "stream": True})
    last = events(raw)[-1]
    assert [event["sequence_number"] for event in events(raw)] == list(range(len(events(raw))))
    assert (last["type"], last["response"]["output"][0]["name"]) == ("response.completed", "search")
    assert last["response"]["usage"]["output_tokens"] == provider.books.calls[0].usage.completion
    output = {"type": "function_call_output", "call_id": "c", "output": "nothing"}
    thread = [{"role": "user", "content": body["input"]}, output]
    _, raw, _ = await post(provider, "responses", {**body, "input": thread})
    whole = json.loads(raw)
    assert whole["output"][0]["content"][0]["text"] == "the quick brown"
    assert whole["usage"]["total_tokens"] == provider.books.calls[1].usage.total


async def test_embeddings_pictures_and_sound(provider: MockProvider) -> None:
    _, raw, _ = await post(provider, "embeddings", {"model": "e", "user": "u", "input": ["the quick", "fox"]})
    made = json.loads(raw)
    assert (len(made["data"]), made["usage"]["total_tokens"]) == (2, 3)
    _, raw, _ = await post(
        provider, "images/generations", {"model": "gpt-image-1", "prompt": "a fox", "n": 2}
    )
    assert json.loads(raw)["usage"]["output_tokens"] == 544
    form = aiohttp.FormData({"model": "gpt-4o-transcribe"})
    form.add_field("file", b"\0" * 24_000, filename="a.wav")
    url, headers = f"{provider.url}/v1/audio/transcriptions", {"Authorization": "Bearer k"}
    async with aiohttp.ClientSession() as http, http.post(url, data=form, headers=headers) as reply:
        heard = await reply.json()
    assert (heard["text"], heard["usage"]["total_tokens"]) == ("the quick brown", 33)
    status, sound, headers = await post(provider, "audio/speech", {"model": "tts-1", "input": "hi"})
    assert (status, headers["Content-Type"], sound[:4]) == (200, "audio/wav", b"RIFF")
    assert [e.usage.total for e in provider.books.calls] == [3, 544 + count("a fox"), 33, 0]


async def test_bad_calls_name_their_field(provider: MockProvider) -> None:
    for body, param in (
        ({"model": 3, "messages": [{}]}, "model"),
        ({"model": "m", "messages": "hi"}, "messages"),
        ({"model": "m", "messages": []}, "messages"),
        (chat_body("x", stream_options=[]), "stream_options"),
    ):
        status, raw, _ = await post(provider, "chat/completions", body)
        assert (status, json.loads(raw)["error"]["param"]) == (400, param)
    status, raw, _ = await post(provider, "chat/completions", chat_body("[[delay_ms=soon]]"))
    assert (status, "delay_ms=soon" in raw.decode()) == (400, True)
    assert (await post(provider, "chat/completions", chat_body("hi"), key="other"))[0] == 401


FIELDS = st.sampled_from(["role", "content", "type", "text", "tool_calls", "function", "image_url", "source"])
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner),
    max_leaves=20,
)
ORDERS = st.sampled_from(["tokens", "delay_ms", "usage", "status", "echo", "word"])


@given(part=ANY)
def test_no_body_breaks_the_reader(part: Any) -> None:
    said = [part, {"role": "user", "content": part}]
    assert chat({"model": "m", "messages": said}).prompt_tokens() >= 3
    with pytest.raises(BadCall) as bad:
        chat({"messages": said, "user": part})
    assert bad.value.param in ("model", "user")


@given(words=st.dictionaries(ORDERS, st.text(max_size=6)))
def test_an_order_is_followed_or_its_word_is_named(words: dict[str, str]) -> None:
    try:
        order = Order.read(words)
    except BadOrder as refused:
        problem = str(refused)
    else:
        problem = f"order {order.usage}="
    assert problem.startswith("order ")


async def test_the_books_over_http(provider: MockProvider) -> None:
    await streamed(provider, "hi [[tokens=2]]")
    await streamed(provider, "hi [[tokens=3]]", model="gpt-4o-mini")
    await post(provider, "chat/completions", {**chat_body("hi [[tokens=4]]"), "user": "u9"})
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{provider.url}/served") as reply:
            shown = await reply.json()
        async with http.delete(f"{provider.url}/served"):
            pass
        async with http.get(f"{provider.url}/served?calls=0") as reply:
            after = await reply.json()
    assert {name: each["completionTokens"] for name, each in shown["byModel"].items()} == {
        "gpt-4o": 6,
        "gpt-4o-mini": 3,
    }
    assert (
        shown["byUser"]["u1"]["totalTokens"] + shown["byUser"]["u9"]["totalTokens"]
        == shown["total"]["totalTokens"]
    )
    assert shown["byUserAndModel"]["u1"]["gpt-4o-mini"]["calls"] == 1
    assert [each["usage"]["completionTokens"] for each in shown["calls"]] == [2, 3, 4]
    assert (after["total"]["calls"], "calls" in after) == (0, False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_runs_as_a_process(number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "geko_proxy.demo.provider",
        "--port",
        "0",
        "--models",
        "a,b",
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().removeprefix("listening on ").strip()
    async with aiohttp.ClientSession() as http, http.get(f"{url}/llm/Mock/v1/models") as reply:
        listed = await reply.json()
    process.send_signal(number)
    assert await process.wait() == 0
    assert [each["id"] for each in listed["data"]] == ["a", "b"]


async def test_a_cut_is_the_same_each_time_when_the_words_end_there(provider: MockProvider) -> None:
    for _ in range(2):
        body = chat_body("hi [[tokens=99 delay_ms=1 hang_after=10]]", stream=True)
        url, headers = f"{provider.url}/v1/chat/completions", {"Authorization": "Bearer k"}
        async with aiohttp.ClientSession() as http, http.post(url, json=body, headers=headers) as reply:
            await reply.content.readuntil(f'" {WORDS[9]}"'.encode())
            reply.close()
        while provider.books.running:
            await asyncio.sleep(0.01)
    assert [(each.outcome, each.usage.completion) for each in provider.books.calls] == [("left", 10)] * 2
