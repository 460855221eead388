"""Limits requests per client address: a sliding window, in this process or shared over Redis."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from redis.exceptions import RedisError

from geko_proxy.filters.base import Exchange, Filter, Refused, Reply, Route

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from geko_proxy.services import Services

log = logging.getLogger("geko.filters.rate_limit")

MAX_ADDRESSES = 100_000
REDIS_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class RateLimitOptions:
    """limit: requests per window and client address; window_s: length of the window in seconds."""

    limit: int = 100
    window_s: int = 60

    def __post_init__(self) -> None:
        for name in ("limit", "window_s"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")


class MemoryWindow:
    """Sliding window counter: the last window's count fades out linearly while this one's grows."""

    def __init__(self, limit: int, window_s: int) -> None:
        self._limit = limit
        self._window_s = window_s
        self._counts: dict[str, list[int]] = {}  # [window number, count, count before]

    def hit(self, key: str, now: float) -> int:
        """Count a request; return 0 if it may pass, else after how many seconds to try again."""
        number, into = divmod(now, self._window_s)
        window = int(number)
        entry = self._counts.get(key)
        if entry is None:
            if len(self._counts) >= MAX_ADDRESSES:
                self._make_room(window)
            self._counts[key] = [window, 1, 0]
            return 0
        if entry[0] != window:
            entry[2] = entry[1] if entry[0] == window - 1 else 0
            entry[0], entry[1] = window, 0
        if entry[1] + entry[2] * (1 - into / self._window_s) >= self._limit:
            return retry_after_s(self._limit, self._window_s, entry[1], entry[2], into)
        entry[1] += 1
        return 0

    def _make_room(self, window: int) -> None:
        """Forget who has been silent for a window; if that is nobody, the half that came first."""
        self._counts = {key: entry for key, entry in self._counts.items() if entry[0] >= window - 1}
        if len(self._counts) >= MAX_ADDRESSES:
            for key in list(self._counts)[: MAX_ADDRESSES // 2]:
                del self._counts[key]


def retry_after_s(limit: int, window_s: int, count: int, before: int, into: float) -> int:
    """Seconds until one more request fits into the sliding window."""
    if count >= limit or before == 0:
        return max(1, math.ceil(window_s - into))
    fits_at = window_s * (1 - (limit - 1 - count) / before)
    return max(1, math.ceil(min(fits_at, window_s) - into))


class RedisWindow:
    """The same window shared by all instances. KEYS: this and the last window's counter."""

    SCRIPT = """
local before = tonumber(redis.call('GET', KEYS[2]) or '0')
local count = tonumber(redis.call('GET', KEYS[1]) or '0')
if count + before * (1 - tonumber(ARGV[3]) / tonumber(ARGV[2])) >= tonumber(ARGV[1]) then
  return {0, count, before}
end
redis.call('INCR', KEYS[1])
redis.call('EXPIRE', KEYS[1], tonumber(ARGV[2]) * 2)
return {1, count, before}
"""

    def __init__(self, redis: Redis, limit: int, window_s: int) -> None:
        self._limit = limit
        self._window_s = window_s
        self._script = redis.register_script(self.SCRIPT)

    async def hit(self, key: str, now: float) -> int:
        """As MemoryWindow.hit. Raises RedisError."""
        number, into = divmod(now, self._window_s)
        keys = [f"geko:rate:{{{key}}}:{int(number)}", f"geko:rate:{{{key}}}:{int(number) - 1}"]
        passed, count, before = await self._script(keys=keys, args=[self._limit, self._window_s, into])
        if passed:
            return 0
        return retry_after_s(self._limit, self._window_s, int(count), int(before), into)


class RateLimitFilter(Filter):
    """Refuses with 429 what exceeds the limit. The web client's own files do not count."""

    name: ClassVar[str] = "rate_limit"
    Options: ClassVar[type] = RateLimitOptions
    routes: ClassVar[frozenset[Route]] = frozenset(Route) - {Route.ASSET}

    def __init__(self, options: RateLimitOptions, services: Services) -> None:
        super().__init__(options, services)
        self._limit = options.limit
        self._memory = MemoryWindow(options.limit, options.window_s)
        redis = services.redis
        self._shared = RedisWindow(redis, options.limit, options.window_s) if redis is not None else None
        self._redis_down_until = 0.0

    async def on_request(self, exchange: Exchange) -> Reply | None:
        if exchange.parent is not None:
            return None  # counted already
        now = exchange.started_at
        wait_s = await self._hit(exchange.request.client_ip, now)
        if wait_s:
            raise Refused(
                429,
                "rate_limited",
                f"Too many requests. Try again in {wait_s} seconds.",
                retry_after_s=wait_s,
                headers={"X-RateLimit-Limit": str(self._limit), "X-RateLimit-Remaining": "0"},
            )
        return None

    async def _hit(self, address: str, now: float) -> int:
        if self._shared is not None and now >= self._redis_down_until:
            try:
                return await self._shared.hit(address, now)
            except (RedisError, OSError) as error:
                # design §7: without Redis each process limits on its own
                self._redis_down_until = time.time() + REDIS_RETRY_S
                log.warning("Redis failed (%s): limiting in this process", error)
        return self._memory.hit(address, now)
