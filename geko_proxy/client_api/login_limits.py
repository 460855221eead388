"""Limits attempts to sign in and to register, beyond the general rate limit. Counted in this process alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import ceil
from typing import Final

from cachetools import TTLCache

from geko_proxy.addresses import network_of
from geko_proxy.errors import Refused

MAX_KEYS: Final = 100_000


class Attempts:
    """Counts attempts by key in windows that begin with the first one.

    limit: attempts that pass in `window_s` seconds. clock: a monotonic time in seconds.
    """

    def __init__(self, limit: int, window_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._window_s = window_s
        self._clock = clock
        self._windows: TTLCache[str, list[float]] = TTLCache(MAX_KEYS, window_s, timer=clock)

    def add(self, key: str) -> int:
        """Count one attempt; 0 if it may be made, else the seconds to wait (it is not counted then)."""
        now = self._clock()
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = [0, now + self._window_s]
        if window[0] >= self._limit:
            return max(1, ceil(window[1] - now))
        window[0] += 1
        return 0

    def take_back(self, key: str) -> None:
        """Uncount one attempt."""
        window = self._windows.get(key)
        if window is not None and window[0] > 0:
            window[0] -= 1

    def clear(self, key: str) -> None:
        """Forget all attempts of a key."""
        self._windows.pop(key, None)


class LoginLimits:
    """Attempts are counted before the password is checked, so that many at once can't slip through, and uncounted
    when it was right. An account counts together with the address: strangers can't lock somebody out.

    failures: for one account from one address; failures_per_address: for all accounts from it;
    registrations: new accounts from one address; all within `window_s` seconds.
    """

    def __init__(
        self,
        *,
        failures: int = 10,
        failures_per_address: int = 50,
        registrations: int = 300,
        window_s: float = 300,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._accounts = Attempts(failures, window_s, clock)
        self._addresses = Attempts(failures_per_address, window_s, clock)
        self._registrations = Attempts(registrations, window_s, clock)

    def begin(self, ip: str, email: str) -> None:
        """Count an attempt to sign in. Raises Refused 429."""
        network = network_of(ip)
        wait_s = self._addresses.add(network)
        if not wait_s:
            wait_s = self._accounts.add(account_key(network, email))
            if wait_s:
                self._addresses.take_back(network)
        if wait_s:
            raise too_many("login attempts", wait_s)

    def succeeded(self, ip: str, email: str) -> None:
        """The password was right: what was counted for this account from here is forgotten."""
        network = network_of(ip)
        self._addresses.take_back(network)
        self._accounts.clear(account_key(network, email))

    def begin_registration(self, ip: str) -> None:
        """Count an attempt to register. Raises Refused 429."""
        wait_s = self._registrations.add(network_of(ip))
        if wait_s:
            raise too_many("accounts created", wait_s)


def account_key(network: str, email: str) -> str:
    """The key of an account from one network. email: as typed."""
    return f"{network} {email.strip().lower()[:254]}"


def too_many(what: str, wait_s: int) -> Refused:
    """429 in words that LibreChat uses too (recording limits/04_login_wrong_8)."""
    minutes = ceil(wait_s / 60)
    text = f"Too many {what}, please try again after {minutes} minute{'s' if minutes != 1 else ''}."
    return Refused(429, "too_many_attempts", text, retry_after_s=wait_s)
