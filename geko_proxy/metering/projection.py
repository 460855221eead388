"""What a month will come to, if it goes on as before. Pure; the method is told with the number.

With 14 days of history or more each day to come counts as the mean of its weekday in the last 28 days, because weekends
differ; with 3 to 13 days as the mean of all of them; with less nothing can be said. What is used counts as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from typing import Final

from geko_proxy.metering.usage_days import DayUse

WEEKDAY_DAYS: Final = 14
LINEAR_DAYS: Final = 3
HISTORY_DAYS: Final = 28


class Method(StrEnum):
    """How days to come are guessed."""

    WEEKDAY = "weekday"
    LINEAR = "linear"


@dataclass(frozen=True, slots=True)
class Projection:
    """The end of a month. history_days: complete days it is drawn from. cost: billionths of the currency."""

    method: Method
    history_days: int
    tokens: int
    cost: int


def project(history: Sequence[DayUse], today: date, last: date) -> Projection | None:
    """What the month that ends with the day `last` comes to; None when there are too few days to say.

    history: days with use, of this month and the 28 days before today; the first one is when counting began.
    Days without use in between count as 0, so does what is missing of today.
    """
    start = max(min((each.day for each in history), default=today), today - timedelta(days=HISTORY_DAYS))
    days = (today - start).days
    if days < LINEAR_DAYS:
        return None
    method = Method.WEEKDAY if days >= WEEKDAY_DAYS else Method.LINEAR
    past = [start + timedelta(days=number) for number in range(days)]
    coming = [today + timedelta(days=number) for number in range((last - today).days + 1)]

    def total(used: dict[date, int]) -> int:
        so_far = sum(amount for day, amount in used.items() if today.replace(day=1) <= day <= today)
        guess = _mean_of_weekday(used, past) if method is Method.WEEKDAY else _mean(used, past)
        ahead = sum(guess(day) for day in coming[1:])
        return round(so_far + max(0.0, guess(today) - used.get(today, 0)) + ahead)

    tokens = total({each.day: each.tokens for each in history})
    return Projection(method, days, tokens, total({each.day: each.cost for each in history}))


def _mean(used: dict[date, int], past: Sequence[date]) -> Callable[[date], float]:
    mean = sum(used.get(day, 0) for day in past) / len(past)
    return lambda _: mean


def _mean_of_weekday(used: dict[date, int], past: Sequence[date]) -> Callable[[date], float]:
    def amounts(weekday: int) -> Iterator[int]:
        return (used.get(day, 0) for day in past if day.weekday() == weekday)

    means = [sum(amounts(weekday)) / max(1, sum(1 for _ in amounts(weekday))) for weekday in range(7)]
    return lambda day: means[day.weekday()]
