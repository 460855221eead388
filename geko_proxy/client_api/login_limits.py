"""Slows down guessing: of an account from one network, of many accounts from one, and of one account from many."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from math import ceil
from typing import TYPE_CHECKING, Final

from cachetools import TTLCache

from geko_proxy.accounts.emails import normalise_email
from geko_proxy.addresses import network_of
from geko_proxy.client_api.backoff import Backoff, Rule
from geko_proxy.errors import Refused

if TYPE_CHECKING:
    from uuid import UUID

    from redis.asyncio import Redis

MAX_KEYS: Final = 100_000
TRIED_S: Final = 600  # how long an attempt makes the next ones of its network less urgent

# docs/decisions/0027: the numbers and why nobody can be locked out by strangers.
ACCOUNT: Final = Rule(free=5, base_s=2, cap_s=900, leak_s=600)  # one account from one network or known device
NETWORK: Final = Rule(free=50, base_s=1, cap_s=300, leak_s=30)  # all accounts from one network
EVERYWHERE: Final = Rule(free=30, base_s=1, cap_s=60, leak_s=120)  # one account from unknown devices anywhere
RESETS: Final = Rule(free=3, base_s=60, cap_s=900, leak_s=900)  # mails to one address
REGISTRATIONS: Final = Rule(free=300, base_s=1, cap_s=300, leak_s=1)  # new accounts from one network
MAILS: Final = Rule(
    free=5, base_s=60, cap_s=3600, leak_s=720
)  # mails that one person has sent about the own address
RESET_NETWORK: Final = Rule(free=10, base_s=5, cap_s=600, leak_s=60)  # asked for from one network


class TooManyAttempts(Refused):
    """429 with Retry-After. begins: the first refusal of a burst, to be reported. rule: which one refuses."""

    def __init__(self, what: str, wait_s: float, rule: str, *, begins: bool) -> None:
        seconds = max(1, ceil(wait_s))
        minutes = ceil(seconds / 60)
        # words that LibreChat uses too (recording limits/04_login_wrong_8)
        text = f"Too many {what}, please try again after {minutes} minute{'s' if minutes != 1 else ''}."
        super().__init__(429, "too_many_attempts", text, retry_after_s=seconds)
        self.begins = begins
        self.rule = rule


class LoginLimits:
    """Attempts are counted before the password is checked, so that many at once can't slip through, and uncounted
    when it was right. A device that the account's owner has signed in with is counted alone: strangers can't lock
    the owner out of it. Shared over Redis when there is one.

    account, network, everywhere, registrations: the rules.
    """

    def __init__(
        self,
        redis: Redis | None = None,
        *,
        account: Rule = ACCOUNT,
        network: Rule = NETWORK,
        everywhere: Rule = EVERYWHERE,
        registrations: Rule = REGISTRATIONS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._backoff = Backoff(redis, clock)
        self._account, self._network, self._everywhere = account, network, everywhere
        self._registrations = registrations
        self._tried: TTLCache[str, int] = TTLCache(MAX_KEYS, TRIED_S, timer=clock)

    async def begin(self, ip: str, email: str, device: str | None = None) -> int:
        """Count an attempt to sign in. device: a known one of this account. Raises TooManyAttempts.

        Returns how many attempts of its network came to this process before, in the last minutes: 0 for somebody new.
        """
        keys = self._keys(ip, email, device)
        verdict = await self._backoff.attempt(keys)
        if verdict.wait_s:
            rule = keys[verdict.key][0].partition(":")[0]
            raise TooManyAttempts("login attempts", verdict.wait_s, rule, begins=verdict.begins)
        network = network_of(ip)
        before = self._tried.get(network, 0)
        self._tried[network] = before + 1
        return before

    async def succeeded(self, ip: str, email: str, device: str | None = None) -> None:
        """The password was right: what was counted for this account from here is forgotten."""
        keys = self._keys(ip, email, device)
        await self._backoff.succeeded(keys, [keys[0][0]])
        if network_of(ip) in self._tried:
            self._tried[network_of(ip)] -= 1

    async def begin_registration(self, ip: str) -> None:
        """Count an attempt to register. Raises TooManyAttempts."""
        key = f"registration:{network_of(ip)}"
        verdict = await self._backoff.attempt([(key, self._registrations)])
        if verdict.wait_s:
            raise TooManyAttempts("accounts created", verdict.wait_s, "registration", begins=verdict.begins)

    async def begin_mail(self, user_id: UUID) -> None:
        """Count a mail that somebody who is signed in has sent. Raises TooManyAttempts."""
        verdict = await self._backoff.attempt([(f"mail:{user_id}", MAILS)])
        if verdict.wait_s:
            raise TooManyAttempts("mails", verdict.wait_s, "profile-mails", begins=verdict.begins)

    async def begin_reset(self, ip: str, email: str) -> bool:
        """Count a request for a mail with a link; False: this address has got enough of them.

        Raises TooManyAttempts when the network asks too often.
        """
        verdict = await self._backoff.attempt([(f"reset-network:{network_of(ip)}", RESET_NETWORK)])
        if verdict.wait_s:
            what = "password reset attempts"
            raise TooManyAttempts(what, verdict.wait_s, "reset-network", begins=verdict.begins)
        return not (await self._backoff.attempt([(f"reset:{account_of(email)}", RESETS)])).wait_s

    def _keys(self, ip: str, email: str, device: str | None) -> list[tuple[str, Rule]]:
        account = account_of(email)
        if device is not None:
            return [(f"device:{account}:{device}", self._account)]
        network = network_of(ip)
        return [
            (f"account:{account}:{network}", self._account),
            (f"network:{network}", self._network),
            (f"everywhere:{account}", self._everywhere),
        ]


def account_of(email: str) -> str:
    """What stands for an account in keys and logs: no address can be read from it. email: as typed."""
    address = normalise_email(email) or email.strip().lower()[:254]
    return hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()[:20]
