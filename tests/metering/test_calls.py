"""Which text belongs to which call, and which call a report closes."""

from __future__ import annotations

import pytest

from geko_proxy.metering.calls import MAX_UNSURE, Calls, model_of_agent
from geko_proxy.metering.ledger import Charge
from geko_proxy.metering.tokens import TokenCounter


def report(input_tokens: int, output_tokens: int, model: str = "", kind: str = "chat") -> Charge:
    return Charge("r", 1, kind, model, "openAI", input_tokens, output_tokens)


@pytest.mark.parametrize(
    ("agent", "model"),
    [
        ("Mock__gpt-4o___Mock", "gpt-4o"),
        ("Mock__gpt-4o___Mock____1", "gpt-4o"),
        ("Mock__llama3__8b___GPT", "llama3:8b"),
        ("Mock__gpt_4", "gpt_4"),
        ("agent_8RCJRqPdM3Y2F3Dqcl6il", ""),
        ("", ""),
    ],
)
def test_the_model_of_an_agent(agent: str, model: str) -> None:
    assert model_of_agent(agent) == model


def test_a_report_closes_the_call_of_its_model(counter: TokenCounter) -> None:
    calls = Calls(counter)
    calls.open("E__a___S", 10)
    calls.open("E__b___S", 10)
    calls.report(report(10, 0, "b"))
    assert [call.agent for call in calls.pending] == ["E__a___S"]


def test_of_two_calls_of_one_model_the_one_that_fits_is_closed(counter: TokenCounter) -> None:
    calls = Calls(counter)
    for agent, text in (("agent_a", "one two three four five"), ("agent_b", "one")):
        calls.open(agent, 10)
        calls.name_step(agent, agent)
        calls.add_text(agent, text)
    calls.report(report(10, 1))
    assert [call.agent for call in calls.pending] == ["agent_a"]
    assert calls.estimate == 10 + 5


def test_a_wrong_match_heals_when_the_call_goes_on(counter: TokenCounter) -> None:
    calls = Calls(counter)
    for agent in ("agent_a", "agent_b"):
        calls.open(agent, 10)
        calls.name_step(agent, agent)
        calls.add_text(agent, "one two")
    calls.report(report(10, 2))  # of b, but nothing tells them apart: a is closed
    calls.add_text("agent_a", " three four")
    assert [call.agent for call in calls.pending] == ["agent_a"]
    assert calls.estimate == 10 + 4
    calls.report(report(10, 4))
    assert calls.estimate == 0


def test_a_wrong_match_heals_before_the_first_word_too(counter: TokenCounter) -> None:
    calls = Calls(counter)
    calls.open("agent_a", 10)
    calls.open("agent_b", 10)
    calls.report(report(10, 0))  # of b
    calls.name_step("s", "agent_a")
    calls.add_text("s", "one two")
    assert [(call.agent, call.tokens) for call in calls.pending] == [("agent_a", 0)]
    assert calls.estimate == 10 + 2


def test_text_after_its_calls_report_is_covered(counter: TokenCounter) -> None:
    calls = Calls(counter)
    calls.open("agent_a", 10)
    calls.name_step("s", "")
    calls.add_text("s", "one two")
    calls.report(report(10, 4))
    calls.add_text("s", " three four")
    calls.add_late_text("s", '{"q": 1}')
    assert calls.pending == []
    assert calls.estimate == 0


def test_a_call_that_announced_no_prompt_is_not_lost(counter: TokenCounter) -> None:
    calls = Calls(counter)
    calls.open("agent_a", 10)
    calls.name_step("s1", "")
    calls.add_text("s1", "one")
    calls.report(report(10, 1))
    calls.name_step("s2", "")
    calls.add_text("s2", "two three")
    assert calls.estimate == 2


def test_a_call_announced_twice_is_one_call(counter: TokenCounter) -> None:
    calls = Calls(counter)
    calls.open("agent_a", 100)
    calls.open("agent_a", 30)  # after a summary the prompt is shorter
    assert calls.estimate == 30


def test_a_call_of_a_loop_that_nobody_reported_stays(counter: TokenCounter) -> None:
    calls = Calls(counter)
    calls.open("agent_a", 10)
    calls.add_text("s", "one")
    calls.open("agent_a", 12)
    assert calls.estimate == 10 + 1 + 12


def test_sub_agents_and_summaries_are_closed_by_their_own_reports(counter: TokenCounter) -> None:
    calls = Calls(counter)
    calls.open("agent_a", 10)
    calls.add_side_text("subagent", "run1", "one two")
    calls.add_side_text("subagent", "run1", " three")
    calls.add_side_text("summarization", "s", "in short")
    calls.report(report(50, 3, kind="subagent"))
    assert sorted(call.kind for call in calls.pending) == ["chat", "summarization"]
    calls.report(report(50, 3, kind="summarization"))
    calls.report(report(50, 3, kind="subagent"))  # one that showed no text
    assert [call.kind for call in calls.pending] == ["chat"]


def test_a_hidden_agents_report_does_not_close_a_visible_call(counter: TokenCounter) -> None:
    calls = Calls(counter)
    calls.name_step("s", "agent_hidden")
    calls.add_text("s", '{"q": 1}')
    calls.open("agent_seen", 10)
    calls.report(report(10, 5, kind="sequential"))
    assert [call.agent for call in calls.pending] == ["agent_seen"]


def test_uncounted_text_is_bounded(counter: TokenCounter) -> None:
    calls = Calls(counter)
    for _ in range(3 * MAX_UNSURE):
        calls.add_text("s", " word")
        assert calls.at_most <= 3 * MAX_UNSURE + MAX_UNSURE
    assert calls.estimate == 3 * MAX_UNSURE
    assert calls.at_most == calls.estimate
