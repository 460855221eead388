"""Counts for rate limits: in this process, and in a Redis that all instances share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from geko_proxy.filters.rate_rules import RateRule

if TYPE_CHECKING:
    from redis.asyncio import Redis

MAX_KEYS: Final = 100_000
TURN_RETRY_S: Final = 5  # when a running answer may have ended
TURN_TTL_S: Final = 60  # of a turn whose instance has vanished
PREFIX: Final = "geko:rate"


class Asked(NamedTuple):
    """A rule that a request falls under. key: whose it is; tag: what all keys of one request have in common, so that
    Redis Cluster finds them in one place."""

    rule: RateRule
    key: str
    tag: str


class Verdict(NamedTuple):
    """What a rule says. remaining: what is left after this request; reset_s: when it is as new (None: turns);
    wait_s: 0: the request may pass, else after how many seconds to try again."""

    rule: RateRule
    remaining: int
    reset_s: int | None
    wait_s: int


def judge(rule: RateRule, count: int, before: int, into: float) -> Verdict:
    """The verdict on one more request.

    count, before: in this window and the last one, which fades out linearly; into: seconds since this one began.
    """
    if rule.count == "turns":
        left = rule.limit - count
        return Verdict(rule, max(0, left - 1), None, 0 if left > 0 else TURN_RETRY_S)
    used = count + before * (1 - into / rule.window_s) if before else count
    reset_s = rule.window_s - int(into)
    if used >= rule.limit:
        return Verdict(rule, 0, reset_s, retry_after_s(rule.limit, rule.window_s, count, before, into))
    left = int(rule.limit - used - 1)  # -0.5, half a request, is none
    return Verdict(rule, left, reset_s, 0)


def retry_after_s(limit: int, window_s: int, count: int, before: int, into: float) -> int:
    """Seconds until one more request fits into the sliding window."""
    if count >= limit or before == 0:
        return max(1, math.ceil(window_s - into))
    fits_at = window_s * (1 - (limit - 1 - count) / before)
    return max(1, math.ceil(min(fits_at, window_s) - into))


class MemoryCounters:
    """Counts of this process. A request counts for all of its rules, or for none when one refuses."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str], list[int]] = {}  # [window number, count, count before]
        self._turns: dict[tuple[str, str], set[str]] = {}

    def hit_one(self, rule: RateRule, key: str, now: float) -> Verdict:
        """As `hit`, for a request that falls under one rule, which counts requests: the usual case."""
        entry, into = self._entry(rule, key, now)
        verdict = judge(rule, entry[1], entry[2], into)
        if not verdict.wait_s:
            entry[1] += 1
        return verdict

    def hit(self, asked: Sequence[Asked], now: float, member: str) -> list[Verdict]:
        """Judge a request, and count it when it may pass. member: the turn's id, unique over all instances."""
        verdicts = [self._look(each, now) for each in asked]
        if not any(verdict.wait_s for verdict in verdicts):
            for each in asked:
                if each.rule.count == "turns":
                    self.hold(each, member)
                else:
                    self._windows[(each.rule.name, each.key)][1] += 1
        return verdicts

    def hold(self, asked: Asked, member: str) -> None:
        """Count a turn that runs."""
        self._turns.setdefault((asked.rule.name, asked.key), set()).add(member)

    def release(self, asked: Asked, member: str) -> None:
        """Uncount a turn that has ended."""
        place = (asked.rule.name, asked.key)
        running = self._turns.get(place)
        if running is not None:
            running.discard(member)
            if not running:
                del self._turns[place]

    def _look(self, asked: Asked, now: float) -> Verdict:
        rule = asked.rule
        if rule.count == "turns":
            return judge(rule, len(self._turns.get((rule.name, asked.key), ())), 0, 0.0)
        entry, into = self._entry(rule, asked.key, now)
        return judge(rule, entry[1], entry[2], into)

    def _entry(self, rule: RateRule, key: str, now: float) -> tuple[list[int], float]:
        """The counts of a key, brought up to this window, and the seconds since it began."""
        place = (rule.name, key)
        number, into = divmod(now, rule.window_s)
        window = int(number)
        entry = self._windows.get(place)
        if entry is None:
            if len(self._windows) >= MAX_KEYS:
                self._make_room()
            entry = self._windows[place] = [window, 0, 0]
        elif entry[0] != window:
            entry[2] = entry[1] if entry[0] == window - 1 else 0
            entry[0], entry[1] = window, 0
            self._windows[place] = self._windows.pop(place)  # those not seen for long come first
        return entry, into

    def _make_room(self) -> None:
        """Forget the half that was silent for longest."""
        for place in list(self._windows)[: MAX_KEYS // 2]:
            del self._windows[place]


class RedisCounters:
    """The same counts, shared by all instances, in one call for all rules of a request.

    Windows go by the instances' clocks, which are the same to a fraction of a window; the leases of turns by Redis'.
    """

    # KEYS: two a rule: this and the last window's counter, or twice the set of turns.
    # ARGV: turn's id, seconds of its lease, then three a rule: limit, window in seconds (0: turns), seconds into it.
    HIT: Final = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local found, passes = {1}, true
for i = 1, #KEYS / 2 do
  local key, limit = KEYS[2 * i - 1], tonumber(ARGV[3 * i])
  local window, count, before = tonumber(ARGV[3 * i + 1]), 0, 0
  local used
  if window == 0 then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    count = redis.call('ZCARD', key)
    used = count
  else
    count = tonumber(redis.call('GET', key) or '0')
    before = tonumber(redis.call('GET', KEYS[2 * i]) or '0')
    used = count + before * (1 - tonumber(ARGV[3 * i + 2]) / window)
  end
  found[2 * i], found[2 * i + 1] = count, before
  if used >= limit then passes = false end
end
if not passes then
  found[1] = 0
  return found
end
for i = 1, #KEYS / 2 do
  local key, window = KEYS[2 * i - 1], tonumber(ARGV[3 * i + 1])
  if window == 0 then
    redis.call('ZADD', key, now + tonumber(ARGV[2]), ARGV[1])
    redis.call('EXPIRE', key, math.ceil(tonumber(ARGV[2])) * 2)
  else
    redis.call('INCR', key)
    redis.call('EXPIRE', key, window * 2)
  end
end
return found
"""
    # KEYS: a set of turns. ARGV: turn's id, seconds.
    RENEW: Final = """
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], tonumber(time[1]) + tonumber(time[2]) / 1000000 + tonumber(ARGV[2]), ARGV[1])
redis.call('EXPIRE', KEYS[1], math.ceil(tonumber(ARGV[2])) * 2)
"""

    def __init__(self, redis: Redis, turn_ttl_s: float = TURN_TTL_S) -> None:
        self._redis = redis
        self._ttl_s = turn_ttl_s
        self._hit = redis.register_script(self.HIT)
        self._renew = redis.register_script(self.RENEW)

    async def hit(self, asked: Sequence[Asked], now: float, member: str) -> list[Verdict]:
        """As MemoryCounters.hit. Raises RedisError."""
        keys: list[str] = []
        args: list[str | float] = [member, self._ttl_s]
        intos = []
        for each in asked:
            rule, name = each.rule, name_of(each)
            if rule.count == "turns":
                keys += (name, name)
                args += (rule.limit, 0, 0)
                intos.append(0.0)
            else:
                number, into = divmod(now, rule.window_s)
                keys += (f"{name}:{int(number)}", f"{name}:{int(number) - 1}")
                args += (rule.limit, rule.window_s, into)
                intos.append(into)
        found = [int(each) for each in await self._hit(keys=keys, args=args)]
        return [
            judge(each.rule, found[2 * at + 1], found[2 * at + 2], into)
            for at, (each, into) in enumerate(zip(asked, intos, strict=True))
        ]

    async def renew(self, held: Mapping[str, Sequence[Asked]]) -> None:
        """Prolong the leases of running turns, also those that Redis does not know. Raises RedisError."""
        for member, each_asked in held.items():
            for asked in each_asked:
                await self._renew(keys=[name_of(asked)], args=[member, self._ttl_s])

    async def release(self, asked: Asked, member: str) -> None:
        """Uncount a turn that has ended. Raises RedisError."""
        await self._redis.zrem(name_of(asked), member)


def name_of(asked: Asked) -> str:
    """The name of a count in Redis. What is in braces decides on the slot of a cluster."""
    return f"{PREFIX}:{{{asked.tag}}}:{asked.rule.name}:{asked.key}"
