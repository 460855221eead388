"""Which headers go to a provider and which come back, by allow-list both ways; what Retry-After says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from multidict import CIMultiDict

Raw = Sequence[tuple[bytes, bytes]]

ANTHROPIC_VERSION: Final = b"2023-06-01"
MAX_RETRY_AFTER_S: Final = 3600.0  # after that it is asked again, whatever it said
# Not the caller's credentials, cookies or x-geko-*; not openai-organization: GEKO's key decides who pays.
REQUEST_HEADERS: Final = frozenset(
    b"accept anthropic-beta anthropic-version idempotency-key openai-beta user-agent".split()
)
REPLY_HEADERS: Final = frozenset(
    b"cache-control content-disposition content-encoding content-length content-type openai-model "
    b"openai-processing-ms openai-version request-id retry-after retry-after-ms x-request-id x-should-retry".split()
)
REPLY_PREFIXES: Final = (b"x-ratelimit-", b"anthropic-ratelimit-")


class ProviderHeaders:
    """The headers of calls to one deployment. own: the deployment's, which win over the caller's."""

    def __init__(self, api: str, key: str, own: Mapping[str, str]) -> None:
        fixed = {b"accept-encoding": b"identity"}  # the reply is read event by event
        if key and api == "anthropic":
            fixed[b"x-api-key"] = key.encode("ascii")
        elif key:
            fixed[b"authorization"] = b"Bearer " + key.encode("ascii")
        fixed |= {name.lower().encode("ascii"): value.encode("ascii") for name, value in own.items()}
        self._fixed = tuple(fixed.items())
        self._passed = REQUEST_HEADERS - fixed.keys()
        self._needs_version = api == "anthropic" and b"anthropic-version" not in fixed

    def of_call(self, raw: Iterable[tuple[bytes, bytes]], content_type: str) -> list[tuple[bytes, bytes]]:
        """The headers of one call. raw: the caller's as received."""
        headers = [(lower, value) for name, value in raw if (lower := name.lower()) in self._passed]
        if self._needs_version and not any(name == b"anthropic-version" for name, _ in headers):
            headers.append((b"anthropic-version", ANTHROPIC_VERSION))
        if content_type:
            headers.append((b"content-type", content_type.encode("latin-1")))
        headers.extend(self._fixed)
        return headers


def reply_headers(raw: Raw) -> CIMultiDict[str]:
    """The headers of a provider's reply that the caller gets."""
    kept: CIMultiDict[str] = CIMultiDict()
    for name, value in raw:
        lower = name.lower()
        if lower in REPLY_HEADERS or lower.startswith(REPLY_PREFIXES):
            kept.add(lower.decode("ascii"), value.decode("latin-1"))
    return kept


def retry_after_s(raw: Raw, now: datetime | None = None) -> float | None:
    """Seconds that a provider asks to wait, at most an hour: `retry-after-ms`, or Retry-After (RFC 9110 §10.2.3).

    None when it says nothing, or nothing that can be read.
    """
    found = {name.lower(): value for name, value in raw}
    milliseconds = _number(found.get(b"retry-after-ms"))
    if milliseconds is not None:
        return min(milliseconds / 1000, MAX_RETRY_AFTER_S)
    value = found.get(b"retry-after")
    seconds = _number(value)
    if seconds is None and value is not None:
        seconds = _seconds_until(value, now or datetime.now(UTC))
    return None if seconds is None else min(seconds, MAX_RETRY_AFTER_S)


def _number(value: bytes | None) -> float | None:
    try:
        number = float(value or b"")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _seconds_until(value: bytes, now: datetime) -> float | None:
    try:
        at = parsedate_to_datetime(value.decode("latin-1"))
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return max(0.0, (at - now).total_seconds())
