"""OpenAI's chat completions as providers send them, and as they should not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.errors import Refused
from geko_proxy.llm.wire import CALLS, model_call
from geko_proxy.llm.wire.base import ModelCall, Usage
from geko_proxy.sse import SseEvent, SseFormatError

BODY: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], "stream": True}
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)
NAMES = st.sampled_from(
    (
        "choices",
        "delta",
        "usage",
        "content",
        "tool_calls",
        "function",
        "index",
        "type",
        "response",
        "message",
        "output",
    )
)
HOSTILE = st.recursive(
    JSON, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=6), max_leaves=20
)


def chunk(delta: dict[str, Any] | None = None, **extra: Any) -> dict[str, Any]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": None}]
    return {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o-2024",
        "choices": choices,
        **extra,
    }


def event(value: Any) -> SseEvent:
    return SseEvent.message(value, None)


DONE = SseEvent.text(b"[DONE]")


def call(**body: Any) -> ModelCall:
    return model_call("chat_completions", {**BODY, **body})


def passed(shape: ModelCall, events: list[SseEvent]) -> tuple[str, list[bytes]]:
    """The text of a stream, and the events that the caller gets."""
    texts, out = [], []
    for each in events:
        read = shape.read(each)
        texts.append(read.text)
        out += [one.raw for one in ((each,) if read.passed is None else read.passed)]
    return "".join(texts), out


@given(st.lists(st.text(max_size=6), max_size=8), st.booleans())
def test_any_split_of_a_text_is_the_same_text_and_the_caller_gets_what_it_asked_for(
    parts: list[str], asked: bool
) -> None:
    plain = [chunk({"role": "assistant", "content": ""}), *(chunk({"content": part}) for part in parts)]
    shape = call(stream_options={"include_usage": True}) if asked else call()
    with_usage = [event({**each, "usage": None}) for each in plain] + [event(chunk(usage=USAGE)), DONE]
    text, out = passed(shape, with_usage)
    assert text == "".join(parts)
    assert shape.usage == Usage(9, 4)
    assert shape.over
    wanted = with_usage if asked else [*(event(each) for each in plain), DONE]
    assert [SseEvent(raw).data for raw in out] == [each.data for each in wanted]


@pytest.mark.parametrize(
    ("usage", "found"),
    [
        (USAGE | {"total_tokens": 20}, Usage(9, 4, 0, 7)),
        (USAGE | {"prompt_tokens_details": {"cached_tokens": 5}}, Usage(9, 4, 5)),
        (USAGE | {"completion_tokens_details": {"reasoning_tokens": 3}}, Usage(9, 4)),
        ({"prompt_tokens": -5, "completion_tokens": True, "total_tokens": "7"}, Usage(0, 0)),
        ({"prompt_tokens": 10**30, "completion_tokens": None}, Usage(10**12, 0)),
        ({}, Usage(0, 0)),
    ],
)
def test_usage_in_all_its_forms(usage: dict[str, Any], found: Usage) -> None:
    shape = call()
    shape.read(event(chunk(usage=usage)))
    assert shape.usage == found


def test_usage_on_the_last_words_is_taken_and_the_words_stay() -> None:
    shape = call()
    text, out = passed(
        shape, [event(chunk({"content": "a"}, usage=USAGE)), event(chunk({"content": "b"}, usage=USAGE))]
    )
    assert text == "ab"
    assert all(b"usage" not in raw for raw in out)
    assert len(out) == 2
    assert shape.usage == Usage(9, 4)


def test_groqs_usage_is_found_where_it_stands() -> None:
    shape = call()
    shape.read(event(chunk({}, x_groq={"id": "r", "usage": USAGE})))
    assert shape.usage == Usage(9, 4)


def test_tools_reasoning_and_refusals_are_text_to_a_tokenizer() -> None:
    tool = {"index": 0, "id": "t", "type": "function", "function": {"name": "look", "arguments": '{"q":'}}
    deltas: list[dict[str, Any]] = [{"tool_calls": [tool]}, {"reasoning_content": "hm"}, {"refusal": "no"}]
    deltas.append({"function_call": {"name": "f", "arguments": "{}"}})
    assert passed(call(), [event(chunk(each)) for each in deltas])[0] == 'look{"q":hmnof{}'


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=4))
def test_what_is_not_known_goes_on_as_it_came(unknown: dict[str, Any]) -> None:
    body = {**unknown, **BODY}
    sent = msgspec.json.decode(model_call("chat_completions", body).body_for("deployed"))
    expected = {
        **body,
        "model": "deployed",
        "stream_options": {**(body.get("stream_options") or {}), "include_usage": True},
    }
    assert sent == msgspec.json.decode(msgspec.json.encode(expected))


@given(st.sampled_from(sorted(CALLS)), HOSTILE, HOSTILE)
def test_no_reply_of_a_provider_breaks_the_meter(operation: str, first: Any, second: Any) -> None:
    shape = model_call(operation, {**BODY, "input": "x"})
    try:
        for value in (first, second):
            shape.read(event(value))
            shape.read(SseEvent.message(value, "x"))
        shape.read_reply(first)
        shape.read(DONE)
        assert all(each.raw for each in shape.closing("over", "quota_exceeded", Usage(5, 6)))
        if shape.is_collected:
            shape.collect(event(second))
            msgspec.json.encode(shape.collected())
    except SseFormatError:
        pass


@given(
    st.sampled_from(sorted(CALLS)),
    st.dictionaries(st.sampled_from(("model", "messages", "input", "stream")), JSON),
)
def test_a_bad_body_is_refused_and_says_which_field(operation: str, body: dict[str, Any]) -> None:
    problem: Refused | None = None
    try:
        shape = model_call(operation, body)
        assert shape.prompt_tokens(len) >= 0
        assert shape.body_for("x")
    except Refused as refused:
        problem = refused
    if problem is not None:
        assert problem.status == 400
        assert problem.message.split(":")[0] in ("model", "messages", "input", "stream", "background")


def test_a_stream_cut_before_its_first_word_ends_well_formed() -> None:
    shape = call()
    *chunks, last = shape.closing("over", "quota_exceeded", Usage(5, 0))
    assert last.data == b"[DONE]"
    assert [choice["finish_reason"] for each in chunks for choice in each.json["choices"]] == ["length"]


def test_a_reply_in_one_piece_is_made_of_its_stream() -> None:
    shape = call(stream=False)
    tool = {"index": 0, "id": "t", "type": "function", "function": {"name": "look", "arguments": ""}}
    parts = [{"index": 0, "function": {"arguments": text}} for text in ('{"q"', ': "x"}')]
    deltas: list[dict[str, Any]] = [{"content": "He"}, {"content": "llo"}, {"tool_calls": [tool]}]
    deltas += [{"tool_calls": [part]} for part in parts]
    end = chunk({})
    end["choices"][0]["finish_reason"] = "tool_calls"
    for value in [*(chunk(each) for each in deltas), end, chunk(usage=USAGE)]:
        shape.read(event(value))
        shape.collect(event(value))
    whole = shape.collected()
    message = whole["choices"][0]["message"]
    assert (message["content"], whole["usage"], whole["object"]) == ("Hello", USAGE, "chat.completion")
    assert message["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"q": "x"}'}
    assert whole["choices"][0]["finish_reason"] == "tool_calls"


def test_half_a_call_of_a_tool_is_not_passed_on() -> None:
    shape = call(stream=False)
    tool = {"index": 0, "id": "t", "type": "function", "function": {"name": "rm", "arguments": '{"path": "/'}}
    shape.collect(event(chunk({"tool_calls": [tool]})))
    for each in shape.closing("over", "quota_exceeded", Usage(5, 6)):
        shape.collect(each)
    (choice,) = shape.collected()["choices"]
    assert choice["finish_reason"] == "length"
    assert "tool_calls" not in choice["message"]
