"""What a turn costs, from the events that LibreChat sends, cut off anywhere and interleaved as they may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.metering.ledger import Charge, Source
from geko_proxy.metering.meter import TurnMeter
from geko_proxy.metering.tokens import TokenCounter

COUNTER = TokenCounter()
WORDS = "the quick brown fox jumps over the lazy dog while seven wise ".split()

Event = dict[str, Any]


def context(prompt: int, agent: str = "Mock__gpt-4o___Mock") -> Event:
    breakdown = {"messageTokens": prompt, "instructionTokens": 0}
    return {"event": "on_context_usage", "data": {"runId": "r", "agentId": agent, "breakdown": breakdown}}


def step(name: str, agent: str | None = None) -> Event:
    data = {"id": name, "runId": "r", "stepDetails": {"type": "message_creation"}}
    return {"event": "on_run_step", "data": data | ({"agentId": agent} if agent else {})}


def delta(name: str, text: str, kind: str = "text") -> Event:
    event = "on_message_delta" if kind == "text" else "on_reasoning_delta"
    return {"event": event, "data": {"id": name, "delta": {"content": [{"type": kind, kind: text}]}}}


def usage(seq: int, input_tokens: int, output_tokens: int, model: str = "gpt-4o", **more: Any) -> Event:
    data = {
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "model": model,
        "provider": "openAI",
    }
    total = {"total_tokens": input_tokens + output_tokens}
    return {"event": "on_token_usage", "data": data | total | {"runId": "r", "seq": seq} | more}


def final(text: str = "", prompt: int = 0, *, error: str = "", **more: Any) -> Event:
    content = [{"type": "text", "text": text}] if text else []
    content += [{"type": "error", "error": error}] if error else []
    return {"final": True, "responseMessage": {"promptTokens": prompt, "content": content}, **more}


def answer(words: int = 12, prompt: int = 14) -> list[Event]:
    return [context(prompt), step("s"), *(delta("s", word + " ") for word in WORDS[:words])]


def meter(events: list[Event]) -> TurnMeter:
    made = TurnMeter(COUNTER, "gpt-4o")
    for event in events:
        made.on_event(event)
    return made


def estimate(seq: int, prompt: int, tokens: int, kind: str = "chat", run_id: str = "r") -> Charge:
    return Charge(
        run_id, seq, kind, "gpt-4o", "", prompt, tokens, 0, 0, estimated=True, source=Source.ESTIMATE
    )


def test_a_reported_call_costs_what_the_provider_says() -> None:
    made = meter([*answer(5, 18), usage(1, 40, 5)])
    charges = made.finish(final("the quick brown fox jumps", 18))
    assert [(charge.tokens, charge.estimated, charge.seq) for charge in charges] == [(45, False, 1)]
    assert made.consumed == 45


def test_without_any_report_the_text_and_the_prompt_are_estimated() -> None:
    text = " ".join(WORDS[:12])
    made = meter(answer(12, 14))
    assert made.finish(final(text, 14)) == [estimate(-1, 14, COUNTER.count(text + " "))]


def test_reasoning_counts_as_text() -> None:
    made = meter([context(17), step("a"), delta("a", "hmm ", "think"), step("b"), delta("b", "the fox")])
    assert made.finish(final("the fox", 17)) == [estimate(-1, 17, COUNTER.count("hmm the fox"))]


@pytest.mark.parametrize("last", [None, final("the quick", 14, aborted=True)])
def test_an_aborted_call_costs_its_prompt_and_what_was_streamed(last: Event | None) -> None:
    made = meter([*answer(2, 14)])
    assert made.finish(last) == [estimate(-1, 14, COUNTER.count("the quick "))]
    assert made.consumed == 14 + COUNTER.count("the quick ")


def test_a_turn_cut_before_the_first_word_costs_its_prompt() -> None:
    assert meter([context(21)]).finish(None) == [estimate(-1, 21, 0)]


def test_in_a_tool_loop_the_open_call_alone_is_estimated() -> None:
    tool = {"id": "t", "delta": {"type": "tool_calls", "tool_calls": [{"index": 0, "args": '{"q": 1}'}]}}
    events = [context(10), step("t"), {"event": "on_run_step_delta", "data": tool}]
    made = meter([*events, usage(1, 11, 9), context(60), step("u"), delta("u", "so it is")])
    assert made.finish(None)[1:] == [estimate(-1, 60, COUNTER.count("so it is"))]
    assert made.consumed == 20 + 60 + COUNTER.count("so it is")


def test_the_finals_prompt_counts_if_it_is_the_larger_one() -> None:
    assert meter(answer(1, 14)).finish(final("the ", 99))[0].input_tokens == 99
    assert meter(answer(1, 14)).finish(final("the ", 9))[0].input_tokens == 14


def test_a_call_that_failed_before_its_first_word_costs_nothing() -> None:
    failure = "An error occurred while processing the request: 400 mock failure 400"
    assert meter([context(21)]).finish(final(prompt=21, error=failure)) == []


def test_a_call_that_died_mid_answer_costs_what_was_streamed() -> None:
    made = meter(answer(5, 28))
    charges = made.finish(final("the quick brown fox jumps ", 28, error="terminated"))
    assert charges == [estimate(-1, 28, COUNTER.count("the quick brown fox jumps "))]


def test_an_empty_answer_without_error_costs_its_prompt() -> None:
    assert meter([context(21)]).finish(final(prompt=21)) == [estimate(-1, 21, 0)]


def test_an_answer_of_which_no_event_was_seen_is_estimated_from_the_final() -> None:
    assert meter([]).finish(final("the quick fox", 14)) == [estimate(-1, 14, 3, run_id="")]
    assert meter([]).finish(None) == []


@pytest.mark.parametrize(
    "broken", [{"responseMessage": None, "earlyAbort": True, "aborted": True}, {"final": True}]
)
def test_a_final_without_a_message_is_no_problem(broken: Event) -> None:
    assert meter([context(5)]).finish(broken) == [estimate(-1, 5, 0)]
    assert meter([]).finish(broken) == []


def test_the_titles_token_count_is_never_used() -> None:
    last = final("the quick", 14)
    last["responseMessage"]["tokenCount"] = 9999
    assert meter(answer(2, 14)).finish(last)[0].output_tokens == COUNTER.count("the quick ")


def test_a_sub_agents_unreported_text_is_estimated() -> None:
    inner = {"delta": {"content": [{"type": "text", "text": "sub agent text"}]}}
    update = {"subagentRunId": "x", "phase": "message_delta", "data": inner}
    events = [*answer(2), usage(1, 14, 2), {"event": "on_subagent_update", "data": update}]
    assert meter(events).finish(None)[1:] == [estimate(-1, 0, 3, kind="subagent")]
    reported = meter([*events, usage(2, 30, 3, usage_type="subagent")])
    assert [charge.tokens for charge in reported.finish(None)] == [16, 33]


def test_a_resume_brings_what_was_missed() -> None:
    state = {
        "collectedUsage": [usage(1, 40, 5)["data"]],
        "contextUsage": context(60)["data"],
        "aggregatedContent": [{"type": "text", "text": "the quick brown fox jumps over the lazy"}],
    }
    sync = {"sync": True, "resumeState": state, "pendingEvents": [delta("u", " dog")]}
    for made in (meter([*answer(5, 18), sync, sync | {"pendingEvents": []}]), meter([sync])):
        assert made.consumed == 45 + 60 + 3 + 1
        assert [charge.estimated for charge in made.finish(None)] == [False, True]


def test_reports_without_a_number_are_all_counted() -> None:
    made = meter([usage(0, 10, 1), usage(0, 10, 1)])
    assert made.consumed == 22
    assert len({charge.seq for charge in made.charges}) == 2


def test_an_answer_that_nobody_could_hear_is_charged_what_librechat_stored() -> None:
    last = final("the quick fox", 14)
    stored = {"input": 4, "output": 9, "cacheRead": 30, "cacheWrite": 6}
    last["responseMessage"] |= {"messageId": "m", "metadata": {"usage": stored}}
    (charge,) = meter([]).finish(last)
    assert (charge.input_tokens, charge.output_tokens, charge.cached_tokens) == (40, 9, 30)
    assert (charge.source, charge.estimated) == (Source.RECOVERED, False)
    (seen,) = meter(answer(3, 14)).finish(last)  # heard without a report: metadata is of other calls then
    assert seen.estimated


def test_an_unreported_summary_costs_the_prompt_that_turned_out_too_long() -> None:
    summary = {"content": [{"type": "text", "text": "in short"}]}
    event = {"event": "on_summarize_delta", "data": {"id": "s", "delta": {"summary": summary}}}
    made = meter([context(500), event, context(60), step("u"), delta("u", "so it is")])
    assert made.finish(None) == [
        estimate(-1, 500, 2, kind="summarization"),
        estimate(-2, 60, COUNTER.count("so it is")),
    ]


def test_one_report_may_be_about_all_calls_or_the_last() -> None:
    events = [context(10), step("a"), delta("a", "one"), context(20), step("b"), delta("b", "two")]
    made = meter(events)
    made.on_last(usage(1, 22, 4)["data"])
    assert made.finish(None)[1:] == [estimate(-1, 10, 1)]
    made = meter(events)
    made.on_sum(usage(1, 33, 4)["data"], least_prompt=40)
    made.on_sum(usage(1, 33, 4)["data"])
    assert [(charge.tokens, charge.estimated) for charge in made.finish(None)] == [(44, True)]
    assert made.consumed == 44


@pytest.mark.parametrize(
    "event", [{}, {"event": []}, {"event": "on_message_delta"}, {"sync": True}, {"created": True}]
)
def test_other_events_cost_nothing(event: Event) -> None:
    assert meter([event]).consumed == 0


@dataclass(frozen=True)
class Simulated:
    """One model call: what it announces, streams and reports."""

    agent: int
    number: int
    prompt: int
    texts: tuple[str, ...]
    output: int

    def name(self) -> str:
        return f"Mock__model{self.agent}___Mock"

    def events(self, *, reports: bool) -> list[Event]:
        step_id = f"{self.agent}.{self.number}"
        events = [context(self.prompt, self.name()), step(step_id, self.name())]
        events += [delta(step_id, text) for text in self.texts]
        return [*events, self.report()] if reports else events

    def report(self) -> Event:
        return usage(self.agent * 100 + self.number + 1, self.prompt + 1, self.output, f"model{self.agent}")


TEXTS = st.lists(
    st.sampled_from([" the", "quick", " brown fox", ".", "日本", "\n"]), min_size=1, max_size=4
).map(tuple)


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[list[Simulated]], list[int]]:
    """Agents that run at the same time, each with its calls, and an order of all their events."""
    agents = []
    for agent in range(draw(st.integers(1, 3))):
        count = draw(st.integers(1, 3))
        calls = [
            Simulated(agent, n, draw(st.integers(1, 50)), draw(TEXTS), draw(st.integers(0, 30)))
            for n in range(count)
        ]
        agents.append(calls)
    slots = [agent for agent, calls in enumerate(agents) for call in calls for _ in call.events(reports=True)]
    return agents, draw(st.permutations(slots))


def interleave(agents: list[list[Simulated]], order: list[int], *, reports: bool) -> list[Event]:
    streams = [iter([event for call in calls for event in call.events(reports=reports)]) for calls in agents]
    return [event for agent in order if (event := next(streams[agent], None)) is not None]


def provider_charges(events: list[Event]) -> dict[int, int]:
    reports = [event["data"] for event in events if event["event"] == "on_token_usage"]
    return {data["seq"]: data["total_tokens"] for data in reports}


@given(runs())
def test_reported_calls_are_charged_exactly_and_nothing_else(
    run: tuple[list[list[Simulated]], list[int]],
) -> None:
    events = interleave(*run, reports=True)
    made = meter(events)
    assert {charge.seq: charge.tokens for charge in made.finish(final("x", 1))} == provider_charges(events)
    assert made.consumed == sum(provider_charges(events).values())


@given(runs(), st.data())
def test_a_cut_anywhere_charges_reported_calls_and_estimates_each_open_one(
    run: tuple[list[list[Simulated]], list[int]], data: st.DataObject
) -> None:
    events = interleave(*run, reports=True)
    events = events[: data.draw(st.integers(0, len(events)))]
    made = meter(events)
    charges = made.finish(None)
    open_cost = 0
    for calls in run[0]:
        for call in calls:
            cost, begun = cost_of_open(call, events)
            open_cost += cost if begun else 0
    assert sum(charge.tokens for charge in charges if charge.estimated) == open_cost
    assert sum(charge.tokens for charge in charges) == made.consumed


def cost_of_open(call: Simulated, events: list[Event]) -> tuple[int, bool]:
    """What a call costs as long as it is open, and whether it is."""
    step_id = f"{call.agent}.{call.number}"
    if call.report() in events:
        return 0, False
    announced = [event for event in events if event == context(call.prompt, call.name())]
    steps = [event for event in events if event["data"].get("id") == step_id]
    text = "".join(
        e["data"]["delta"]["content"][0]["text"] for e in steps if e["event"] == "on_message_delta"
    )
    earlier = [e for e in events if e["data"].get("id", "").startswith(f"{call.agent}.")]
    alone = bool(announced) and (bool(steps) or is_last_announced(call, events, earlier))
    return call.prompt + COUNTER.count(text), alone


def is_last_announced(call: Simulated, events: list[Event], steps: list[Event]) -> bool:
    """Whether a call without any step has been announced: its agent's announcements outnumber its steps."""
    announced = [
        e for e in events if e["event"] == "on_context_usage" and e["data"]["agentId"] == call.name()
    ]
    return len(announced) == call.number + 1 and len({e["data"]["id"] for e in steps}) == call.number


