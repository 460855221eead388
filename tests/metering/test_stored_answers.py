"""What LibreChat's stored messages say of a turn: recordings of the real one, and messages that lie or are missing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.metering.ledger import RECOVERY, Charge, Source
from geko_proxy.metering.stored_answers import (
    as_recovered,
    estimate,
    find_answer,
    last_heartbeat,
    rollup_charge,
    saved_at,
)
from geko_proxy.metering.tokens import TokenCounter
from tests.demo.recordings import recordings

BEGAN = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)


def message(number: int, *, minutes: float = 1, user: bool = False, **fields: Any) -> dict[str, Any]:
    at = (BEGAN + timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")
    return {"messageId": f"m{number}", "isCreatedByUser": user, "createdAt": at, "updatedAt": at, **fields}


def usage(prompt: int, output: int, *, written: int = 0, read: int = 0) -> dict[str, Any]:
    return {"usage": {"input": prompt, "output": output, "cacheWrite": written, "cacheRead": read}}


def test_the_sum_of_all_calls_with_the_cache_is_the_whole_prompt() -> None:
    # as the real LibreChat stored it for a prompt of 40 tokens with 3 from the cache (recording 40)
    charge = rollup_charge(message(1, metadata=usage(37, 5, read=3), model="gpt-4o"))
    assert charge == Charge(RECOVERY, -10, "chat", "gpt-4o", "", 40, 5, cached_tokens=3)
    assert rollup_charge(message(1, metadata=usage(1, 1, written=5, read=7))).input_tokens == 13  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "metadata",
    [None, [], {}, {"usage": None}, {"usage": 3}, usage(0, 0), {"usage": {"input": "9"}}, usage(-4, -5)],
)
def test_no_reports_are_no_charge(metadata: Any) -> None:
    assert rollup_charge(message(1, metadata=metadata)) is None


def test_the_answer_is_the_newest_since_the_turn_began_that_nobody_has_paid() -> None:
    before = message(1, minutes=-1, metadata=usage(5, 5))
    question = message(2, user=True)
    answer = message(3, minutes=2, metadata=usage(6, 6))
    assert find_answer([before, question, answer], BEGAN, {}) is answer
    assert find_answer([before, question], BEGAN, {}) is None
    # LibreChat's clock is two seconds behind, and the answer before this turn's ended just now
    just_before = message(4, minutes=-2 / 60, metadata=usage(5, 5))
    assert find_answer([just_before], BEGAN, {}) is just_before
    assert find_answer([just_before], BEGAN, {"m4": 10}) is None
    # continued: the same message, with the usage of the new turn
    assert find_answer([just_before], BEGAN, {"m4": 9}) is just_before


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda v: st.lists(v) | st.dictionaries(st.text(), v),
    )
)
def test_a_time_that_is_none_is_long_ago(value: Any) -> None:
    at = saved_at({"updatedAt": value})
    assert at.tzinfo is not None


def test_without_reports_the_thread_and_the_text_are_counted() -> None:
    counter = TokenCounter()
    thread = [
        message(1, user=True, tokenCount=10, parentMessageId="0"),
        message(2, tokenCount=20, parentMessageId="m1"),
        message(3, user=True, tokenCount=30, parentMessageId="m2"),
        message(9, user=True, tokenCount=1000, parentMessageId="m1"),  # of another branch
    ]
    answer = message(4, parentMessageId="m3", content=[{"type": "text", "text": "the quick brown fox"}])
    charge = estimate([*thread, answer], answer, counter, "gpt-4o")
    assert (charge.input_tokens, charge.output_tokens) == (60, counter.count("the quick brown fox"))
    assert (charge.estimated, charge.source, charge.run_id) == (True, Source.RECOVERED, RECOVERY)
    circle = message(5, parentMessageId="m5", tokenCount=1)
    assert estimate([circle], circle, counter, "m").input_tokens == 1


def test_estimates_go_by_the_recoverys_name_and_reports_by_their_own() -> None:
    report = Charge("run", 1, "chat", "m", "openAI", 5, 5)
    guess = Charge("run", -1, "chat", "m", "", 5, 5, estimated=True, source=Source.ESTIMATE)
    kept, renamed = as_recovered([report, guess])
    assert kept is report
    assert (renamed.run_id, renamed.source) == (RECOVERY, Source.RECOVERED)


def test_the_last_heartbeat_is_an_estimate_and_nothing_is_no_charge() -> None:
    assert last_heartbeat(0, 0, "m") == []
    (charge,) = last_heartbeat(12, 30, "m")
    assert (charge.tokens, charge.cost, charge.estimated) == (12, 30, True)


def test_the_recorded_messages_of_a_real_librechat() -> None:
    found = []
    for recording in recordings():
        if not recording.name.endswith("_messages") or recording.status != 200:
            continue
        for each in json.loads(recording.reply_body):
            charge = rollup_charge(each)
            assert (charge is not None) == bool((each.get("metadata") or {}).get("usage"))
            found += [charge.tokens] if charge is not None else []
            assert saved_at(each) > BEGAN - timedelta(days=1)
    assert len(found) >= 3
