"""LibreChat's payloads, as recorded and as broken as they can be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.metering.usage_events import MAX_TOKENS, charge_of, content_text, prompt_of, text_of

KEYS = (
    "event data delta content type text think args phase tool_calls input_tokens output_tokens total_tokens "
    "input_token_details cache_read seq breakdown messageTokens stepDetails summary function arguments provider"
).split()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=20,
)


def usage(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "provider": "openAI", "runId": "r", "seq": 1, **fields}


@pytest.mark.parametrize(
    ("data", "input_tokens", "output_tokens", "cached", "reasoning"),
    [
        # recordings 40 and 88
        (
            usage(input_tokens=40, output_tokens=5, total_tokens=45, input_token_details={"cache_read": 3}),
            40,
            5,
            3,
            0,
        ),
        (
            usage(input_tokens=24, output_tokens=4, total_tokens=28, input_token_details={"cache_read": 0}),
            24,
            4,
            0,
            0,
        ),
        # Vertex leaves hidden reasoning out of output_tokens
        (usage(provider="vertexai", input_tokens=10, output_tokens=5, total_tokens=40), 10, 5, 0, 25),
        # Anthropic's input holds the cache, Bedrock's does not, and its total holds all three
        (
            usage(
                provider="anthropic",
                input_tokens=100,
                output_tokens=5,
                total_tokens=105,
                input_token_details={"cache_read": 80, "cache_creation": 10},
            ),
            *(100, 5, 80, 0),
        ),
        (
            usage(
                provider="bedrock",
                input_tokens=10,
                output_tokens=5,
                total_tokens=105,
                input_token_details={"cache_read": 80, "cache_creation": 10},
            ),
            *(100, 5, 80, 0),
        ),
        # no provider: as the sizes say
        (
            usage(provider=None, input_tokens=10, output_tokens=5, input_token_details={"cache_read": 80}),
            90,
            5,
            80,
            0,
        ),
        (
            usage(provider=None, input_tokens=90, output_tokens=5, input_token_details={"cache_read": 80}),
            90,
            5,
            80,
            0,
        ),
        # nothing but a total
        (usage(total_tokens=7), 0, 0, 0, 7),
    ],
)
def test_the_charge_of_a_call(
    data: dict[str, Any], input_tokens: int, output_tokens: int, cached: int, reasoning: int
) -> None:
    charge = charge_of(data)
    assert (charge.input_tokens, charge.output_tokens) == (input_tokens, output_tokens)
    assert (charge.cached_tokens, charge.reasoning_tokens) == (cached, reasoning)
    assert charge.tokens == input_tokens + output_tokens + reasoning
    assert (charge.run_id, charge.seq, charge.estimated) == ("r", 1, False)


@pytest.mark.parametrize(
    ("kind", "expected"), [(None, "chat"), ("subagent", "subagent"), ("summarization", "summarization")]
)
def test_the_kind_of_a_call(kind: str | None, expected: str) -> None:
    assert charge_of(usage(usage_type=kind)).kind == expected


def test_names_are_fit_for_the_database() -> None:
    charge = charge_of(usage(model="a\x00b" * 500, runId=7, seq=10**12))
    assert "\x00" not in charge.model
    assert len(charge.model) == 200
    assert charge.run_id == ""
    assert charge.seq == 2**31 - 1


@pytest.mark.parametrize("value", [None, "12", True, -5, float("nan"), [], {}])
def test_what_is_no_number_of_tokens_counts_nothing(value: Any) -> None:
    assert charge_of(usage(input_tokens=value, output_tokens=value, total_tokens=value)).tokens == 0


@pytest.mark.parametrize("value", [10**400, float("inf"), 1e300])
def test_numbers_beyond_reason_are_capped(value: Any) -> None:
    assert charge_of(usage(input_tokens=value)).input_tokens == MAX_TOKENS


@pytest.mark.parametrize(
    ("data", "tokens"),
    [
        # recordings 21 and 88
        (
            {
                "breakdown": {"instructionTokens": 0, "messageTokens": 14, "summaryTokens": 0},
                "contextBudget": 115069,
                "remainingContextTokens": 115055,
            },
            14,
        ),
        (
            {
                "breakdown": {"instructionTokens": 7, "systemMessageTokens": 7, "messageTokens": 15},
                "contextBudget": 115069,
                "remainingContextTokens": 115047,
            },
            22,
        ),
        ({"contextBudget": 100, "remainingContextTokens": 60}, 40),
        ({"contextBudget": 100, "remainingContextTokens": 160}, 0),
        ({}, 0),
    ],
)
def test_the_prompt_before_a_call(data: dict[str, Any], tokens: int) -> None:
    assert prompt_of(data) == tokens


def delta(event: str, part: Any) -> dict[str, Any]:
    return {"event": event, "data": {"id": "s", "delta": {"content": part}}}


TOOL_DELTA = {
    "id": "s",
    "delta": {"type": "tool_calls", "tool_calls": [{"index": 0, "args": '{"q":'}, {"args": "1}"}]},
}


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (delta("on_message_delta", [{"type": "text", "text": "Hel"}]), "Hel"),
        (delta("on_message_delta", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), "ab"),
        (delta("on_message_delta", {"type": "text", "text": "one part alone"}), "one part alone"),
        (delta("on_message_delta", [{"type": "text", "text": {"value": "old style"}}]), "old style"),
        (delta("on_message_delta", [{"type": "image_url", "image_url": "…"}]), ""),
        (delta("on_reasoning_delta", [{"type": "think", "think": "hmm"}]), "hmm"),
        ({"event": "on_run_step_delta", "data": TOOL_DELTA}, '{"q":1}'),
        (
            {
                "event": "on_run_step",
                "data": {"stepDetails": {"tool_calls": [{"name": "f", "args": {"q": 1}}]}},
            },
            '{"q":1}',
        ),
        ({"event": "on_run_step", "data": {"stepDetails": {"tool_calls": [{"name": "f", "args": {}}]}}}, ""),
        (
            {
                "event": "on_run_step",
                "data": {"stepDetails": {"tool_calls": [{"function": {"arguments": "{}"}}]}},
            },
            "{}",
        ),
        (
            {
                "event": "on_run_step_completed",
                "data": {"result": {"tool_call": {"args": "{}", "output": "long"}}},
            },
            "",
        ),
        (
            {
                "event": "on_subagent_update",
                "data": {
                    "phase": "message_delta",
                    "data": {"delta": {"content": [{"type": "text", "text": "sub"}]}},
                },
            },
            "sub",
        ),
        ({"event": "on_subagent_update", "data": {"phase": "run_step_delta", "data": TOOL_DELTA}}, '{"q":1}'),
        ({"event": "on_subagent_update", "data": {"phase": "stop", "data": {}}}, ""),
        (
            {
                "event": "on_summarize_delta",
                "data": {
                    "delta": {
                        "summary": {"type": "summary", "content": [{"type": "text", "text": "in short"}]}
                    }
                },
            },
            "in short",
        ),
        ({"event": "title", "data": {"title": "Greeting"}}, ""),
        ({"final": True}, ""),
    ],
)
def test_the_text_a_model_made(event: dict[str, Any], text: str) -> None:
    assert text_of(event) == text


def test_the_text_of_a_finished_answer_leaves_errors_and_tool_outputs_out() -> None:
    content = [
        {"type": "think", "think": "hmm "},
        {"type": "tool_call", "tool_call": {"args": '{"q":1}', "output": "much"}},
        {"type": "text", "text": "yes"},
        {"type": "error", "error": "An error occurred"},
    ]
    assert content_text(content) == 'hmm {"q":1}yes'


@given(st.dictionaries(st.text(max_size=5), JSON) | JSON.filter(lambda value: isinstance(value, dict)))
def test_no_payload_is_too_broken(data: Any) -> None:
    assert charge_of(data).tokens >= 0
    assert prompt_of(data) >= 0
    assert isinstance(text_of(data), str)
    for name in (
        "on_message_delta",
        "on_run_step",
        "on_run_step_delta",
        "on_subagent_update",
        "on_summarize_delta",
    ):
        assert isinstance(text_of({"event": name, "data": data}), str)
