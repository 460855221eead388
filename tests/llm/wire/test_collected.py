"""One chat completion made from its stream."""

from __future__ import annotations

from typing import Any

import pytest

from geko_proxy.llm.wire import collected
from geko_proxy.llm.wire.collected import CollectedCompletion
from geko_proxy.sse import SseEvent, SseFormatError


def chunk(delta: dict[str, Any], index: int = 0, finish: str | None = None) -> SseEvent:
    """One event."""
    return SseEvent.message(
        {"id": "c", "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}
    )


def test_pieces_become_a_whole() -> None:
    reply = CollectedCompletion("m")
    for number in range(1000):
        reply.take(chunk({"content": f"{number} "}))
        reply.take(chunk({"content": [{"type": "text", "text": "part "}]}, 1))
        reply.take(
            chunk(
                {"tool_calls": [{"index": 0, "id": "t", "type": "function", "function": {"arguments": "1"}}]}
            )
        )
    whole = [reply.is_whole]
    reply.take(chunk({}, 0, "tool_calls"))
    whole.append(reply.is_whole)
    reply.take(chunk({}, 1, "stop"))
    assert [*whole, reply.is_whole] == [False, False, True]
    first, second = reply.whole()["choices"]
    assert first["message"]["content"] == "".join(f"{number} " for number in range(1000))
    assert first["message"]["tool_calls"] == [
        {"id": "t", "type": "function", "function": {"name": "", "arguments": "1" * 1000}}
    ]
    assert second["message"] == {"role": "assistant", "content": "part " * 1000}
    assert [each["finish_reason"] for each in (first, second)] == ["tool_calls", "stop"]


def test_half_a_tools_call_is_left_out() -> None:
    reply = CollectedCompletion("m")
    reply.take(chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]}))
    reply.take(chunk({"function_call": {"name": "f", "arguments": '{"a":'}}))
    (choice,) = reply.whole()["choices"]
    assert "tool_calls" not in choice["message"]
    assert "function_call" not in choice["message"]
    assert choice["finish_reason"] == "length"


def test_a_reply_has_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collected, "MAX_BYTES", 10_000)
    reply = CollectedCompletion("m")
    big = chunk({"content": "x" * 6000})
    reply.take(big)
    with pytest.raises(SseFormatError):
        reply.take(big)
