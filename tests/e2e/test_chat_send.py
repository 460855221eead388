"""POST /v1/chat/send: GEKO's own chat endpoint."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from tests.e2e.people import Person, read_events


async def send(person: Person, **body: Any) -> list[tuple[str, Any]]:
    answer = await person.call(
        "POST", "/v1/chat/send", {"message": "hi", "model": "MockUsage/gpt-4o-mini", **body}
    )
    assert answer.status == 200, answer
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    return [(event.name, event.json) for event in read_events(answer.raw) if event.data]


async def test_the_events_of_an_answer(alice: Person) -> None:
    events = await send(alice, message="hello [[tokens=6 prompt=9 delay_ms=1]]")
    names = [name for name, _ in events]
    assert names == ["token"] * 6 + ["usage", "final"]
    text = "".join(data["text"] for name, data in events if name == "token")
    final = events[-1][1]
    assert final["text"] == text
    assert (final["finishReason"], final["model"]) == ("stop", "MockUsage/gpt-4o-mini")
    assert events[-2][1] == {"promptTokens": 9, "completionTokens": 6, "totalTokens": 15, "estimated": False}
    assert (await alice.usage())["used"] == 15


async def test_it_streams_word_by_word(alice: Person) -> None:
    body = {"message": "slowly [[tokens=8 delay_ms=60]]", "model": "MockUsage/gpt-4o-mini"}
    headers = {"Authorization": f"Bearer {alice.token}"}
    arrivals = []
    async with alice.client.post("/v1/chat/send", json=body, headers=headers) as reply:
        async for line in reply.content:
            if line.startswith(b"event: token"):
                arrivals.append(time.monotonic())
    assert len(arrivals) == 8
    assert arrivals[-1] - arrivals[0] > 0.25


async def test_one_json_and_a_conversation_that_goes_on(alice: Person) -> None:
    body = {"message": "one [[tokens=3 prompt=4]]", "model": "MockUsage/gpt-4o-mini", "stream": False}
    first = await alice.call("POST", "/v1/chat/send", body)
    assert first.status == 200, first
    assert first.headers["Content-Type"].startswith("application/json")
    conversation = first.json["conversationId"]
    body = {**body, "message": "two [[tokens=2 prompt=6]]", "conversationId": conversation}
    second = await alice.call("POST", "/v1/chat/send", body)
    assert second.json["conversationId"] == conversation
    messages = (await alice.call("GET", f"/api/messages/{conversation}")).json
    assert [m["isCreatedByUser"] for m in messages] == [True, False, True, False]
    assert messages[2]["parentMessageId"] == first.json["messageId"]
    assert (await alice.usage())["used"] == 15


async def test_refusals_have_their_own_status(alice: Person, bob: Person) -> None:
    await alice.set_config(models=["MockUsage/gpt-4o-mini"])
    cases: list[tuple[dict[str, Any], int]] = [
        ({"model": "MockUsage/gpt-4o"}, 403),
        ({"model": "Nowhere/x"}, 403),
        ({"conversationId": "6b3c2f1e-0000-4000-8000-000000000000"}, 404),
        ({"message": ""}, 400),
        ({"unknown": 1}, 400),
        ({"stream": "yes"}, 400),
    ]
    for body, status in cases:
        answer = await alice.call(
            "POST", "/v1/chat/send", {"message": "x", "model": "MockUsage/gpt-4o-mini", **body}
        )
        assert answer.status == status, (body, answer)
        assert answer.json["error"]["message"]
    await alice.set_quota(0)
    answer = await alice.call("POST", "/v1/chat/send", {"message": "x", "model": "MockUsage/gpt-4o-mini"})
    assert answer.status == 429
    assert answer.json["error"]["code"] == "quota_exceeded"
    assert answer.json["error"]["details"]["limit"] == 0


async def test_the_quota_ends_an_answer_well_formed(alice: Person) -> None:
    await alice.set_quota(60)
    events = await send(alice, message="long [[tokens=500 prompt=10 delay_ms=2]]")
    final = events[-1][1]
    assert (events[-1][0], final["finishReason"]) == ("final", "quota_exceeded")
    assert (await alice.usage())["used"] == 60


async def test_a_client_that_leaves_is_charged(alice: Person) -> None:
    body = {"message": "bye [[tokens=20 prompt=5 delay_ms=20]]", "model": "MockUsage/gpt-4o-mini"}
    headers = {"Authorization": f"Bearer {alice.token}"}
    async with alice.client.post("/v1/chat/send", json=body, headers=headers) as reply:
        await reply.content.readline()
    for _ in range(100):
        if (await alice.usage())["used"]:
            break
        await asyncio.sleep(0.05)
    assert (await alice.usage())["used"] == 25


@pytest.mark.parametrize("order", ["status=400", "die_after=3 tokens=9"])
async def test_a_failing_provider_is_an_error(alice: Person, order: str) -> None:
    events = await send(alice, message=f"fail [[{order} only=gpt-4o-mini]]")
    assert events[-1][0] in ("error", "final")
    assert "error" in json.dumps(events[-1])
