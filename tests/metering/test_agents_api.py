"""The Agents API's answers, as the meter sees them; the whole way is tested end to end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.metering.agents_api import AgentsApiReader
from geko_proxy.metering.ledger import Charge
from geko_proxy.metering.meter import TurnMeter
from geko_proxy.metering.tokens import TokenCounter

COUNTER = TokenCounter()
PROMPT = 40


def reader(provider: str = "openAI") -> tuple[AgentsApiReader, TurnMeter]:
    meter = TurnMeter(COUNTER, "gpt-4o")
    return AgentsApiReader(meter, COUNTER, prompt=PROMPT, provider=provider, model="gpt-4o"), meter


def chunk(finish: str | None = None, usage: dict[str, Any] | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "chatcmpl-1", "choices": [choice]} | ({"usage": usage} if usage else {})


def tool(arguments: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]}


def usage_of(prompt: int, output: int, names: str = "prompt_tokens completion_tokens") -> dict[str, int]:
    return dict(zip(names.split(), (prompt, output), strict=True))


def tokens(charges: list[Charge]) -> list[tuple[int, int, bool]]:
    return [(charge.input_tokens, charge.output_tokens, charge.estimated) for charge in charges]


LOOP = [chunk(role="assistant"), chunk(**tool("one two")), chunk(reasoning="hm"), chunk(content="three four")]


def test_one_report_covers_all_calls_of_a_completion() -> None:
    read, meter = reader()
    for each in [*LOOP, chunk("stop", usage_of(90, 7))]:
        assert read.read_chunk(each) == ""
    assert read.over
    assert tokens(meter.finish(None)) == [(90, 7, False)]
    assert meter.consumed == 97


@pytest.mark.parametrize("usage", [None, usage_of(0, 0)])
def test_an_unreported_completion_pays_for_the_prompt_of_each_call(usage: dict[str, int] | None) -> None:
    read, meter = reader()
    for each in [*LOOP, chunk("stop", usage)]:
        read.read_chunk(each)
    first, second = tokens(meter.finish(None))
    assert first == (PROMPT, 2, True)
    assert second == (PROMPT + 2, COUNTER.count("hmthree four"), True)


def test_an_error_is_no_text() -> None:
    read, meter = reader()
    read.read_chunk(LOOP[0])
    assert read.read_chunk(chunk("stop", content="\n\nError: 429 slow down")) == "429 slow down"
    assert read.failed
    assert tokens(meter.finish(None)) == [(PROMPT, 0, True)]


def test_a_bedrock_completion_leaves_cached_tokens_out_so_the_estimate_stands_in() -> None:
    read, meter = reader("bedrock")
    read.read_chunk(chunk("stop", usage_of(3, 7)))
    assert tokens(meter.finish(None)) == [(PROMPT, 7, True)]
    assert meter.consumed == PROMPT + 7


def response(usage: dict[str, Any] | None, kind: str = "response.completed") -> dict[str, Any]:
    return {"type": kind, "response": {"id": "resp_1", "usage": usage}}


def test_responses_report_the_last_call_and_earlier_ones_are_estimated() -> None:
    read, meter = reader()
    call = {"type": "function_call_output", "output": "five six"}
    for event in (
        {"type": "response.function_call_arguments.delta", "delta": "one two"},
        {"type": "response.output_item.added", "item": call},
        {"type": "response.output_text.delta", "delta": "three"},
        response(usage_of(60, 1, "input_tokens output_tokens")),
    ):
        read.read_event(event)
    assert sorted(tokens(meter.finish(None))) == [(PROMPT, 2, True), (60, 1, False)]


def test_cached_tokens_of_responses() -> None:
    usage = usage_of(60, 1, "input_tokens output_tokens") | {"input_tokens_details": {"cached_tokens": 50}}
    for provider, prompt in (("openAI", 60), ("bedrock", 110)):
        read, meter = reader(provider)
        read.read_event(response(usage))
        (charge,) = meter.finish(None)
        assert (charge.input_tokens, charge.cached_tokens) == (prompt, 50)


def test_whole_replies_are_read_like_streams() -> None:
    read, meter = reader()
    message = {"content": "three", "reasoning": "hm", **tool("one two")}
    read.read_completion({"id": "c", "choices": [{"message": message}], "usage": usage_of(90, 7)})
    assert tokens(meter.finish(None)) == [(90, 7, False)]
    read, meter = reader()
    items = [
        {"type": "function_call", "arguments": "one two"},
        {"type": "function_call_output", "output": "five"},
        {"type": "message", "content": [{"type": "output_text", "text": "three"}]},
    ]
    read.read_response({"id": "r", "output": items, "usage": None})
    assert tokens(meter.finish(None)) == [(PROMPT, 2, True), (PROMPT + 3, 1, True)]


def test_a_summary_is_counted() -> None:
    read, meter = reader()
    summary = {"content": [{"type": "text", "text": "in short"}]}
    read.read_summary("on_summarize_delta", {"id": "s", "delta": {"summary": summary}})
    read.read_summary("on_summarize_start", {})
    assert ("summarization", 2) in [(charge.kind, charge.output_tokens) for charge in meter.finish(None)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from("choices delta content usage tool_calls function type item response output id".split()), inner
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["choices", "usage", "type", "response", "item", "delta"]), JSON))
def test_nonsense_never_raises(value: dict[str, Any]) -> None:
    read, meter = reader()
    read.read_chunk(value)
    read.read_event(value)
    read.read_completion(value)
    read.read_response(value)
    assert meter.consumed >= 0
