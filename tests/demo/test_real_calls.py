"""The stand-in with real model calls, on the mock provider: what it sends, and what it makes of the replies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from geko_proxy.demo.librechat import StandIn
from geko_proxy.demo.librechat.settings import NO_MODELS, llm_endpoints
from geko_proxy.demo.provider import Entry, MockProvider
from tests.demo.people import Person, named, sign_up, text_of
from tests.demo.test_library import new_agent
from tests.demo.test_remote import key_of

USAGE = {"endpoint": "MockUsage"}


@pytest.fixture
async def provider() -> AsyncIterator[MockProvider]:
    async with MockProvider(key="k") as running:
        yield running


@pytest.fixture
async def lc(provider: MockProvider) -> AsyncIterator[StandIn]:
    """A stand-in that calls the provider for everything, with the memory agent and a model for summaries."""
    async with StandIn(
        llm_url=f"{provider.url}/llm",
        llm_key="k",
        endpoints=llm_endpoints("Mock", "MockUsage"),
        memory=("Mock memory", "gpt-4o-mini"),
        summary=("Mock summary", "gpt-4o-mini"),
        duplicate_delay_s=0.01,
        start_delay_s=0.02,
        provider_retry_s=0.001,
        mcp_servers={"files": ("read", "write")},
    ) as running:
        yield running


async def settled(provider: MockProvider) -> list[Entry]:
    """All calls, when none runs any more."""
    async with asyncio.timeout(5):
        while provider.books.running:
            await asyncio.sleep(0.01)
    return list(provider.books.calls)


def kinds(entries: list[Entry]) -> list[str]:
    return sorted(entry.headers.get("x-geko-kind", "chat") for entry in entries)


def of_kind(entries: list[Entry], kind: str) -> list[Entry]:
    return [entry for entry in entries if entry.headers.get("x-geko-kind", "chat") == kind]


def ids(entry: Entry) -> dict[str, str]:
    return {
        name.removeprefix("x-geko-"): entry.headers[name]
        for name in entry.headers
        if name.startswith("x-geko-")
    }


async def test_a_first_turn_makes_three_calls_with_the_same_ids(
    alice: Person, provider: MockProvider
) -> None:
    events = await alice.chat("hello [[tokens=4]]")
    entries = await settled(provider)
    assert kinds(entries) == ["chat", "memory", "title"]
    question, answer = events[0]["message"], events[-1]["responseMessage"]
    shared = {"user": alice.id, "conversation": question["conversationId"], "message": answer["messageId"]}
    (chat,) = of_kind(entries, "chat")
    assert ids(chat) == {**shared, "parent": question["messageId"]}
    assert ids(of_kind(entries, "title")[0]) == {**shared, "parent": question["messageId"], "kind": "title"}
    assert ids(of_kind(entries, "memory")[0]) == {**shared, "parent": "", "kind": "memory"}
    assert {entry.user for entry in entries} == {alice.id}
    assert [e.path for e in entries] == ["/llm/Mock/v1/chat/completions"] * 3
    assert {kind: of_kind(entries, kind)[0].stream for kind in kinds(entries)} == {
        "chat": True,
        "memory": False,
        "title": False,
    }
    assert chat.body["messages"] == [{"role": "user", "content": "hello [[tokens=4]]"}]
    assert "stream_options" not in chat.body
    assert text_of(events) == "the quick brown fox" == answer["content"][0]["text"]
    assert named(events, "title")
    assert not named(events, "on_token_usage")


async def test_a_later_turn_makes_no_title_and_sends_the_thread(
    alice: Person, provider: MockProvider
) -> None:
    first = await alice.chat("one [[tokens=2]]")
    answer = first[-1]["responseMessage"]
    await settled(provider)
    provider.books.reset()
    more = {"conversationId": answer["conversationId"], "parentMessageId": answer["messageId"]}
    await alice.chat("two [[tokens=2]]", **more)
    entries = await settled(provider)
    assert kinds(entries) == ["chat", "memory"]
    said = [message["content"] for message in of_kind(entries, "chat")[0].body["messages"]]
    assert said == ["one [[tokens=2]]", "the quick", "two [[tokens=2]]"]


async def test_usage_is_asked_for_and_reported_per_endpoint(alice: Person, provider: MockProvider) -> None:
    events = await alice.chat("x [[tokens=5 reasoning=2 cached=3 delay_ms=1]]", **USAGE)
    (chat,) = of_kind(await settled(provider), "chat")
    (report,) = named(events, "on_token_usage")
    assert chat.body["stream_options"] == {"include_usage": True}
    assert (report["input_tokens"], report["output_tokens"]) == (chat.usage.prompt, chat.usage.completion)
    assert report["input_token_details"]["cache_read"] == 3
    parts = events[-1]["responseMessage"]["content"]
    assert [part["type"] for part in parts] == ["think", "text"]
    assert len(named(events, "on_reasoning_delta")) == 2
    del events[events.index({"event": "title", "data": named(events, "title")[0]})]  # comes at any time
    names = [
        str(event.get("event"))
        for event in events
        if "delta" not in str(event.get("event")) and "event" in event
    ]
    assert names == ["on_context_usage", "on_run_step", "on_run_step", "on_token_usage"]


async def test_an_agents_tools_are_called_in_one_run(alice: Person, provider: MockProvider) -> None:
    agent = await new_agent(alice, provider="MockUsage", tools=["search_mcp_files"])
    events = await alice.chat("[[calls=3 tokens=2]]", endpoint="agents", agent_id=agent["id"])
    entries = of_kind(await settled(provider), "chat")
    assert [entry.tools for entry in entries] == [("search_mcp_files",)] * 3
    assert len({entry.headers["x-geko-message"] for entry in entries}) == 1
    assert [message["role"] for message in entries[-1].body["messages"]][-4:] == ["assistant", "tool"] * 2
    reports = named(events, "on_token_usage")
    assert [each["seq"] for each in reports] == [1, 2, 3]
    assert [each["total_tokens"] for each in reports] == [entry.usage.total for entry in entries]
    parts = events[-1]["responseMessage"]["content"]
    assert [part["type"] for part in parts] == ["tool_call", "tool_call", "text"]
    assert parts[0]["tool_call"]["args"] == '{"query":"the quick"}'
    assert len(named(events, "on_context_usage")) == 3
    assert len(named(events, "on_run_step_completed")) == 2


async def test_a_sub_agent_has_its_own_model_and_the_parents_headers(
    alice: Person, provider: MockProvider
) -> None:
    child = await new_agent(alice, provider="MockUsage", model="gpt-4o-mini")
    subagents = {"enabled": True, "allowSelf": False, "agent_ids": [child["id"]]}
    agent = await new_agent(alice, provider="MockUsage", model="gpt-4o", subagents=subagents)
    events = await alice.chat("[[subagent=5 tokens=3]]", endpoint="agents", agent_id=agent["id"])
    entries = of_kind(await settled(provider), "chat")
    assert [entry.model for entry in entries] == ["gpt-4o", "gpt-4o-mini", "gpt-4o"]
    assert ids(entries[0]) == ids(entries[1]) == ids(entries[2])
    assert entries[1].usage.completion == 5
    reports = named(events, "on_token_usage")
    assert [each.get("usage_type") for each in reports] == [None, "subagent", None]
    phases = [each["phase"] for each in named(events, "on_subagent_update")]
    assert phases == ["start", "run_step", *["message_delta"] * 5, "stop"]
    assert entries[2].body["messages"][-1]["content"] == "the quick brown fox jumps"


async def test_a_sub_agent_whose_model_is_not_listed_is_dropped(
    alice: Person, provider: MockProvider
) -> None:
    child = await new_agent(alice, provider="Mock", model="secret-model")
    subagents = {"enabled": True, "allowSelf": False, "agent_ids": [child["id"]]}
    agent = await new_agent(alice, provider="Mock", model="gpt-4o", subagents=subagents)
    await alice.chat("[[subagent=5 tokens=3]]", endpoint="agents", agent_id=agent["id"])
    assert [entry.tools for entry in of_kind(await settled(provider), "chat")] == [()]


async def test_tools_of_a_chat_without_an_agent_are_those_of_its_servers(
    alice: Person, provider: MockProvider
) -> None:
    await alice.chat("[[calls=2 tokens=2]]", ephemeralAgent={"mcp": ["files", "unknown"]})
    entries = of_kind(await settled(provider), "chat")
    assert [entry.tools for entry in entries] == [("read_mcp_files", "write_mcp_files")] * 2


async def test_an_abort_closes_the_providers_stream(alice: Person, provider: MockProvider) -> None:
    conversation_id = await alice.start("[[tokens=500 delay_ms=10 only=gpt-4o]]", **USAGE)
    async with alice.subscribed(conversation_id) as reply:
        await reply.content.readuntil(b'" jumps"')
        await alice.call("POST", "/api/agents/chat/abort", {"streamId": conversation_id})
        rest = await reply.read()
    (chat,) = of_kind(await settled(provider), "chat")
    assert (chat.outcome, b'"aborted":true' in rest) == ("left", True)
    assert 5 <= chat.usage.completion < 60


async def test_an_abort_ends_the_title_too_but_not_the_memory(alice: Person, provider: MockProvider) -> None:
    conversation_id = await alice.start("[[tokens=40 delay_ms=20]]")
    async with alice.subscribed(conversation_id) as reply:
        await reply.content.readuntil(b'" brown"')
        await alice.call("POST", "/api/agents/chat/abort", {"streamId": conversation_id})
        await reply.read()
    outcomes = {entry.headers.get("x-geko-kind", "chat"): entry.outcome for entry in await settled(provider)}
    assert outcomes == {"chat": "left", "title": "left", "memory": "done"}


@pytest.mark.parametrize(
    ("order", "tries", "text"),
    [
        ("status=400", 1, "400 mock failure 400"),
        ("status=402", 1, "402 mock failure 402"),
        ("status=403 message=not_here", 1, "403 not_here"),
        ("status=401", 1, "401 mock failure 401\n\nTroubleshooting URL: https://docs.langchain.com/oss/"),
        ("status=429", 7, "429 mock failure 429\n\nTroubleshooting URL: https://docs.langchain.com/oss/"),
        ("status=429 code=insufficient_quota", 1, "429 mock failure 429"),
        ("status=503", 7, "503 mock failure 503"),
        ("die_after=3", 1, "terminated"),
        ("error_after=3 message=overloaded", 1, "overloaded"),
    ],
)
async def test_failures_end_in_an_error_part(
    alice: Person, provider: MockProvider, order: str, tries: int, text: str
) -> None:
    events = await alice.chat(f"x [[tokens=9 delay_ms=5 only=gpt-4o {order}]]")
    parts = events[-1]["responseMessage"]["content"]
    assert parts[-1]["error"].startswith(f"An error occurred while processing the request: {text}")
    assert [part["type"] for part in parts] == (["text", "error"] if "after" in order else ["error"])
    chats = of_kind(await settled(provider), "chat")
    assert [each.outcome for each in chats] == [chats[0].outcome] * tries


async def test_what_fails_twice_then_works_is_seen_by_nobody(alice: Person, provider: MockProvider) -> None:
    events = await alice.chat("x [[tokens=2 status=500 times=2 only=gpt-4o]]")
    assert text_of(events) == "the quick"
    assert [entry.status for entry in of_kind(await settled(provider), "chat")] == [500, 500, 200]


async def test_models_are_listed_for_the_account_with_literal_placeholders(
    alice: Person, provider: MockProvider
) -> None:
    listed = (await alice.call("GET", "/api/models")).json
    assert listed["Mock"] == list(provider.service.models)
    await alice.chat("hi")
    shown = [each for each in provider.service.lists if each["path"] == "/llm/Mock/v1/models"]
    assert len(shown) == 2  # by /api/models and by the chat; the hidden endpoints have no list of their own
    assert shown[0]["headers"]["x-geko-user"] == alice.id
    assert shown[0]["headers"]["x-geko-message"] == "{{LIBRECHAT_BODY_MESSAGEID}}"
    assert shown[0]["headers"]["x-geko-conversation"] == "{{LIBRECHAT_BODY_CONVERSATIONID}}"


async def test_without_a_list_nothing_but_the_fallback_can_be_called(
    alice: Person, provider: MockProvider
) -> None:
    provider.order("*", "status=503")
    assert (await alice.call("GET", "/api/models")).json["Mock"] == list(NO_MODELS)
    events = await alice.chat("hi")
    assert events == [{"error": '{ "type": "illegal_model_request", "info": "Mock|gpt-4o" }'}]
    provider.order("*", "")
    assert (await alice.chat("hi", model="secret"))[-1]["error"].count("illegal_model_request") == 1
    assert not await settled(provider)


async def test_a_summary_goes_to_its_own_endpoint(alice: Person, provider: MockProvider) -> None:
    events = await alice.chat("x [[tokens=3 summary=4]]", **USAGE)
    entries = await settled(provider)
    (summary,) = of_kind(entries, "summary")
    assert (summary.model, summary.usage.completion) == ("gpt-4o-mini", 4)
    assert [each.get("usage_type") for each in named(events, "on_token_usage")] == ["summarization", None]
    assert named(events, "on_summarize_complete")[0]["summary"]["content"][0]["text"] == "the quick brown fox"


async def test_memories_are_set_and_shown_to_the_next_call(
    alice: Person, provider: MockProvider, lc: StandIn
) -> None:
    await alice.chat("remember me [[calls=2 tokens=2]]")
    assert lc.memories[alice.id] == {"the quick": "the quick"}
    await alice.chat("and now")
    latest = of_kind(await settled(provider), "memory")[-1]
    assert "the quick: the quick" in latest.body["messages"][0]["content"]
    assert len(of_kind(await settled(provider), "memory")) == 2


async def test_two_models_answer_in_one_run(alice: Person, provider: MockProvider) -> None:
    added = {"endpoint": "MockUsage", "model": "gpt-4o-mini"}
    events = await alice.chat("x [[tokens=3]]", **USAGE, addedConvo=added)
    entries = of_kind(await settled(provider), "chat")
    assert sorted(entry.model for entry in entries) == ["gpt-4o", "gpt-4o-mini"]
    assert len({entry.headers["x-geko-message"] for entry in entries}) == 1
    assert sorted(each["seq"] for each in named(events, "on_token_usage")) == [1, 2]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_agents_api_makes_the_same_calls(
    alice: Person, provider: MockProvider, *, stream: bool
) -> None:
    agent, key = await new_agent(alice, provider="MockUsage", tools=["search_mcp_files"]), await key_of(alice)
    bearer = {"Authorization": f"Bearer {key}"}
    asked = [{"role": "user", "content": "[[calls=2 tokens=3]]"}]
    body = {"model": agent["id"], "messages": asked, "stream": stream, "conversation_id": "c1"}
    said = await alice.call("POST", "/api/agents/v1/chat/completions", body, **bearer)
    first, second = await settled(provider)
    total = first.usage.total + second.usage.total
    assert b'"total_tokens":%d' % total in said.raw
    assert b'"name":"search_mcp_files"' in said.raw
    assert first.headers["x-geko-message"].encode() in said.raw
    assert (first.headers["x-geko-user"], first.headers["x-geko-conversation"]) == (alice.id, "c1")
    asked_too = {"model": agent["id"], "input": "[[tokens=3]]", "stream": stream}
    said = await alice.call("POST", "/api/agents/v1/responses", asked_too, **bearer)
    assert provider.books.calls[-1].headers["x-geko-message"].encode() in said.raw


async def test_leaving_the_agents_api_closes_the_providers_stream(
    alice: Person, provider: MockProvider, lc: StandIn
) -> None:
    agent, key = await new_agent(alice), await key_of(alice)
    messages = [{"role": "user", "content": "[[tokens=300 delay_ms=10]]"}]
    body = {"model": agent["id"], "stream": True, "messages": messages}
    url, headers = f"{lc.url}/api/agents/v1/chat/completions", {"Authorization": f"Bearer {key}"}
    async with alice.client.post(url, json=body, headers=headers) as reply:
        await reply.content.readuntil(b"brown")
        reply.close()
    (entry,) = await settled(provider)
    assert (entry.outcome, entry.usage.completion < 60) == ("left", True)


async def test_a_provider_that_is_not_there_is_an_error_part(
    http: aiohttp.ClientSession, provider: MockProvider
) -> None:
    async with StandIn(
        llm_url="http://127.0.0.1:1/llm",
        endpoints=llm_endpoints("Mock"),
        provider_retry_s=0.001,
        start_delay_s=0.01,
    ) as lc:
        alice = await sign_up(lc, http, "alice")
        events: list[Any] = await alice.chat("hi", model=NO_MODELS[0])
    assert events[-1]["responseMessage"]["content"][0]["error"].endswith("Connection error.")
