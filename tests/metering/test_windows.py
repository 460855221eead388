"""Days, weeks and months in every time zone: they cover time without gaps or overlaps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.metering.windows import Period, Window, current_window, midnight, month_window, window_of

ZONES = st.sampled_from(sorted(available_timezones()))
TIMES = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
LAST = {Period.DAY: 1, Period.WEEK: 7, Period.MONTH: 28}
PERIODS = st.sampled_from(list(Period)).flatmap(
    lambda period: st.tuples(st.just(period), st.integers(1, LAST[period]))
)
# clocks change by hours, and some places have skipped a day or had one twice
LENGTHS = {
    Period.DAY: (timedelta(hours=1), timedelta(hours=50)),
    Period.WEEK: (timedelta(days=5, hours=22), timedelta(days=8, hours=2)),
    Period.MONTH: (timedelta(days=26, hours=22), timedelta(days=32, hours=2)),
}


@given(PERIODS, TIMES, ZONES)
def test_a_period_holds_now_and_has_its_length(kind: tuple[Period, int], now: datetime, zone: str) -> None:
    window = window_of(*kind, now, zone)
    assert window.start <= now < window.end
    least, most = LENGTHS[kind[0]]
    assert least <= window.end - window.start <= most


@given(PERIODS, TIMES, ZONES)
def test_the_next_period_begins_where_this_one_ends(
    kind: tuple[Period, int], now: datetime, zone: str
) -> None:
    window = window_of(*kind, now, zone)
    assert window_of(*kind, window.end, zone).start == window.end
    assert window_of(*kind, window.start, zone) == window
    assert window_of(*kind, window.end - timedelta(microseconds=1), zone) == window


@given(PERIODS, TIMES, ZONES)
def test_a_period_begins_on_its_day_at_the_first_midnight(
    kind: tuple[Period, int], now: datetime, zone: str
) -> None:
    """By another way: the last midnight up to now that begins such a day."""
    period, day = kind
    place = ZoneInfo(zone)
    today = now.astimezone(place).date()
    starts = [
        start
        for date in (today + timedelta(days=1 - back) for back in range(70))
        if period is Period.DAY or day == (date.isoweekday() if period is Period.WEEK else date.day)
        if (start := midnight(date, place)) <= now
    ]
    assert window_of(period, day, now, zone).start == max(starts)


@given(PERIODS, st.lists(TIMES, min_size=1, max_size=5), ZONES)
def test_the_short_way_gives_the_same(kind: tuple[Period, int], times: list[datetime], zone: str) -> None:
    for now in times:
        window = current_window(*kind, now, zone)
        assert window == window_of(*kind, now, zone)
        assert current_window(*kind, window.end, zone) != window
        assert current_window(*kind, window.end - timedelta(microseconds=1), zone) == window


@pytest.mark.parametrize(
    ("period", "day", "zone", "now", "start", "end"),
    [
        # clocks go forward at 2:00 and back at 3:00: days of 23 and 25 hours
        (Period.DAY, 1, "Europe/Berlin", "2026-03-29T12:00Z", "2026-03-28T23:00Z", "2026-03-29T22:00Z"),
        (Period.DAY, 1, "Europe/Berlin", "2026-10-25T12:00Z", "2026-10-24T22:00Z", "2026-10-25T23:00Z"),
        # Samoa had no 30 December 2011
        (Period.DAY, 1, "Pacific/Apia", "2011-12-30T09:59Z", "2011-12-29T10:00Z", "2011-12-30T10:00Z"),
        (Period.DAY, 1, "Pacific/Apia", "2011-12-30T10:00Z", "2011-12-30T10:00Z", "2011-12-31T10:00Z"),
        # 23 November 2026 is a Monday
        (Period.WEEK, 1, "UTC", "2026-11-23T00:00Z", "2026-11-23T00:00Z", "2026-11-30T00:00Z"),
        (Period.WEEK, 7, "UTC", "2026-11-23T00:00Z", "2026-11-22T00:00Z", "2026-11-29T00:00Z"),
        (Period.WEEK, 2, "Asia/Tokyo", "2026-11-23T14:59Z", "2026-11-16T15:00Z", "2026-11-23T15:00Z"),
        (Period.MONTH, 28, "UTC", "2026-03-01T00:00Z", "2026-02-28T00:00Z", "2026-03-28T00:00Z"),
        (Period.MONTH, 15, "America/New_York", "2026-01-01T00:00Z", "2025-12-15T05:00Z", "2026-01-15T05:00Z"),
    ],
)
def test_known_periods(period: Period, day: int, zone: str, now: str, start: str, end: str) -> None:
    expected = Window(datetime.fromisoformat(start), datetime.fromisoformat(end))
    assert window_of(period, day, datetime.fromisoformat(now), zone) == expected


@pytest.mark.parametrize(
    ("period", "day"),
    [(Period.DAY, 0), (Period.DAY, 2), (Period.WEEK, 8), (Period.MONTH, 0), (Period.MONTH, 29)],
)
def test_a_day_that_not_every_period_has_is_a_value_error(period: Period, day: int) -> None:
    with pytest.raises(ValueError, match="starts on"):
        window_of(period, day, datetime(2026, 1, 1, tzinfo=UTC), "UTC")


@given(TIMES, ZONES)
def test_the_window_holds_now_and_is_a_month_long(now: datetime, zone: str) -> None:
    window = month_window(now, zone)
    assert window.start <= now < window.end
    assert timedelta(days=27, hours=22) < window.end - window.start < timedelta(days=31, hours=26)


@given(TIMES, ZONES)
def test_the_next_window_begins_where_this_one_ends(now: datetime, zone: str) -> None:
    window = month_window(now, zone)
    following = month_window(window.end, zone)
    assert following.start == window.end
    assert month_window(window.end - timedelta(microseconds=1), zone) == window
    assert month_window(window.start, zone) == window


@given(TIMES, ZONES)
def test_a_window_begins_on_a_first(now: datetime, zone: str) -> None:
    start = month_window(now, zone).start.astimezone(ZoneInfo(zone))
    assert start.day == 1
    assert start.hour in (0, 1)  # 1: there was no midnight


@pytest.mark.parametrize(
    ("now", "zone", "start", "end"),
    [
        (
            "2026-03-31T21:59:59+00:00",
            "Europe/Berlin",
            "2026-02-28T23:00:00+00:00",
            "2026-03-31T22:00:00+00:00",
        ),
        (
            "2026-03-31T22:00:00+00:00",
            "Europe/Berlin",
            "2026-03-31T22:00:00+00:00",
            "2026-04-30T22:00:00+00:00",
        ),
        ("2026-12-31T23:30:00+00:00", "Asia/Tokyo", "2026-12-31T15:00:00+00:00", "2027-01-31T15:00:00+00:00"),
        # clocks went from 0:00 to 1:00 on 1 October
        (
            "2023-10-15T00:00:00+00:00",
            "America/Asuncion",
            "2023-10-01T04:00:00+00:00",
            "2023-11-01T03:00:00+00:00",
        ),
        # clocks went from 0:01 on 1 November back to 23:01 on 31 October: November had begun
        (
            "2009-11-01T02:40:00+00:00",
            "America/St_Johns",
            "2009-11-01T02:30:00+00:00",
            "2009-12-01T03:30:00+00:00",
        ),
    ],
)
def test_known_months(now: str, zone: str, start: str, end: str) -> None:
    window = month_window(datetime.fromisoformat(now), zone)
    assert (window.start.isoformat(), window.end.isoformat()) == (start, end)


def test_the_time_may_come_in_any_zone() -> None:
    now = datetime(2026, 5, 1, 1, 0, tzinfo=timezone(timedelta(hours=9)))
    assert month_window(now, "UTC").start == datetime(2026, 4, 1, tzinfo=UTC)


@pytest.mark.parametrize("zone", ["", "Nowhere", "../etc/passwd", "Europe", "Europe/Berlin\0", "x" * 5000])
def test_an_unknown_zone_is_a_value_error(zone: str) -> None:
    with pytest.raises(ValueError, match="time zone"):
        month_window(datetime(2026, 1, 1, tzinfo=UTC), zone)


def test_a_naive_time_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="time zone"):
        month_window(datetime(2026, 1, 1), "UTC")  # noqa: DTZ001
