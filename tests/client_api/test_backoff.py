"""The state machine of waiting times: what always holds, and that Redis decides as this process does."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from geko_proxy.client_api.backoff import (
    Backoff,
    MemoryBackoff,
    RedisBackoff,
    Rule,
    State,
    count,
    leaked,
    succeed,
)

rules = st.builds(
    Rule,
    free=st.integers(1, 6),
    base_s=st.sampled_from([0.5, 1.0, 30.0]),
    cap_s=st.sampled_from([1.0, 60.0, 900.0]),
    leak_s=st.sampled_from([1.0, 60.0, 600.0]),
)
gaps = st.floats(0, 2000, allow_nan=False)
times = st.floats(0, 1e9, allow_nan=False)
states = st.builds(State, st.floats(0, 1e6), times, times, st.booleans())


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def run(rule: Rule, steps: list[float]) -> tuple[list[float], float]:
    """Attempts after such gaps: the waits that were answered, and the time that went by."""
    clock = Clock()
    backoff = MemoryBackoff(clock)

    async def go() -> list[float]:
        waits = []
        for gap in steps:
            clock.now += gap
            waits.append((await backoff.attempt([("k", rule)])).wait_s)
        return waits

    return asyncio.run(go()), clock.now - Clock.now


@given(rule=rules, steps=st.lists(gaps, max_size=60))
def test_how_many_attempts_pass_is_bounded_and_nobody_waits_longer_than_the_cap(
    rule: Rule, steps: list[float]
) -> None:
    waits, elapsed = run(rule, steps)
    assert all(wait <= rule.cap_s + 1e-6 for wait in waits)
    passed = sum(wait == 0 for wait in waits)
    shortest = min(rule.cap_s, rule.base_s)
    assert passed <= rule.free + elapsed / rule.leak_s + 1 + elapsed / shortest
    # the bound that matters for a guesser: what leaks, plus what the doubling allows on its way to the cap
    on_the_way = rule.free + 12
    assert passed <= on_the_way + elapsed / min(rule.leak_s, rule.cap_s) + 1


@given(rule=rules)
def test_waits_double_up_to_the_cap(rule: Rule) -> None:
    state, waits = State(), []
    for _ in range(rule.free + 12):
        state = count(state, rule, 1000.0)
        waits.append(state.until - 1000.0 if state.until else 0.0)
    assert waits[: rule.free - 1] == [0.0] * (rule.free - 1)
    slow = waits[rule.free - 1 :]
    expected = [min(rule.cap_s, rule.base_s * 2**n) for n in range(len(slow))]
    assert all(abs(wait - wanted) < 1e-6 for wait, wanted in zip(slow, expected, strict=True))


@given(state=states, rule=rules, now=times)
def test_a_success_takes_its_attempt_back(state: State, rule: Rule, now: float) -> None:
    before = leaked(state, rule, now)
    after = succeed(count(state, rule, now), rule, now)
    assert abs(after.failures - before) < 1e-6 * max(1.0, before)
    assert after.until <= max(now + rule.wait_after(before), now)
    assert rule.wait_after(before) > 0 or after.until == 0


@given(rule=rules, waited=st.floats(0, 1e5))
def test_everything_is_forgotten_in_time(rule: Rule, waited: float) -> None:
    state = State()
    for _ in range(30):
        state = count(state, rule, 0.0)
    assert leaked(state, rule, waited) <= leaked(state, rule, 0.0)
    assert leaked(state, rule, 30 * rule.leak_s) == 0


@given(
    steps=st.lists(
        st.tuples(st.floats(0, 300), st.sets(st.sampled_from("abc"), min_size=1), st.sampled_from("ads")),
        min_size=1,
        max_size=25,
    ),
    first=rules,
    second=rules,
)
def test_redis_decides_as_memory_does(
    redis_server: str, steps: list[tuple[float, set[str], str]], first: Rule, second: Rule
) -> None:
    async def compare() -> None:
        clock = Clock()
        async with Redis.from_url(redis_server) as redis:
            await redis.flushall()
            shared, memory = RedisBackoff(redis, clock), MemoryBackoff(clock)
            for gap, chosen, what in steps:
                clock.now += gap
                keys = [(key, first if key == "a" else second) for key in sorted(chosen)]
                if what == "a":
                    one, other = await shared.attempt(keys), await memory.attempt(keys)
                    assert abs(one.wait_s - other.wait_s) < 1e-3
                    assert one[1:] == other[1:]
                else:
                    forget = [keys[0][0]] if what == "d" else []
                    await shared.succeeded(keys, forget)
                    await memory.succeeded(keys, forget)

    asyncio.run(compare())


async def test_many_at_once_over_redis_are_exact(redis_server: str) -> None:
    async with Redis.from_url(redis_server) as redis:
        await redis.flushall()
        rule = Rule(free=5, base_s=60, cap_s=900, leak_s=600)
        instances = [Backoff(redis) for _ in range(3)]
        verdicts = await asyncio.gather(*(instances[n % 3].attempt([("k", rule)]) for n in range(30)))
        assert sum(verdict.wait_s == 0 for verdict in verdicts) == 5
        assert sum(verdict.begins for verdict in verdicts) == 1
        assert 0 < await redis.pttl("geko:{backoff}:k") <= 6 * 600 * 1000


async def test_without_redis_each_process_goes_on_counting() -> None:
    rule = Rule(free=2, base_s=60, cap_s=900, leak_s=600)
    async with Redis.from_url("redis://127.0.0.1:1", socket_timeout=0.2) as nobody:
        backoff = Backoff(nobody)
        waits = [(await backoff.attempt([("k", rule)])).wait_s for _ in range(4)]
    assert waits[:2] == [0, 0]
    assert all(59 < wait <= 60 for wait in waits[2:])


async def test_the_longest_unused_states_are_forgotten_first() -> None:
    clock = Clock()
    backoff = MemoryBackoff(clock, max_keys=3)
    rule = Rule(free=1, base_s=60, cap_s=60, leak_s=60)
    for key in "abcd":
        await backoff.attempt([(key, rule)])
    assert (await backoff.attempt([("d", rule)])).wait_s == 60
    assert (await backoff.attempt([("a", rule)])).wait_s == 0