@given(runs())
def test_without_reports_every_call_is_estimated_once(run: tuple[list[list[Simulated]], list[int]]) -> None:
    made = meter(interleave(*run, reports=False))
    calls = [call for agent in run[0] for call in agent]
    charges = made.finish(final("x", 1))
    assert len(charges) == len(calls)
    assert sum(charge.tokens for charge in charges) == sum(
        c.prompt + COUNTER.count("".join(c.texts)) for c in calls
    )


@given(runs(), st.data())
def test_agents_of_one_model_are_never_lost_or_counted_twice(
    run: tuple[list[list[Simulated]], list[int]], data: st.DataObject
) -> None:
    """Nothing tells whose report it is: the number of estimates is still that of the open calls."""
    events = interleave(*run, reports=True)
    for event in events:
        if event["event"] == "on_token_usage":
            event["data"]["model"] = ""
    assert not [charge for charge in meter(events).finish(final("x", 1)) if charge.estimated]
    cut = events[: data.draw(st.integers(0, len(events)))]
    begun = sum(event["event"] == "on_context_usage" for event in cut)
    estimates = [charge for charge in meter(cut).finish(None) if charge.estimated]
    assert len(estimates) == begun - len(provider_charges(cut))


@given(runs())
def test_replayed_reports_change_nothing(run: tuple[list[list[Simulated]], list[int]]) -> None:
    events = interleave(*run, reports=True)
    reports = [event for event in events if event["event"] == "on_token_usage"]
    twice = meter(
        [*events, *reports, {"sync": True, "resumeState": {"collectedUsage": [e["data"] for e in reports]}}]
    )
    assert twice.finish(None) == meter(events).finish(None)


@given(runs())
def test_the_cheap_bound_is_never_below_the_count(run: tuple[list[list[Simulated]], list[int]]) -> None:
    lazy, eager = TurnMeter(COUNTER), TurnMeter(COUNTER)
    for event in interleave(*run, reports=True):
        lazy.on_event(event)
        eager.on_event(event)
        assert lazy.at_most >= eager.consumed
    assert lazy.consumed == lazy.at_most == eager.consumed
