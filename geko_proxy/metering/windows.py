"""Quota periods: calendar days, weeks and months in the tenant's time zone, as two instants."""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Final
from zoneinfo import ZoneInfo

MAX_KNOWN: Final = 1000


class Period(StrEnum):
    """How long a limit counts before it begins anew."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open span of time, [start, end), both aware and in UTC; quotas reset at `end`."""

    start: datetime
    end: datetime


def month_window(now: datetime, time_zone: str) -> Window:
    """The calendar month that holds `now`; as `window_of`."""
    return window_of(Period.MONTH, 1, now, time_zone)


def window_of(period: Period, start_day: int, now: datetime, time_zone: str) -> Window:
    """The period that holds `now`.

    start_day: of a month, 1 to 28; of a week, 1 (Monday) to 7; without a meaning for days. now: an aware time.
    time_zone: an IANA name, for example "Europe/Berlin". A period begins at the first midnight of its first day; where
    clocks are set forward at that midnight, at the instant of the change. Raises ValueError for a naive time, an
    unknown zone or a start day that not every period has.
    """
    if now.tzinfo is None:
        raise ValueError("now must carry a time zone")
    check_start_day(period, start_day)
    zone = load_zone(time_zone)
    # Clocks set back over a midnight repeat an hour of the old day after the new one began: instants decide, so the
    # local date may be one too early.
    first = first_day(period, start_day, now.astimezone(zone).date() + timedelta(days=1))
    while now < midnight(first, zone):
        first = first_day(period, start_day, first - timedelta(days=1))
    return Window(midnight(first, zone), midnight(next_first(period, first), zone))


_last: dict[tuple[Period, int, str], Window] = {}


def current_window(period: Period, start_day: int, now: datetime, time_zone: str) -> Window:
    """As `window_of`, in a tenth of the time when `now` is in the window that was found last."""
    key = (period, start_day, time_zone)
    window = _last.get(key)
    if window is None or not window.start <= now < window.end:
        window = window_of(period, start_day, now, time_zone)
        if len(_last) >= MAX_KNOWN:
            _last.clear()
        _last[key] = window
    return window


def check_start_day(period: Period, start_day: int) -> None:
    """Raises ValueError for a day that not every period has."""
    last = {Period.DAY: 1, Period.WEEK: 7, Period.MONTH: 28}[period]
    if not 1 <= start_day <= last:
        raise ValueError(f"a {period} starts on one of its days 1 to {last}")


def first_day(period: Period, start_day: int, day: date) -> date:
    """The first day of the period that holds a day."""
    if period is Period.DAY:
        return day
    if period is Period.WEEK:
        return day - timedelta(days=(day.isoweekday() - start_day) % 7)
    if day.day >= start_day:
        return day.replace(day=start_day)
    return (day.replace(day=1) - timedelta(days=1)).replace(day=start_day)


def next_first(period: Period, first: date) -> date:
    """The first day of the next period."""
    if period is Period.DAY:
        return first + timedelta(days=1)
    if period is Period.WEEK:
        return first + timedelta(days=7)
    return first + timedelta(days=calendar.monthrange(first.year, first.month)[1])


def midnight(day: date, zone: ZoneInfo) -> datetime:
    """The first instant of a day, in UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


def load_zone(time_zone: str) -> ZoneInfo:
    """The time zone of that IANA name. Raises ValueError when there is none."""
    try:
        return ZoneInfo(time_zone)
    except (KeyError, ValueError, OSError) as error:  # OSError: the name of a folder, or one that is too long
        raise ValueError(f"unknown time zone {time_zone[:80]!r}") from error
