"""What is charged: exactly what the provider reported, once, whoever listens or leaves."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.e2e.people import Person, deltas


async def settled(person: Person) -> dict[str, Any]:
    """The usage once no answer is running."""
    for _ in range(200):
        usage = await person.usage()
        if usage["leased"] == 0:
            return usage
        await asyncio.sleep(0.05)
    raise AssertionError("a lease was never given back")


async def test_usage_rises_by_what_the_provider_reported(alice: Person) -> None:
    events = await alice.chat("count me [[tokens=12 prompt=40 delay_ms=5]]")
    assert deltas(events).split()[:4] == ["the", "quick", "brown", "fox"]
    assert events[0]["created"] is True
    assert events[-1]["final"] is True
    usage = await alice.usage()  # at once: who sees the end sees the charge
    assert (usage["used"], usage["leased"]) == (52, 0)
    await alice.chat("again [[tokens=3 prompt=10 cached=4 reasoning=2]]")
    assert (await alice.usage())["used"] == 52 + 15


async def test_an_answer_streams_word_by_word(alice: Person) -> None:
    conversation = await alice.start("slowly [[tokens=10 delay_ms=60]]")
    arrivals = []
    async with alice.subscribed(conversation) as reply:
        assert reply.headers["Content-Type"] == "text/event-stream"
        async for line in reply.content:
            if b"on_message_delta" in line:
                arrivals.append(time.monotonic())
    assert len(arrivals) == 10
    assert sum(b - a > 0.02 for a, b in itertools.pairwise(arrivals)) >= 7


async def test_without_a_report_the_words_are_counted_and_marked(alice: Person) -> None:
    events = await alice.chat("no report [[tokens=30 delay_ms=0]]", endpoint="Mock")
    usage = await alice.usage()
    (model,) = usage["byModel"]
    assert model["estimatedTokens"] == usage["used"]
    prompt = events[-1]["responseMessage"]["promptTokens"]
    assert abs(usage["used"] - prompt - 30) <= 3  # a word of the stand-in is about one token


async def test_a_client_that_leaves_changes_nothing(alice: Person) -> None:
    conversation = await alice.start("leave me [[tokens=30 prompt=20 delay_ms=20]]")
    async with alice.subscribed(conversation) as reply:
        await reply.content.readline()
    assert (await settled(alice))["used"] == 50


async def test_nobody_listens_at_all(alice: Person) -> None:
    await alice.start("alone [[tokens=10 prompt=20 delay_ms=5]]")
    assert (await settled(alice))["used"] == 30


async def test_two_browsers_see_all_and_one_answer_is_charged(alice: Person) -> None:
    conversation = await alice.start("for two [[tokens=25 prompt=20 delay_ms=15]]")
    first = asyncio.create_task(alice.listen(conversation))
    await asyncio.sleep(0.2)
    late, back = await asyncio.gather(alice.listen(conversation), alice.listen(conversation, "?resume=true"))
    whole = await first
    assert whole == late
    assert back[0]["sync"] is True
    assert back[1:] == whole[1:]  # all but `created`
    assert (await alice.usage())["used"] == 45


async def test_a_browser_that_comes_after_the_end_gets_the_whole_answer(alice: Person) -> None:
    conversation = await alice.start("quick [[tokens=5 prompt=5 delay_ms=0]]")
    first = await alice.listen(conversation)
    assert await alice.listen(conversation) == first


async def test_a_second_message_into_a_running_answer_is_refused(alice: Person) -> None:
    conversation = await alice.start("wait [[tokens=20 prompt=10 delay_ms=30]]")
    refused = await alice.post_chat("too early", conversationId=conversation)
    assert refused.status == 409
    assert refused.json["type"] == "concurrent"
    await alice.listen(conversation)
    assert (await alice.usage())["used"] == 30


async def test_stop_is_charged_by_what_was_streamed(alice: Person) -> None:
    conversation = await alice.start("stop me [[tokens=500 prompt=10 delay_ms=10]]")
    async with alice.subscribed(conversation) as reply:
        for _ in range(60):
            await reply.content.readline()
        stopped = await alice.call("POST", "/api/agents/chat/abort", {"streamId": conversation})
        rest = await reply.read()
    assert (stopped.status, stopped.json) == (200, {"success": True, "aborted": conversation})
    assert b'"aborted":true' in rest
    used = (await settled(alice))["used"]
    assert 15 < used < 200


async def test_the_reply_to_stop_comes_after_the_last_event(alice: Person, e2e_dsn: str) -> None:
    """The other order leaves the next message of a new chat in the input box of LibreChat's page."""
    conversation = await alice.start("stop me [[tokens=500 prompt=10 delay_ms=10]]")
    async with alice.subscribed(conversation) as reply:
        await reply.content.readline()
        database = await asyncpg.connect(e2e_dsn)
        async with database.transaction():  # the last event waits for the charge, and that for this lock
            await database.execute(
                "select * from limit_windows where workspace_id = $1 for update", UUID(alice.workspace_id)
            )
            body = {"streamId": conversation}
            stop = asyncio.create_task(alice.call("POST", "/api/agents/chat/abort", body))
            done, _ = await asyncio.wait({stop}, timeout=0.5)
            assert not done
        assert (await stop).status == 200
        assert b'"aborted":true' in await reply.read()
    await database.close()


