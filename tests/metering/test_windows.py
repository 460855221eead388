"""Months in every time zone: they cover time without gaps or overlaps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.metering.windows import month_window

ZONES = st.sampled_from(sorted(available_timezones()))
TIMES = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


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
