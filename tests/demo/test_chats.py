"""What the recordings do not show of chats: contract §4's [live] findings and traps."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import aiohttp
import pytest

from geko_proxy.demo.librechat import StandIn
from tests.demo.comparison import events
from tests.demo.people import ROOT, Person, named, sign_up, text_of


async def test_the_early_buffer_is_given_away_once(alice: Person) -> None:
    conversation = await alice.start("[[tokens=60 delay_ms=10]]")
    await asyncio.sleep(0.25)
    first = asyncio.create_task(alice.listen(conversation))
    await asyncio.sleep(0.05)
    second = await alice.listen(conversation)
    found = await first
    assert found[0]["created"]
    assert len(text_of(found).split()) == 60
    assert not any("created" in event or event.get("event") == "on_run_step" for event in second)
    assert 0 < len(text_of(second).split()) < 60
    assert second[-1] == found[-1]


async def test_a_resume_drains_the_buffer_and_gets_the_state_instead(alice: Person) -> None:
    conversation = await alice.start("[[tokens=40 delay_ms=10]]")
    await asyncio.sleep(0.2)
    resumed = asyncio.create_task(alice.listen(conversation, "?resume=true"))
    await asyncio.sleep(0.05)
    plain = await alice.listen(conversation)
    found = await resumed
    state = found[0]["resumeState"]
    known = state["aggregatedContent"][0]["text"]
    assert not any("created" in event for event in plain + found)
    assert len((known + text_of(found)).split()) == 40
    assert state["contextUsage"]["runId"] == state["responseMessageId"]


async def test_generation_does_not_need_a_listener(alice: Person, lc: StandIn) -> None:
    conversation = await alice.start("[[tokens=5 delay_ms=1]]")
    await asyncio.sleep(0.3)
    gone = await alice.call("GET", f"/api/agents/chat/stream/{conversation}")
    assert gone.status == 404
    assert (await alice.messages(conversation))[1]["content"][0]["text"] == "the quick brown fox jumps"


async def test_when_all_leave_the_part_is_saved_unfinished(alice: Person) -> None:
    conversation = await alice.start("[[tokens=60 delay_ms=10]]")
    async with alice.subscribed(conversation) as reply:
        await reply.content.readuntil(b"brown")
        reply.close()
    await asyncio.sleep(0.1)
    assert (await alice.messages(conversation))[1]["unfinished"] is True
    await alice.listen(conversation, "?resume=true")
    assert (await alice.messages(conversation))[1]["unfinished"] is False


async def test_a_second_post_replaces_the_job_and_interleaves(alice: Person) -> None:
    conversation = await alice.start("[[tokens=30 delay_ms=15]]", endpoint="MockUsage")
    listening = asyncio.create_task(alice.listen(conversation))
    await asyncio.sleep(0.15)
    again = {"conversationId": conversation, "endpoint": "MockUsage"}
    await alice.start("[[tokens=50 delay_ms=15]]", **again)
    found = await listening
    finals = [event for event in found if event.get("final")]
    assert [event["message"]["text"] for event in found if "created" in event] == [
        "[[tokens=30 delay_ms=15]]",
        "[[tokens=50 delay_ms=15]]",
    ]
    assert len(named(found, "on_message_delta")) == 80
    assert [usage["output_tokens"] for usage in named(found, "on_token_usage")] == [50]
    assert len(finals) == 1
    stored = [m for m in await alice.messages(conversation) if not m["isCreatedByUser"]]
    assert sorted(m["tokenCount"] for m in stored) == [30, 50]


async def test_an_abort_of_an_unknown_id_stops_the_newest_job(alice: Person, bob: Person) -> None:
    older = await alice.start("[[tokens=100 delay_ms=20]]")
    newer = await alice.start("[[tokens=100 delay_ms=20]]")
    others = await bob.start("[[tokens=100 delay_ms=20]]")
    await asyncio.sleep(0.1)
    aborted = await alice.call("POST", "/api/agents/chat/abort", {"streamId": "finished-long-ago"})
    assert aborted.json == {"success": True, "aborted": newer}
    assert (await alice.call("GET", "/api/agents/chat/active")).json == {"activeJobIds": [older]}
    foreign = await alice.call("POST", "/api/agents/chat/abort", {"streamId": others})
    assert (foreign.status, foreign.json) == (403, {"error": "Unauthorized"})
    for path in (f"stream/{others}", f"status/{others}"):
        assert (await alice.call("GET", f"/api/agents/chat/{path}")).status == 403


async def test_an_abort_reports_no_usage_and_is_saved_twice(alice: Person, lc: StandIn) -> None:
    conversation = await alice.start("[[tokens=100 delay_ms=10]]", endpoint="MockUsage")
    listening = asyncio.create_task(alice.listen(conversation))
    await asyncio.sleep(0.3)
    await alice.call("POST", "/api/agents/chat/abort", {"streamId": conversation})
    found = await listening
    assert found[-1]["aborted"] is True
    assert not named(found, "on_token_usage")
    assert (await alice.messages(conversation))[1]["unfinished"] is True
    forged = {**found[-1]["responseMessage"], "content": [{"type": "error", "error": "too early"}]}
    await alice.call("POST", f"/api/messages/{conversation}", forged)
    await asyncio.sleep(0.5)
    late = (await alice.messages(conversation))[1]
    assert (late["unfinished"], late["content"][0]["type"]) == (False, "text")
    assert lc.provider.log[-1]["outcome"] == "client went away"
    assert (await alice.call("POST", f"/api/messages/{conversation}", forged)).status == 201
    assert (await alice.messages(conversation))[1]["content"] == forged["content"]
    second = await alice.call("POST", "/api/agents/chat/abort", {"streamId": conversation})
    assert second.status == 404


async def test_an_abort_before_anything_was_said_is_early(http: aiohttp.ClientSession) -> None:
    async with StandIn(start_delay_s=5) as lc:
        alice = await sign_up(lc, http, "alice")
        conversation = await alice.start("hi")
        async with alice.subscribed(conversation) as reply:
            await alice.call("POST", "/api/agents/chat/abort", {"streamId": conversation})
            [(_, final)] = events(await reply.read())
        assert (final["earlyAbort"], final["responseMessage"]) == (True, None)
        assert await alice.messages(conversation) == {"error": "Conversation not found"}


async def test_without_a_browser_nothing_is_started_or_aborted(alice: Person) -> None:
    conversation = await alice.start("[[tokens=50 delay_ms=20]]")
    for agent in ("Python/3.11 aiohttp/3.14", "curl/8.0", "Mozilla/5.0", ""):
        refused = await alice.call(
            "POST", "/api/agents/chat/abort", {"streamId": conversation}, User_Agent=agent
        )
        assert refused.status == 200
        assert refused.raw == b'event: error\ndata: {"message":"Illegal request"}\n\n'
        assert "Content-Type" not in refused.headers
    assert (await alice.call("GET", "/api/agents/chat/active")).json == {"activeJobIds": [conversation]}
    assert (await alice.call("GET", "/api/user", User_Agent="curl/8.0")).status == 200


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"model": None}, '{ "type": "missing_model", "info": "Mock" }'),
        ({"model": "gpt-9"}, '{ "type": "illegal_model_request", "info": "Mock|gpt-9" }'),
        ({"endpoint": "Nope"}, '{ "type": "endpoint_models_not_loaded", "info": "Nope" }'),
        ({"endpoint": "openAI", "model": "gpt-4o"}, "openAI API Key not provided."),
    ],
)
async def test_model_errors_come_by_the_stream_and_stay(alice: Person, fields: Any, error: str) -> None:
    conversation = await alice.start("hi", **fields)
    assert await alice.listen(conversation) == [{"error": error}]
    assert await alice.listen(conversation) == [{"error": error}]


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        (
            {"endpoint": "Nope", "endpointType": None},
            200,
            b'event: error\ndata: {"text":"Error parsing conversation"}',
        ),
        ({"endpoint": "agents"}, 400, b'"agent_id is required in request body"'),
        ({"endpoint": "agents", "agent_id": "agent_unknown"}, 404, b'"agent not found"'),
        ({"parentMessageId": "abc_"}, 409, b"Cannot submit a follow-up"),
    ],
)
async def test_refusals_of_the_post(alice: Person, fields: Any, status: int, said: bytes) -> None:
    body = {"text": "hi", "endpoint": "Mock", "endpointType": "custom", "model": "gpt-4o", **fields}
    refused = await alice.call("POST", "/api/agents/chat", body)
    assert refused.status == status
    assert said in refused.raw


async def test_a_foreign_conversation_is_refused_with_a_200(alice: Person, bob: Person) -> None:
    await alice.chat("[[tokens=1]]", conversationId=(foreign := str(uuid.uuid4())))
    body = {"text": "hi", "endpoint": "Mock", "endpointType": "custom", "model": "gpt-4o"}
    refused = await bob.call("POST", "/api/agents/chat", body | {"conversationId": foreign})
    assert refused.status == 200
    assert "Content-Type" not in refused.headers
    assert b'"created":true' in refused.raw
    assert b"convo_access" in refused.raw


async def test_an_added_conversation_answers_in_the_same_run(alice: Person) -> None:
    added = {"endpoint": "MockUsage", "model": "gpt-4o-mini"}
    found = await alice.chat("[[tokens=4]]", endpoint="MockUsage", addedConvo=added)
    usages = named(found, "on_token_usage")
    assert [usage["seq"] for usage in usages] == [1, 2]
    assert len({usage["runId"] for usage in usages}) == 1
    assert {usage["model"] for usage in usages} == {"gpt-4o", "gpt-4o-mini"}
    answer = found[-1]["responseMessage"]
    assert answer["metadata"]["usage"]["output"] == answer["tokenCount"] == 8
    assert answer["content"][1]["groupId"] == 1
    dropped = await alice.chat("[[tokens=4]]", endpoint="MockUsage", addedConvo=added | {"model": "gpt-9"})
    assert len(named(dropped, "on_token_usage")) == 1


async def test_regenerate_and_continue_keep_the_question(alice: Person, lc: StandIn) -> None:
    first = (await alice.chat("[[tokens=3]]"))[-1]
    ids = {"conversationId": first["conversation"]["conversationId"]}
    again = {"isRegenerate": True, "overrideParentMessageId": first["requestMessage"]["messageId"], **ids}
    second = (await alice.chat("[[tokens=3]]", **again))[-1]
    assert second["requestMessage"]["messageId"] == first["requestMessage"]["messageId"]
    edited = {"index": 0, "type": "text", "text": "But now: "}
    onward = again | {"isContinued": True, "responseMessageId": first["responseMessage"]["messageId"]}
    third = (await alice.chat("", editedContent=edited, **onward))[-1]["responseMessage"]
    assert third["messageId"] == first["responseMessage"]["messageId"]
    assert [part["text"] for part in third["content"]] == ["But now: ", "the quick brown"]
    assert len(await alice.messages(ids["conversationId"])) == 3


async def test_history_goes_to_the_model_without_error_parts(alice: Person, lc: StandIn) -> None:
    first = (await alice.chat("[[tokens=2 die_after=1 only=gpt-4o]]"))[-1]
    assert [part["type"] for part in first["responseMessage"]["content"]] == ["text", "error"]
    ids = {"conversationId": first["conversation"]["conversationId"]}
    await alice.chat("next [[tokens=1]]", parentMessageId=first["responseMessage"]["messageId"], **ids)
    sent = lc.provider.log[-1]["body"]["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user"]
    assert sent[1]["content"] == "the "


async def test_the_title_call_is_hidden_and_its_count_a_trap(alice: Person, lc: StandIn) -> None:
    final = (await alice.chat("[[tokens=90 only=gpt-4o delay_ms=5]]"))[-1]
    assert final["responseMessage"]["tokenCount"] == 20
    assert sorted(entry["purpose"] for entry in lc.provider.log) == ["chat", "title"]
    untitled = await alice.start("[[tokens=1]]", endpoint="MockUsage")
    await alice.listen(untitled)
    assert (await alice.call("GET", f"/api/convos/gen_title/{untitled}")).status == 404


async def test_temporary_chats_are_not_listed(alice: Person) -> None:
    await alice.chat("[[tokens=1]]", isTemporary=True)
    assert (await alice.call("GET", "/api/convos")).json["conversations"] == []


async def test_parallel_users_see_only_their_own(alice: Person, bob: Person) -> None:
    finals = await asyncio.gather(alice.chat("[[tokens=5]]"), bob.chat("[[tokens=5]]", parentMessageId=ROOT))
    for person, found in zip((alice, bob), finals, strict=True):
        listed = (await person.call("GET", "/api/convos")).json["conversations"]
        assert [c["conversationId"] for c in listed] == [found[-1]["conversation"]["conversationId"]]
    assert json.dumps(finals[0][-1]) != json.dumps(finals[1][-1])
