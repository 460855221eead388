"""What a client of /v1/chat/send sees of the answers that were recorded from a real LibreChat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.client_api.chat_events import Answer, ClientEvent, explain
from geko_proxy.librechat import error_part
from geko_proxy.metering.meter import TurnMeter
from geko_proxy.metering.tokens import TokenCounter
from geko_proxy.sse import SseEvent, SseParser

COUNTER = TokenCounter()
RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "librechat-transcripts"
CONVERSATION = "c1"


def new_answer() -> Answer:
    return Answer(CONVERSATION, "Mock/asked", "r1", TurnMeter(COUNTER, "asked"))


def recorded(name: str) -> list[SseEvent]:
    body = (RECORDINGS / f"{name}.txt").read_bytes().partition(b"### body\n")[2]
    return SseParser().feed(body.rstrip(b"\n") + b"\n\n")


def translate(events: list[SseEvent]) -> list[ClientEvent]:
    answer = new_answer()
    seen = [each for event in events for each in answer.read(event)]
    assert answer.ended
    return seen


def message(**data: Any) -> SseEvent:
    return SseEvent.message(data)


def delta(text: str, kind: str = "text") -> SseEvent:
    name = "on_message_delta" if kind == "text" else "on_reasoning_delta"
    return message(event=name, data={"id": "s", "delta": {"content": [{"type": kind, kind: text}]}})


def final(*parts: dict[str, Any], **more: Any) -> SseEvent:
    content = {"messageId": "m1", "endpoint": "Mock", "model": "gpt-4o", "content": list(parts)}
    return message(final=True, responseMessage=content, **more)


def test_an_answer_with_a_report() -> None:
    events = translate(recorded("40_usage_asked_stream"))
    assert [event.name for event in events] == ["token"] * 5 + ["usage", "final"]
    usage = {"promptTokens": 40, "completionTokens": 5, "totalTokens": 45, "estimated": False}
    assert events[-2].data == usage
    assert events[-1].data == {
        "conversationId": CONVERSATION,
        "messageId": "7e4aa879-fc3e-4723-b288-2051e64fd8a1",
        "model": "MockUsage/gpt-4o",
        "text": "the quick brown fox jumps",
        "finishReason": "stop",
        "usage": usage,
    }
    assert "".join(event.data["text"] for event in events[:5]) == "the quick brown fox jumps"


def test_an_answer_without_a_report_is_estimated_at_the_end() -> None:
    events = translate(recorded("21_chat_stream"))
    assert [event.name for event in events] == ["token"] * 12 + ["usage", "final"]
    assert events[-2].data["estimated"] is True
    assert events[-2].data["promptTokens"] == 14
    assert events[-2].data["completionTokens"] == COUNTER.count(events[-1].data["text"])


def test_thoughts_are_apart_from_the_answer() -> None:
    events = translate(recorded("41_usage_reasoning_stream"))
    thoughts = [event.data["text"] for event in events if event.name == "reasoning"]
    assert "".join(thoughts) == "hmm hmm hmm "
    assert events[-1].data["text"] == "the quick brown fox jumps"


def test_a_stopped_answer() -> None:
    events = translate(recorded("30_run_stream"))
    assert events[-1].data["finishReason"] == "aborted"
    assert "error" not in events[-1].data
    assert events[-1].data["text"].startswith("the quick brown fox")
    assert events[-1].data["usage"]["estimated"] is True


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("43_fail_429_stream", "", "429 mock failure 429"),
        ("45_fail_500_stream", "", "500 mock failure 500"),
        ("44_die_stream", "the quick brown fox jumps ", "terminated"),
    ],
)
def test_a_provider_that_fails(name: str, text: str, reason: str) -> None:
    last = translate(recorded(name))[-1]
    assert (last.name, last.data["finishReason"], last.data["text"]) == ("final", "error", text)
    assert reason in last.data["error"]["message"]
    assert last.data["error"]["requestId"] == "r1"


def test_an_answer_that_never_began() -> None:
    (only,) = translate(recorded("92_bad_model_stream"))
    assert (only.name, only.data["code"]) == ("error", "model_not_available")
    assert only.data["message"] == "The model Mock/no-such-model is not available."


def test_librechats_page_finds_the_text_of_a_cut_and_no_code_before_it() -> None:
    """Its Error.tsx takes `json.code || json.type`: with a code it would show the JSON."""
    part = msgspec.json.decode(error_part("used up", "quota_exceeded")["error"])
    assert (part.get("code"), part["type"], part["info"]) == (None, "google_error", "used up")


def test_an_answer_that_was_cut_for_the_quota() -> None:
    notice = "The monthly token quota of workspace W is used up."
    events = translate(
        [
            delta("Hal"),
            final({"type": "text", "text": "Hal"}, error_part(notice, "quota_exceeded"), aborted=True),
        ]
    )
    last = events[-1].data
    assert (last["text"], last["finishReason"]) == ("Hal", "quota_exceeded")
    assert last["error"] == {"code": "quota_exceeded", "message": notice, "requestId": "r1"}


def test_after_a_lost_connection_only_what_is_new_goes_on() -> None:
    state = {"aggregatedContent": [{"type": "text", "text": "one two three "}]}
    sync = message(sync=True, resumeState=state, pendingEvents=[])
    events = translate([delta("one "), sync, sync, delta("four"), final()])
    assert [event.data["text"] for event in events if event.name == "token"] == ["one ", "two three ", "four"]
    assert events[-1].data["text"] == "one two three four"  # the final brought no content


def test_reports_add_up_and_count_once() -> None:
    call = {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12, "model": "m", "provider": "openAI"}
    reports = [message(event="on_token_usage", data={**call, "runId": "r", "seq": seq}) for seq in (1, 1, 2)]
    events = translate([*reports, final({"type": "text", "text": "x"})])
    assert [event.data["totalTokens"] for event in events if event.name == "usage"] == [12, 24]
    assert events[-1].data["usage"]["totalTokens"] == 24


def test_an_early_abort_has_no_message() -> None:
    last = translate([message(final=True, aborted=True, earlyAbort=True, responseMessage=None)])[-1].data
    assert (last["messageId"], last["text"], last["finishReason"]) == (None, "", "aborted")
    assert last["model"] == "Mock/asked"


def test_the_end_is_the_end() -> None:
    answer = new_answer()
    answer.read(final({"type": "text", "text": "x"}))
    assert answer.read(delta("late")) == []


def test_on_the_wire() -> None:
    assert ClientEvent("token", {"text": "a\nb"}).raw == b'event: token\ndata: {"text":"a\\nb"}\n\n'


@pytest.mark.parametrize(
    ("reason", "code", "text"),
    [
        ('{"type":"google_error","info":"free text"}', "answer_failed", "free text"),
        ('{ "type": "missing_model", "info": "x" }', "missing_model", "x"),
        ('{"type":"ban"}', "ban", "ban"),
        ('{"type":{"a":1}}', "answer_failed", '{"type":{"a":1}}'),
        ("{broken", "answer_failed", "{broken"),
        ("plain", "answer_failed", "plain"),
        (None, "answer_failed", "The answer broke off."),
        ({"message": "x"}, "answer_failed", "The answer broke off."),
    ],
)
def test_reasons(reason: Any, code: str, text: str) -> None:
    assert explain(reason) == (code, text)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from(["text", "think", "on_message_delta", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "event data delta content type text think final sync resumeState aggregatedContent responseMessage "
                "error aborted model endpoint".split()
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.lists(anything, max_size=4))
def test_nothing_that_librechat_sends_breaks_it(values: list[Any]) -> None:
    answer = new_answer()
    for value in values:
        for event in answer.read(SseEvent.message(value)):
            assert event.raw.endswith(b"\n\n")