async def test_abort_hits_only_what_it_names(alice: Person, bob: Person) -> None:
    running = await alice.start("keep going [[tokens=40 prompt=10 delay_ms=20]]")
    for body in ({"streamId": "nope"}, {"conversationId": "nope"}, {"abortKey": "nope:x"}):
        refused = await alice.call("POST", "/api/agents/chat/abort", body)
        assert refused.status == 404
    assert (await bob.call("POST", "/api/agents/chat/abort", {"streamId": running})).status == 404
    events = await alice.listen(running)
    assert not events[-1].get("aborted")
    assert (await alice.usage())["used"] == 50


async def test_a_used_up_quota_cuts_the_answer_and_refuses_the_next(alice: Person) -> None:
    await alice.set_quota(400)
    conversation = await alice.start("long [[tokens=2000 prompt=20 delay_ms=2]]")
    events = await alice.listen(conversation)
    final = events[-1]
    assert final["final"] is True
    assert final["aborted"] is True
    part = final["responseMessage"]["content"][-1]
    assert part["type"] == "error"
    assert "token quota of workspace Default is used up" in part["error"]
    assert deltas(events) == final["responseMessage"]["content"][0]["text"][: len(deltas(events))]
    usage = await alice.usage()
    assert (usage["used"], usage["leased"], usage["remaining"]) == (400, 0, 0)

    stored = (await alice.call("GET", f"/api/messages/{conversation}")).json[-1]
    assert stored["content"][-1] == part  # it survives a reload

    refused = await alice.post_chat("one more")
    assert refused.status == 429
    assert refused.json["type"] == "google_error"
    assert "used up" in refused.json["info"]
    assert int(refused.headers["Retry-After"]) > 0
    assert (await alice.usage())["used"] == 400

    await alice.set_quota(1000)
    follow_up = await alice.chat("go on [[tokens=3 prompt=7]]", conversationId=conversation)
    assert follow_up[-1]["final"] is True
    assert (await alice.usage())["used"] == 410


async def test_many_answers_at_once_never_pass_more_than_the_quota(alice: Person) -> None:
    await alice.set_quota(600)
    started = await asyncio.gather(
        *(alice.post_chat("race [[tokens=2000 prompt=5 delay_ms=1]]") for _ in range(12))
    )
    conversations = [each.json["conversationId"] for each in started if each.status == 200]
    assert {each.status for each in started} <= {200, 429}
    answers = await asyncio.gather(*(alice.listen(each) for each in conversations))
    assert all(events[-1]["final"] for events in answers)
    usage = await settled(alice)
    assert usage["used"] == 600


@pytest.mark.parametrize("order", ["status=500", "status=400", "die_after=5 tokens=30"])
async def test_a_failing_provider_ends_well_formed(alice: Person, order: str) -> None:
    events = await alice.chat(f"fail [[{order} only=gpt-4o-mini]]")
    assert events[-1]["final"] is True
    assert any(part["type"] == "error" for part in events[-1]["responseMessage"]["content"])
    assert (await settled(alice))["leased"] == 0


async def test_added_conversation_is_charged_for_both_models(alice: Person) -> None:
    added = {"endpoint": "MockUsage", "endpointType": "custom", "model": "gpt-4o"}
    await alice.chat("both [[tokens=6 prompt=10 delay_ms=5]]", addedConvo=added)
    assert (await alice.usage())["used"] == 32


async def test_a_message_that_librechat_refuses_is_not_charged(alice: Person) -> None:
    events = await alice.chat("x", model="no-such-model")
    assert "illegal_model_request" in events[-1]["error"]
    usage = await settled(alice)
    assert usage["used"] <= 10
