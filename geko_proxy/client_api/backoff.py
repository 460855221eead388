"""Waiting times that double with each failure: the state machine (pure), in this process, and shared over Redis."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from redis.exceptions import RedisError

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger("geko.backoff")

MAX_KEYS: Final = 200_000
MAX_DOUBLINGS: Final = 40
REDIS_RETRY_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Rule:
    """How one kind of key is slowed down.

    free: attempts without any wait. After that each attempt is followed by a wait: base_s, then twice as long each
    time, at most cap_s. leak_s: time in which one failure is forgotten, and so the pace that can be kept up for ever.
    """

    free: int
    base_s: float
    cap_s: float
    leak_s: float

    def wait_after(self, failures: float) -> float:
        """The wait that follows so many failures, in seconds. They are no whole number: a part was forgotten."""
        over = failures - self.free
        if over < -0.5:
            return 0.0
        doubled: float = 2.0 ** min(max(over, 0.0), MAX_DOUBLINGS)
        return min(self.cap_s, self.base_s * doubled)


@dataclass(frozen=True, slots=True)
class State:
    """What is remembered of a key. failures: as of `seen`; until: no attempt before; told: a refusal was reported."""

    failures: float = 0.0
    until: float = 0.0
    seen: float = 0.0
    told: bool = False


class Verdict(NamedTuple):
    """wait_s: 0 when the attempt may be made. begins: the first refusal of a burst. key: number of the one refusing."""

    wait_s: float = 0.0
    begins: bool = False
    key: int = -1


def leaked(state: State, rule: Rule, now: float) -> float:
    """The failures that are not forgotten by now."""
    return max(0.0, state.failures - max(0.0, now - state.seen) / rule.leak_s)


def count(state: State, rule: Rule, now: float) -> State:
    """The state after an attempt that is allowed. It counts as failed until `succeed` takes that back."""
    failures = leaked(state, rule, now) + 1
    wait = rule.wait_after(failures)
    return State(failures, now + wait if wait else 0.0, now, state.told and wait > 0)


def succeed(state: State, rule: Rule, now: float) -> State:
    """The state after an attempt turned out to be right: as if it had not been made."""
    failures = max(0.0, leaked(state, rule, now) - 1)
    wait = rule.wait_after(failures)
    return State(failures, min(state.until, now + wait) if wait else 0.0, now, state.told and wait > 0)


class MemoryBackoff:
    """The states of this process, the longest unused forgotten first. clock: seconds."""

    def __init__(self, clock: Callable[[], float] = time.time, max_keys: int = MAX_KEYS) -> None:
        self._clock = clock
        self._max_keys = max_keys
        self._states: OrderedDict[str, State] = OrderedDict()

    async def attempt(self, keys: Sequence[tuple[str, Rule]]) -> Verdict:
        """Count an attempt for all keys, or for none when one of them must wait."""
        now = self._clock()
        waiting = max((self._state(key).until - now, -number) for number, (key, _) in enumerate(keys))
        if waiting[0] > 0:
            number = -waiting[1]
            state = self._state(keys[number][0])
            self._put(keys[number][0], replace(state, told=True))
            return Verdict(waiting[0], not state.told, number)
        for key, rule in keys:
            self._put(key, count(self._state(key), rule, now))
        return Verdict()

    async def succeeded(self, keys: Sequence[tuple[str, Rule]], forget: Sequence[str] = ()) -> None:
        """Take an attempt back. forget: keys of which everything is forgotten."""
        now = self._clock()
        for key, rule in keys:
            if key in forget:
                self._states.pop(key, None)
            elif key in self._states:
                self._put(key, succeed(self._states[key], rule, now))

    def _state(self, key: str) -> State:
        return self._states.get(key, State())

    def _put(self, key: str, state: State) -> None:
        self._states[key] = state
        self._states.move_to_end(key)
        while len(self._states) > self._max_keys:
            self._states.popitem(last=False)


class RedisBackoff:
    """The same states shared by all instances: one Lua call each. Time is Redis' own unless `clock` is given.

    All keys have one hash tag, so that a cluster keeps them together.
    """

    COMMON = """
local now = tonumber(ARGV[2])
if not now then
  local t = redis.call('TIME')
  now = tonumber(t[1]) + tonumber(t[2]) / 1e6
end
local function rule(i)
  local at = 2 + (i - 1) * 4
  return tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
end
local function wait_after(i, failures)
  local free, base, cap = rule(i)
  local over = failures - free
  if over < -0.5 then return 0 end
  return math.min(cap, base * 2 ^ math.min(math.max(over, 0), 40))
