"""The quota period: the calendar month in the tenant's time zone, as two instants."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open span of time, [start, end), both aware and in UTC; quotas reset at `end`."""

    start: datetime
    end: datetime


def month_window(now: datetime, time_zone: str) -> Window:
    """The calendar month that holds `now`.

    now: an aware time. time_zone: an IANA name, for example "Europe/Berlin".
    A month begins at the first midnight of its first day; where clocks are set forward at that midnight, at the
    instant of the change. Raises ValueError for a naive time or an unknown zone.
    """
    if now.tzinfo is None:
        raise ValueError("now must carry a time zone")
    zone = load_zone(time_zone)
    local = now.astimezone(zone)
    month = local.year * 12 + local.month - 1
    # Clocks set back over the midnight of a first repeat an hour of the old month after the new one began:
    # instants decide, not the local month.
    if now >= month_start(month + 1, zone):
        month += 1
    return Window(month_start(month, zone), month_start(month + 1, zone))


def month_start(month: int, zone: ZoneInfo) -> datetime:
    """The first instant of a month, counted from year 0 (year * 12 + month - 1), in UTC."""
    return datetime(month // 12, month % 12 + 1, 1, tzinfo=zone).astimezone(UTC)


def load_zone(time_zone: str) -> ZoneInfo:
    """The time zone of that IANA name. Raises ValueError when there is none."""
    try:
        return ZoneInfo(time_zone)
    except (KeyError, ValueError, OSError) as error:  # OSError: the name of a folder, or one that is too long
        raise ValueError(f"unknown time zone {time_zone[:80]!r}") from error
