"""What the address of a usage report asks for: which days, and grouped by what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final
from urllib.parse import parse_qs

from geko_proxy.client_api.validation import invalid
from geko_proxy.metering.usage_days import Dimension
from geko_proxy.metering.windows import Window, load_zone, midnight, month_window

MONTH: Final = re.compile(r"(2\d{3})-(0[1-9]|1[0-2])", re.ASCII)
DAY: Final = re.compile(r"2\d{3}-\d\d-\d\d", re.ASCII)
MAX_DAYS: Final = 366


@dataclass(frozen=True, slots=True)
class Span:
    """Days of the tenant's calendar, both included. month: whether they are one calendar month."""

    first: date
    last: date
    window: Window
    is_month: bool

    @property
    def name(self) -> str:
        """For file names."""
        return f"{self.first:%Y-%m}" if self.is_month else f"{self.first}-{self.last}"


def query_of(query: str) -> dict[str, str]:
    """The parameters of an address; of two with one name the last one counts."""
    try:
        return {name: values[-1] for name, values in parse_qs(query, True, max_num_fields=50).items()}
    except ValueError:
        raise invalid({"query": "Too many parameters."}) from None


def span_of(asked: Mapping[str, str], time_zone: str, now: datetime) -> Span:
    """The days that are asked for: `month`, or `from` and `to` (today, if left out); else this month.

    Raises Refused 400.
    """
    if "from" not in asked and "to" not in asked:
        window = named_month(asked.get("month"), time_zone, now)
        zone = load_zone(time_zone)
        last = (window.end - timedelta(hours=12)).astimezone(zone).date()
        return Span(last.replace(day=1), last, window, is_month=True)
    if "month" in asked:
        raise invalid({"month": "Give either month, or from and to."})
    zone = load_zone(time_zone)
    first = named_day(asked, "from")
    last = named_day(asked, "to") if "to" in asked else now.astimezone(zone).date()
    if last < first:
        raise invalid({"to": "Must not be before from."})
    if (last - first).days >= MAX_DAYS:
        raise invalid({"to": f"At most {MAX_DAYS} days."})
    window = Window(midnight(first, zone), midnight(last + timedelta(days=1), zone))
    return Span(first, last, window, is_month=False)


def named_month(month: str | None, time_zone: str, now: datetime) -> Window:
    """The month of that name, or the one that holds `now`. Raises Refused 400."""
    if month is None:
        return month_window(now, time_zone)
    found = MONTH.fullmatch(month)
    if found is None:
        raise invalid({"month": "Must be a month, such as 2026-11."})
    # the middle of a month is in that month in every time zone
    return month_window(datetime(int(found[1]), int(found[2]), 15, tzinfo=UTC), time_zone)


def named_day(asked: Mapping[str, str], name: str) -> date:
    """The day in a parameter. Raises Refused 400."""
    text = asked.get(name)
    if text is None:
        raise invalid({name: "Required beside to."})
    try:
        if not DAY.fullmatch(text):
            raise ValueError
        return date.fromisoformat(text)
    except ValueError:
        raise invalid({name: "Must be a day, such as 2026-11-22."}) from None


def dimensions_of(asked: Mapping[str, str]) -> tuple[Dimension, ...]:
    """What `by` names, separated by commas, each once; empty without one. Raises Refused 400."""
    named = [name.strip() for name in asked.get("by", "").split(",") if name.strip()]
    try:
        return tuple(dict.fromkeys(Dimension(name) for name in named))
    except ValueError:
        raise invalid({"by": f"Must be of {', '.join(Dimension)}, separated by commas."}) from None
