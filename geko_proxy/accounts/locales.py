"""Languages and time zones that people choose."""

from __future__ import annotations

import re
from functools import cache
from typing import Final
from zoneinfo import available_timezones

MAX_LENGTH: Final = 35  # RFC 5646, 4.4.1

# RFC 5646, 2.1: language, script, region, variants, extensions, private use; no grandfathered tags.
TAG: Final = re.compile(
    r"(?P<language>[a-z]{2,3}(?:-[a-z]{3}){0,3}|[a-z]{4,8})(?:-(?P<script>[a-z]{4}))?(?:-(?P<region>[a-z]{2}|\d{3}))?"
    r"(?P<rest>(?:-(?:[a-z0-9]{5,8}|\d[a-z0-9]{3}))*(?:-[a-wy-z0-9](?:-[a-z0-9]{2,8})+)*(?:-x(?:-[a-z0-9]{1,8})+)?)",
    re.ASCII,
)


def normalise_language(text: str) -> str | None:
    """A language tag in its usual spelling ("zh-Hant-TW"), or None when it is none."""
    found = TAG.fullmatch(text.strip().lower()) if len(text) <= MAX_LENGTH else None
    if found is None:
        return None
    parts = [found["language"]]
    parts += [found["script"].title()] if found["script"] else []
    parts += [found["region"].upper()] if found["region"] else []
    return "-".join(parts) + found["rest"]


def is_time_zone(text: str) -> bool:
    """Whether this is a name of the IANA time zone database. The first call reads files."""
    return text in time_zones()


@cache
def time_zones() -> frozenset[str]:
    """All names but those of files that are no zones for people."""
    return frozenset(name for name in available_timezones() if name not in ("localtime", "Factory"))
