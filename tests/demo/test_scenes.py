"""Answers of several model calls: the events that LibreChat sends for them, and what the provider produced."""

from __future__ import annotations

from typing import Any

from geko_proxy.demo.librechat import StandIn
from tests.demo.people import Person
from tests.demo.test_library import new_agent
from tests.demo.test_remote import key_of

HEAD = {"endpoint": "MockUsage", "endpointType": "custom", "model": "gpt-4o", "conversationId": None}


async def play(person: Person, order: str) -> list[Any]:
    """The events of an answer."""
    return await person.chat(f"x [[{order} delay_ms=0]]", **HEAD)


def names(events: list[Any]) -> list[str]:
    """The names of events, without those of text."""
    found = [str(event.get("event")) for event in events if "event" in event]
    return [name for name in found if not name.endswith("_delta")]


def reports(events: list[Any]) -> list[Any]:
    return [event["data"] for event in events if event.get("event") == "on_token_usage"]


async def test_a_tool_loop_announces_each_call_and_reports_it(alice: Person) -> None:
    events = await play(alice, "tokens=3 calls=2")
    call = ["on_context_usage", "on_run_step", "on_token_usage"]
    assert names(events) == [*call, "on_run_step_completed", *call]
    (done,) = [
        event["data"]["result"]["tool_call"]
        for event in events
        if "run_step_completed" in str(event.get("event"))
    ]
    assert done["args"] == "the quick brown"
    final = events[-1]["responseMessage"]
    assert [part["type"] for part in final["content"]] == ["tool_call", "text"]
    used = final["metadata"]["usage"]
    assert used["output"] == 6
    assert used["input"] == sum(each["input_tokens"] for each in reports(events))
    assert [each["seq"] for each in reports(events)] == [1, 2]


async def test_a_sub_agents_events_come_wrapped_and_its_report_is_tagged(alice: Person) -> None:
    events = await play(alice, "tokens=3 subagent=4")
    updates = [event["data"] for event in events if event.get("event") == "on_subagent_update"]
    assert [each["phase"] for each in updates] == ["start", "run_step", *["message_delta"] * 4, "stop"]
    assert len({each["subagentRunId"] for each in updates}) == 1
    assert [each.get("usage_type") for each in reports(events)] == [None, "subagent", None]
    assert events[-1]["responseMessage"]["tokenCount"] == 6  # what the sub-agent wrote is not in it


async def test_a_hidden_agent_shows_its_report_only(alice: Person) -> None:
    events = await play(alice, "tokens=3 sequential=4")
    assert names(events) == ["on_context_usage", "on_token_usage", "on_run_step", "on_token_usage"]
    assert reports(events)[0]["usage_type"] == "sequential"


async def test_after_a_summary_the_call_is_announced_anew(alice: Person) -> None:
    events = await play(alice, "tokens=3 summary=2")
    summary = ["on_summarize_start", "on_token_usage", "on_summarize_complete"]
    assert names(events)[:5] == ["on_context_usage", *summary, "on_context_usage"]


async def test_bedrock_tells_cached_tokens_apart(alice: Person) -> None:
    order = "tokens=3 prompt=50 cached=20 cache_write=10 hidden=4 vendor="
    (inside,) = reports(await play(alice, order + "openAI"))
    (beside,) = reports(await play(alice, order + "bedrock"))
    assert (inside["input_tokens"], beside["input_tokens"]) == (50, 20)
    assert inside["total_tokens"] == beside["total_tokens"] == 57
    assert beside["input_token_details"] == {"cache_read": 20, "cache_creation": 10}


async def test_the_agents_api_sums_completions_and_overwrites_responses(alice: Person, lc: StandIn) -> None:
    agent, key = await new_agent(alice, provider="MockUsage"), await key_of(alice)
    text = "[[tokens=3 calls=3 prompt=10 delay_ms=0]]"
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": text}]}
    said = {}
    for api, more in (("chat/completions", asked), ("responses", {"input": text})):
        body = {"model": agent["id"], **more}
        answer = await alice.call("POST", f"/api/agents/v1/{api}", body, Authorization=f"Bearer {key}")
        said[api] = answer.json["usage"]["total_tokens"]
    assert said == {"chat/completions": 39, "responses": 13}
    assert (
        sum(each["usage"]["total_tokens"] for each in lc.provider.log if each["purpose"] == "agents api")
        == 78
    )
