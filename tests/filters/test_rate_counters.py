"""Sliding windows and running turns, in memory and over a real Redis: both decide alike."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from geko_proxy.filters import rate_counters
from geko_proxy.filters.rate_counters import Asked, MemoryCounters, RedisCounters
from geko_proxy.filters.rate_rules import RateRule
from tests.redis_server import RedisServer


def one(limit: int, window_s: int = 60, key: str = "a", name: str = "r") -> Asked:
    return Asked(RateRule(name, "ip", limit, window_s=window_s), key, key)


def turns(limit: int, key: str = "a") -> Asked:
    return Asked(RateRule("t", "user", limit, "turns"), key, "tenant")


def waits(counters: MemoryCounters, now: float, *asked: Asked) -> int:
    return max(verdict.wait_s for verdict in counters.hit(asked, now, "m"))


def test_a_window_lets_the_limit_pass_and_then_slides() -> None:
    counters, rule = MemoryCounters(), one(10)
    assert [waits(counters, 600.0 + i, rule) for i in range(10)] == [0] * 10
    assert waits(counters, 620.0, rule) == 40
    assert waits(counters, 620.0, one(10, key="b")) == 0
    assert waits(counters, 660.0, rule) > 0  # the last window still counts whole
    assert waits(counters, 661.0, rule) == 0  # and fades out
    wait = waits(counters, 661.0, rule)
    assert wait > 0
    assert waits(counters, 661.0 + wait, rule) == 0
    assert [waits(counters, 800.0 + i / 100, rule) for i in range(10)] == [0] * 10


def test_what_is_left_and_when_it_is_new() -> None:
    counters, rule = MemoryCounters(), one(3)
    seen = [counters.hit([rule], 615.0, "m")[0] for _ in range(4)]
    assert [(each.remaining, each.reset_s, each.wait_s) for each in seen] == [
        (2, 45, 0),
        (1, 45, 0),
        (0, 45, 0),
        (0, 45, 45),
    ]


@given(st.lists(st.floats(0, 20), min_size=1, max_size=200), st.integers(1, 20))
def test_never_more_than_the_limit_in_one_window(gaps: list[float], limit: int) -> None:
    counters, now, passed = MemoryCounters(), 0.0, []
    for gap in gaps:
        now += gap
        if waits(counters, now, one(limit)) == 0:
            passed.append(int(now // 60))
    assert all(passed.count(number) <= limit for number in set(passed))


def test_what_one_rule_refuses_counts_for_no_other() -> None:
    counters = MemoryCounters()
    wide, narrow = one(5, name="wide"), one(1, name="narrow")
    for _ in range(4):
        counters.hit([wide, narrow], 600.0, "m")
    (verdict,) = counters.hit([wide], 600.0, "m")
    assert verdict.remaining == 3


def test_turns_count_while_they_run() -> None:
    counters, rule = MemoryCounters(), turns(2)
    assert [counters.hit([rule], 0.0, name)[0].wait_s for name in "xyz"] == [0, 0, 5]
    counters.release(rule, "x")
    assert counters.hit([rule], 0.0, "z")[0].wait_s == 0
    assert counters.hit([turns(2, "other")], 0.0, "w")[0].remaining == 1
    for name in "xyzzw":
        counters.release(rule, name)
    assert counters.hit([rule], 0.0, "v")[0].remaining == 1


def test_memory_is_bounded_and_keeps_who_came_last() -> None:
    counters, most = MemoryCounters(), rate_counters.MAX_KEYS
    for number in range(most + 1):
        counters.hit([one(1, key=str(number))], 600.0, "m")
    assert len(counters._windows) <= most
    assert waits(counters, 600.0, one(1, key=str(most))) > 0


@settings(max_examples=60, deadline=None)
@given(
    gaps=st.lists(st.tuples(st.floats(0, 20), st.booleans()), min_size=1, max_size=15),
    limits=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
)
def test_redis_decides_as_memory_does(
    redis_process: RedisServer, gaps: list[tuple[float, bool]], limits: tuple[int, int, int]
) -> None:
    async def compare() -> None:
        async with Redis.from_url(redis_process.url) as redis:
            await redis.flushall()
            shared, memory, now = RedisCounters(redis), MemoryCounters(), 6000.0
            asked = [one(limits[0]), one(limits[1], 7, name="short"), turns(limits[2])]
            for number, (gap, ends) in enumerate(gaps):
                now += gap
                found = await shared.hit(asked, now, str(number))
                assert found == memory.hit(asked, now, str(number))
                if ends:
                    memory.release(asked[2], str(number))
                    await shared.release(asked[2], str(number))

    asyncio.run(compare())


async def test_of_many_at_once_exactly_the_limit_passes(redis: Redis) -> None:
    one_instance, another = RedisCounters(redis), RedisCounters(redis)
    asked = [one(17), turns(9)]
    found = await asyncio.gather(
        *((one_instance, another)[n % 2].hit(asked, 600.0, str(n)) for n in range(60))
    )
    assert sum(not any(verdict.wait_s for verdict in each) for each in found) == 9
    assert (await one_instance.hit([asked[0]], 600.0, "m"))[0].remaining == 17 - 9 - 1


async def test_one_call_for_all_rules(redis: Redis) -> None:
    shared = RedisCounters(redis)
    asked = [one(5), one(6, name="b"), turns(3)]
    await shared.hit(asked, 600.0, "warm")
    before = (await redis.info("commandstats")).get("cmdstat_evalsha", {}).get("calls", 0)
    await shared.hit(asked, 600.0, "m")
    stats = await redis.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] == before + 1


async def test_a_turn_of_a_vanished_instance_ends_with_its_lease(redis: Redis) -> None:
    dying, alive = RedisCounters(redis, turn_ttl_s=0.2), RedisCounters(redis)
    rule = turns(1)
    assert (await dying.hit([rule], 0.0, "lost"))[0].wait_s == 0
    assert (await alive.hit([rule], 0.0, "next"))[0].wait_s > 0
    await asyncio.sleep(0.25)
    assert (await alive.hit([rule], 0.0, "next"))[0].wait_s == 0


async def test_a_renewed_turn_goes_on_also_where_redis_forgot_it(redis: Redis) -> None:
    short, rule = RedisCounters(redis, turn_ttl_s=0.4), turns(1)
    await short.hit([rule], 0.0, "runs")
    for _ in range(3):
        await asyncio.sleep(0.2)
        await short.renew({"runs": [rule]})
    assert (await short.hit([rule], 0.0, "next"))[0].wait_s > 0
    await redis.flushall()
    await short.renew({"runs": [rule]})
    assert (await short.hit([rule], 0.0, "next"))[0].wait_s > 0


async def test_nothing_stays_in_redis_for_ever(redis: Redis) -> None:
    await RedisCounters(redis).hit([one(5), turns(3)], 600.0, "m")
    names = [name async for name in redis.scan_iter("*")]
    assert len(names) == 2
    assert all([await redis.ttl(name) > 0 for name in names])


async def test_the_keys_of_a_request_share_one_slot_of_a_cluster(redis: Redis) -> None:
    asked = [Asked(RateRule(name, "user", 5), name, "tenant-1") for name in "abc"]
    await RedisCounters(redis).hit([*asked, turns(2)._replace(tag="tenant-1")], 600.0, "m")
    tags = {bytes(name).split(b"{")[1].split(b"}")[0] for name in [n async for n in redis.scan_iter("*")]}
    assert tags == {b"tenant-1"}
