"""What GEKO does when LibreChat's own limits or its ban hit GEKO's calls: say so in the log once, and stop asking.

GEKO limits people itself, so LibreChat's limits should be off or high (contract §2.7, docs/librechat.md). Asking again
would only make a ban longer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from cachetools import TTLCache

from geko_proxy.errors import UpstreamLimited

log = logging.getLogger("geko.librechat")

PAUSE_S: Final = 30  # where LibreChat does not say how long
MAX_PAUSE_S: Final = 300
BAN_PAUSE_S: Final = 60
MAX_PAUSES: Final = 10_000
BANNED: Final = (b"temporarily banned", b'\\"type\\":\\"ban\\"', b'"type":"ban"')
SETTINGS: Final = {
    "/api/auth/login": "LOGIN_MAX",
    "/api/auth/register": "REGISTER_MAX",
}


class LimitedCalls:
    """The calls that LibreChat refuses for a while, each by method, kind of path and account.

    clock: a monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: TTLCache[tuple[str, str, str], float] = TTLCache(MAX_PAUSES, MAX_PAUSE_S, timer=clock)

    def check(self, method: str, path: str, account: str) -> None:
        """Raises UpstreamLimited while such a call must not be made. account: the bearer, empty: none."""
        if not self._until:
            return
        until = self._until.get((method, family(path), account), 0.0)
        left = until - self._clock()
        if left > 0:
            raise UpstreamLimited("LibreChat limits GEKO's calls: not asked again yet", max(1, int(left)))

    def read(self, method: str, path: str, account: str, reply: Refusal) -> None:
        """Raises UpstreamLimited when a reply is a limit or a ban, and pauses such calls."""
        banned = is_ban(reply.status, reply.body)
        if reply.status != 429 and not banned:
            return
        wait_s = BAN_PAUSE_S if banned else pause_s(reply.retry_after)
        kind = family(path)
        self._until[(method, kind, account)] = self._clock() + wait_s
        setting = "BAN_VIOLATIONS=false" if banned else SETTINGS.get(path, "a higher limit")
        what = "has banned a GEKO account or GEKO's address" if banned else "limits GEKO's own calls"
        log.error(
            "LibreChat %s (%d on %s %s): it needs %s, see docs/librechat.md; not asked again for %d s",
            what, reply.status, method, kind, setting, wait_s,
        )  # fmt: skip
        raise UpstreamLimited(f"LibreChat {what}", wait_s)


class Refusal:
    """What is looked at in a reply."""

    __slots__ = ("body", "retry_after", "status")

    def __init__(self, status: int, body: bytes, retry_after: bytes | None) -> None:
        self.status = status
        self.body = body
        self.retry_after = retry_after


def is_ban(status: int, body: bytes) -> bool:
    """Whether a reply says that the account or the address is banned: 403, or text of events with 200 on chat routes
    (contract §§2.7, 7.2)."""
    if status == 200 and body.startswith(b"event:"):
        body = body.rpartition(b"event: error")[2]  # what stands before it holds the user's own words
    elif status != 403:
        return False
    return any(mark in body[:4096] for mark in BANNED)


def pause_s(retry_after: bytes | None) -> int:
    """How long to wait, by Retry-After (RFC 9110 §10.2.3) in seconds."""
    if retry_after is None or not retry_after.isdigit() or len(retry_after) > 6:
        return PAUSE_S
    return min(MAX_PAUSE_S, max(1, int(retry_after)))


def family(path: str) -> str:
    """A path without what names one thing: "/api/convos" of "/api/convos/123"; whole for sign-in."""
    parts = path.partition("?")[0].split("/")
    return "/".join(parts[: 5 if parts[2:4] == ["agents", "chat"] else 4 if parts[2:3] == ["auth"] else 3])
