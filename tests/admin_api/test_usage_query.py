"""Which days and groups an address asks for."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.admin_api.usage_query import MAX_DAYS, dimensions_of, query_of, span_of
from geko_proxy.errors import Refused
from geko_proxy.metering.usage_days import Dimension
from geko_proxy.metering.windows import Window, load_zone, month_window

ZONES = ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago", "Europe/Berlin", "America/Havana"]


@given(st.integers(2000, 2999), st.integers(1, 12), st.sampled_from(ZONES))
def test_every_month_is_found_in_every_zone(year: int, month: int, zone: str) -> None:
    span = span_of({"month": f"{year}-{month:02}"}, zone, datetime.now(UTC))
    assert span.window == month_window(span.window.start, zone)
    assert span.first == date(year, month, 1)
    assert (span.last + timedelta(days=1)).day == 1
    assert 28 <= (span.last - span.first).days + 1 <= 31


@given(st.dates(date(2000, 1, 1), date(2990, 1, 1)), st.integers(0, MAX_DAYS - 1), st.sampled_from(ZONES))
def test_days_begin_at_their_midnights(first: date, days: int, zone: str) -> None:
    last = first + timedelta(days=days)
    span = span_of({"from": str(first), "to": str(last)}, zone, datetime.now(UTC))
    assert (span.first, span.last) == (first, last)
    assert span.window.start.astimezone(load_zone(zone)).date() == first
    assert span.window.end.astimezone(load_zone(zone)).date() == last + timedelta(days=1)


def test_no_month_is_this_month_and_no_end_is_today() -> None:
    now = datetime(2026, 11, 22, 23, tzinfo=UTC)
    november = Window(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
    assert span_of({}, "UTC", now).window == november
    assert span_of({"from": "2026-11-20"}, "Asia/Tokyo", now).last == date(2026, 11, 23)


@pytest.mark.parametrize("month", ["", "2026", "2026-13", "2026-1", "1999-01", "2026-01-01", "٢٠٢٦-٠١", "x"])
def test_bad_months(month: str) -> None:
    with pytest.raises(Refused) as refused:
        span_of({"month": month}, "UTC", datetime.now(UTC))
    assert set(refused.value.details or {}) == {"month"}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("to=2026-01-01", "from"),
        ("from=2026-02-30", "from"),
        ("from=20260201", "from"),
        ("from=2026-02-01&to=x", "to"),
        ("from=2026-02-02&to=2026-02-01", "to"),
        ("from=2024-01-01&to=2026-01-01", "to"),
        ("from=2026-01-01&month=2026-01", "month"),
        ("by=nothing", "by"),
        ("by=day,colour", "by"),
        ("&".join(f"a{n}=1" for n in range(60)), "query"),
    ],
)
def test_what_is_wrong_is_named(query: str, field: str) -> None:
    def read() -> None:
        asked = query_of(query)
        dimensions_of(asked)
        span_of(asked, "UTC", datetime(2026, 11, 22, tzinfo=UTC))

    with pytest.raises(Refused) as refused:
        read()
    assert refused.value.status == 400
    assert set(refused.value.details or {}) == {field}


def test_groups_count_once_and_in_order() -> None:
    assert dimensions_of({"by": "day, model,day"}) == (Dimension.DAY, Dimension.MODEL)
    assert dimensions_of({}) == ()