end
local function read(i)
  local v = redis.call('HMGET', KEYS[i], 'f', 'u', 's', 't')
  return tonumber(v[1] or '0'), tonumber(v[2] or '0'), tonumber(v[3] or '0'), v[4] == '1'
end
local function leaked(i, failures, seen)
  local _, _, _, leak = rule(i)
  return math.max(0, failures - math.max(0, now - seen) / leak)
end
local function write(i, failures, till, told)
  local _, _, _, leak = rule(i)
  local n = function(x) return string.format('%.17g', x) end
  redis.call('HSET', KEYS[i], 'f', n(failures), 'u', n(till), 's', n(now), 't', told and '1' or '0')
  redis.call('PEXPIRE', KEYS[i], math.ceil(1000 * (math.max(failures * leak, till - now) + 1)))
end
"""
    ATTEMPT = """
local longest, at = 0, 0
for i = 1, #KEYS do
  local _, till = read(i)
  if till - now > longest then longest, at = till - now, i end
end
if at > 0 then
  local _, _, _, told = read(at)
  redis.call('HSET', KEYS[at], 't', '1')
  return {string.format('%.17g', longest), told and 0 or 1, at - 1}
end
for i = 1, #KEYS do
  local failures, _, seen, told = read(i)
  failures = leaked(i, failures, seen) + 1
  local wait = wait_after(i, failures)
  write(i, failures, wait > 0 and now + wait or 0, told and wait > 0)
end
return {'0', 0, -1}
"""
    SUCCEED = """
for i = 1, #KEYS do
  if string.sub(ARGV[1], i, i) == '1' then
    redis.call('DEL', KEYS[i])
  elseif redis.call('EXISTS', KEYS[i]) == 1 then
    local failures, till, seen, told = read(i)
    failures = math.max(0, leaked(i, failures, seen) - 1)
    local wait = wait_after(i, failures)
    write(i, failures, wait > 0 and math.min(till, now + wait) or 0, told and wait > 0)
  end
end
return 0
"""

    def __init__(self, redis: Redis, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._attempt = redis.register_script(self.COMMON + self.ATTEMPT)
        self._succeed = redis.register_script(self.COMMON + self.SUCCEED)

    async def attempt(self, keys: Sequence[tuple[str, Rule]]) -> Verdict:
        """As MemoryBackoff.attempt. Raises RedisError."""
        wait, begins, number = await self._attempt(keys=names(keys), args=self._arguments("", keys))
        return Verdict(float(wait), bool(begins), int(number))

    async def succeeded(self, keys: Sequence[tuple[str, Rule]], forget: Sequence[str] = ()) -> None:
        """As MemoryBackoff.succeeded. Raises RedisError."""
        forgotten = "".join("1" if key in forget else "0" for key, _ in keys)
        await self._succeed(keys=names(keys), args=self._arguments(forgotten, keys))

    def _arguments(self, first: str, keys: Sequence[tuple[str, Rule]]) -> list[str | int | float]:
        now = repr(self._clock()) if self._clock is not None else ""
        numbers = [number for _, rule in keys for number in (rule.free, rule.base_s, rule.cap_s, rule.leak_s)]
        return [first, now, *numbers]


class Backoff:
    """Over Redis when there is one, else in this process; also while Redis is down (design §7)."""

    def __init__(self, redis: Redis | None, clock: Callable[[], float] = time.time) -> None:
        self._memory = MemoryBackoff(clock)
        self._shared = RedisBackoff(redis) if redis is not None else None
        self._redis_down_until = 0.0

    async def attempt(self, keys: Sequence[tuple[str, Rule]]) -> Verdict:
        """Count an attempt for all keys, or for none when one of them must wait."""
        if self._shared is not None and time.monotonic() >= self._redis_down_until:
            try:
                return await self._shared.attempt(keys)
            except (RedisError, OSError) as error:
                self._lost(error)
        return await self._memory.attempt(keys)

    async def succeeded(self, keys: Sequence[tuple[str, Rule]], forget: Sequence[str] = ()) -> None:
        """Take an attempt back. forget: keys of which everything is forgotten."""
        await self._memory.succeeded(keys, forget)
        if self._shared is not None and time.monotonic() >= self._redis_down_until:
            try:
                await self._shared.succeeded(keys, forget)
            except (RedisError, OSError) as error:
                self._lost(error)

    def _lost(self, error: Exception) -> None:
        self._redis_down_until = time.monotonic() + REDIS_RETRY_S
        log.warning("Redis failed (%s): counting sign-ins in this process", error)


def names(keys: Sequence[tuple[str, Rule]]) -> list[str]:
    """The keys in Redis."""
    return [f"geko:{{backoff}}:{key}" for key, _ in keys]
