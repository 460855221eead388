"""The sliding window, in memory and over a real Redis."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from redis.asyncio import Redis

from geko_proxy.exchange import Exchange, Request, Route
from geko_proxy.filters.base import Refused
from geko_proxy.filters.rate_limit import MemoryWindow, RateLimitFilter, RateLimitOptions, RedisWindow
from geko_proxy.services import Services


def make_exchange(address: str, at: float, route: Route = Route.API) -> Exchange:
    request = Request("GET", "/", "", CIMultiDictProxy(CIMultiDict()), client_ip=address)
    return Exchange("x", request, route, "test", {}, at)


def make_filter(limit: int, redis: Redis | None = None) -> RateLimitFilter:
    services = cast(Services, SimpleNamespace(redis=redis))
    return RateLimitFilter(RateLimitOptions(limit=limit), services)


def test_a_window_lets_the_limit_pass_and_then_slides() -> None:
    window = MemoryWindow(10, 60)
    assert [window.hit("a", 600.0 + i) for i in range(10)] == [0] * 10
    assert window.hit("a", 620.0) == 40
    assert window.hit("b", 620.0) == 0
    assert window.hit("a", 660.0) > 0  # the last window still counts whole
    assert window.hit("a", 661.0) == 0  # and fades out
    wait = window.hit("a", 661.0)
    assert wait > 0
    assert window.hit("a", 661.0 + wait) == 0
    assert [window.hit("a", 800.0 + i / 100) for i in range(10)] == [0] * 10


@given(st.lists(st.floats(0, 20), min_size=1, max_size=200), st.integers(1, 20))
def test_never_more_than_the_limit_in_one_window(gaps: list[float], limit: int) -> None:
    window, now, passed = MemoryWindow(limit, 60), 0.0, []
    for gap in gaps:
        now += gap
        if window.hit("a", now) == 0:
            passed.append(int(now // 60))
    assert all(passed.count(number) <= limit for number in set(passed))


async def test_the_filter_refuses_with_a_time_to_wait() -> None:
    limiter = make_filter(2)
    for _ in range(2):
        assert await limiter.on_request(make_exchange("10.0.0.1", 600.0)) is None
    with pytest.raises(Refused) as caught:
        await limiter.on_request(make_exchange("10.0.0.1", 600.0))
    assert (caught.value.status, caught.value.retry_after_s) == (429, 60)
    assert await limiter.on_request(make_exchange("10.0.0.2", 600.0)) is None


async def test_what_an_endpoint_starts_itself_does_not_count_again() -> None:
    limiter = make_filter(1)
    parent, child = make_exchange("a", 600.0, Route.OWN), make_exchange("a", 600.0, Route.CHAT)
    child.parent = parent
    await limiter.on_request(parent)
    await limiter.on_request(child)


@pytest.mark.parametrize("options", [{"limit": 0}, {"window_s": -1}, {"limit": True}, {"limit": "5"}])
def test_bad_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        RateLimitOptions(**options)


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of this test's own."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    assert program, "redis-server is needed: apt install redis-server (.ci/run does)"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with (Path(folder) / "log").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    connected = Redis.from_url(redis_url)
    await connected.flushall()
    yield connected
    await connected.aclose()


@given(gaps=st.lists(st.floats(0, 20), min_size=1, max_size=15), limit=st.integers(1, 5))
def test_redis_decides_as_memory_does(redis_url: str, gaps: list[float], limit: int) -> None:
    import asyncio

    async def compare() -> None:
        async with Redis.from_url(redis_url) as redis:
            await redis.flushall()
            shared, memory, now = RedisWindow(redis, limit, 60), MemoryWindow(limit, 60), 6000.0
            for gap in gaps:
                now += gap
                assert await shared.hit("a", now) == memory.hit("a", now)

    asyncio.run(compare())


async def test_two_instances_share_one_limit(redis: Redis) -> None:
    one, two = make_filter(3, redis), make_filter(3, redis)
    for limiter in (one, two, one):
        assert await limiter.on_request(make_exchange("a", 600.0)) is None
    for limiter in (one, two):
        with pytest.raises(Refused):
            await limiter.on_request(make_exchange("a", 601.0))


async def test_without_redis_each_process_limits_on_its_own() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    limiter = make_filter(1, Redis.from_url(f"redis://127.0.0.1:{port}"))
    now = time.time()
    assert await limiter.on_request(make_exchange("a", now)) is None
    with pytest.raises(Refused):
        await limiter.on_request(make_exchange("a", now))
