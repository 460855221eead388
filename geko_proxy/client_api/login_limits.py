"""Slows down password guessing: failures per account and client address. In this process only."""

from __future__ import annotations

import time

from cachetools import TTLCache

from geko_proxy.errors import Refused

MAX_KEYS = 100_000


class LoginLimits:
    """Counts failed sign-ins. failures: allowed per window_s seconds for one account from one address."""

    def __init__(self, failures: int = 10, window_s: int = 300) -> None:
        self._failures = failures
        self._window_s = window_s
        self._counts: TTLCache[tuple[str, str], list[float]] = TTLCache(MAX_KEYS, window_s)

    def check(self, account: str, address: str) -> None:
        """Raises Refused 429 when there were too many failures; call before looking at the password."""
        times = self._counts.get(_key(account, address), [])
        if len(times) >= self._failures:
            wait_s = max(1, int(times[0] + self._window_s - time.monotonic()) + 1)
            raise Refused(
                429,
                "too_many_attempts",
                f"Too many login attempts, please try again after {wait_s} seconds.",
                retry_after_s=wait_s,
            )

    def failed(self, account: str, address: str) -> None:
        """Count a failure."""
        key = _key(account, address)
        times = [each for each in self._counts.get(key, []) if each > time.monotonic() - self._window_s]
        self._counts[key] = [*times, time.monotonic()]

    def succeeded(self, account: str, address: str) -> None:
        """Forget the failures of an account from this address."""
        self._counts.pop(_key(account, address), None)


def _key(account: str, address: str) -> tuple[str, str]:
    return account.strip().lower()[:320], address
