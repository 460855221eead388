"""What a month will come to."""

from __future__ import annotations

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.metering.projection import Method, Projection, project
from geko_proxy.metering.usage_days import DayUse

TODAY, LAST = date(2026, 11, 20), date(2026, 11, 30)  # a Friday


def days(first: date, *tokens: int) -> list[DayUse]:
    return [DayUse(first + timedelta(days=n), each, each * 3) for n, each in enumerate(tokens) if each]


def test_too_young_to_say() -> None:
    assert project([], TODAY, LAST) is None
    assert project(days(TODAY, 50), TODAY, LAST) is None
    assert project(days(TODAY - timedelta(days=2), 9, 9), TODAY, LAST) is None


def test_a_straight_line_with_few_days() -> None:
    # 4 complete days of 10 on average, 3 today: 40 + 10 for today + 10 days of 10
    history = days(TODAY - timedelta(days=4), 20, 0, 15, 5, 3)
    assert project(history, TODAY, LAST) == Projection(Method.LINEAR, 4, 150, 450)


def test_weekends_count_as_weekends() -> None:
    start = TODAY - timedelta(days=28)
    week = [70 if (start + timedelta(days=n)).weekday() < 5 else 0 for n in range(28)]
    found = project(days(start, *week), TODAY, LAST)
    assert found is not None
    worked = sum(1 for n in range(30) if date(2026, 11, 1 + n).weekday() < 5)
    assert (found.method, found.history_days, found.tokens) == (Method.WEEKDAY, 28, 70 * worked)


def test_what_is_used_today_already_counts_if_it_is_more() -> None:
    history = days(TODAY - timedelta(days=4), 10, 10, 10, 10, 500)
    assert project(history, TODAY, LAST) == Projection(Method.LINEAR, 4, 640, 1920)


@given(st.lists(st.integers(0, 10**9), min_size=5, max_size=29), st.integers(1, 28))
def test_never_less_than_what_is_used_and_exact_on_the_last_evening(tokens: list[int], day: int) -> None:
    today = date(2026, 2, day)
    history = days(today - timedelta(days=len(tokens) - 1), *tokens)
    used = sum(each.tokens for each in history if each.day >= date(2026, 2, 1))
    found = project(history, today, date(2026, 2, 28))
    assert found is None or found.tokens >= used
    if len(set(tokens)) == 1 and tokens[0] and found is not None and day > len(tokens):
        assert found.tokens == used + tokens[0] * (28 - day)
