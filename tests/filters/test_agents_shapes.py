"""One JSON object out of a stream, and the end of a cut one; against LibreChat's own shapes in tests/e2e."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from geko_proxy.errors import EndStream
from geko_proxy.filters.agents_shapes import Completion, Response

CUT = EndStream(notice="used up", code="quota_exceeded")


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c1", "created": 7, "model": "agent_1", "choices": [choice]}


def whole(shape: Completion | Response, cut: EndStream | None = None) -> tuple[int, Any]:
    reply = shape.whole(cut)
    assert reply.body is not None
    return reply.status, msgspec.json.decode(reply.body)


@pytest.mark.parametrize(
    ("message", "status", "kind"),
    [
        ("429 slow down", 429, "invalid_request_error"),
        ("503 away", 503, "server_error"),
        ("terminated", 500, "server_error"),
    ],
)
def test_an_error_in_the_stream_becomes_its_status(message: str, status: int, kind: str) -> None:
    shape = Completion()
    shape.take(chunk("stop", content=f"\n\nError: {message}"))
    found, body = whole(shape)
    assert (found, body["error"]["message"], body["error"]["type"]) == (status, message, kind)
    other = Response()
    other.take({"type": "response.failed", "response": {"status": "failed", "error": {"message": message}}})
    assert whole(other)[0] == status


def test_an_answer_of_tool_calls_alone_ends_with_them() -> None:
    shape = Completion()
    for part in ({"id": "t", "function": {"name": "f", "arguments": ""}}, {"function": {"arguments": "{}"}}):
        shape.take(chunk(tool_calls=[{"index": 0, **part}, {"index": "x"}]))
    choice = whole(shape)[1]["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    assert choice["message"]["tool_calls"][0] == {
        "id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}
    }  # fmt: skip


def test_a_cut_answer_keeps_its_text_and_says_why() -> None:
    shape = Completion()
    shape.take(chunk(content="half a", reasoning="hm"))
    status, body = whole(shape, CUT)
    assert (status, body["choices"][0]["finish_reason"]) == (200, "length")
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "half a", "reasoning": "hm"}
    assert body["error"]["code"] == "quota_exceeded"
    other = Response()
    other.take({"type": "response.created", "response": {"id": "r", "status": "in_progress"}})
    other.take({"type": "response.output_text.delta", "delta": "half a"})
    body = whole(other, CUT)[1]
    assert (body["id"], body["status"], body["error"]["message"]) == ("r", "failed", "used up")
    assert body["output"][0]["content"][0]["text"] == "half a"


def test_a_cut_stream_ends_well_formed() -> None:
    for shape in (Completion(), Response()):
        last, done = shape.closing("used up", "quota_exceeded")
        assert done.raw == b"data: [DONE]\n\n"
        data = json.loads(last.data)
        assert (data.get("error") or data["response"]["error"])["code"] == "quota_exceeded"
