"""The cache: what is kept, what is dropped, and what must never be kept."""

from __future__ import annotations

import asyncio

import pytest

from geko_proxy.storage.cache import Cache
from geko_proxy.storage.invalidation import Invalidation


class Source:
    """Counts how often each value was loaded."""

    def __init__(self) -> None:
        self.loads = 0

    async def load(self) -> int:
        self.loads += 1
        return self.loads


@pytest.mark.parametrize(
    ("dropped", "second"), [("a/b", 2), ("a/*", 2), ("*", 2), ("a", 1), ("a/c", 1), ("b/*", 1)]
)
async def test_drops_what_the_key_names(dropped: str, second: int) -> None:
    cache: Cache[int] = Cache("t", ttl_s=60, invalidation=None)
    source = Source()
    assert await cache.get("a/b", source.load) == 1
    cache.drop(dropped)
    assert await cache.get("a/b", source.load) == second


async def test_none_is_a_value() -> None:
    cache: Cache[None] = Cache("t", ttl_s=60, invalidation=None)
    loads = 0

    async def load() -> None:
        nonlocal loads
        loads += 1

    await cache.get("k", load)
    await cache.get("k", load)
    assert loads == 1


async def test_a_value_read_before_a_change_is_not_kept() -> None:
    cache: Cache[str] = Cache("t", ttl_s=60, invalidation=None)
    reading, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        reading.set()
        await go_on.wait()
        return "old"

    async def fast() -> str:
        return "new"

    task = asyncio.create_task(cache.get("k", slow))
    await reading.wait()
    cache.drop("k")
    go_on.set()
    assert await task == "old"
    assert await cache.get("k", fast) == "new"


async def test_is_bypassed_while_changes_cannot_be_heard(dsn: str) -> None:
    invalidation = Invalidation(dsn)
    cache: Cache[int] = Cache("t", ttl_s=60, invalidation=invalidation)
    source = Source()
    assert [await cache.get("k", source.load) for _ in range(2)] == [1, 2]
    await invalidation.start()
    assert [await cache.get("k", source.load) for _ in range(2)] == [3, 3]
    await invalidation.stop()
    assert await cache.get("k", source.load) == 4


async def test_keeps_for_its_time_and_no_more_than_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("geko_proxy.storage.cache.monotonic", lambda: now)
    cache: Cache[int] = Cache("t", ttl_s=60, max_entries=3, invalidation=None)
    loaded: list[str] = []

    async def value_of(key: str) -> int:
        async def load() -> int:
            loaded.append(key)
            return len(loaded)

        return await cache.get(key, load)

    assert [await value_of("a"), await value_of("a")] == [1, 1]
    now = 160.0
    assert await value_of("a") == 2
    for key in "bcd":
        await value_of(key)
    assert await value_of("a") == 6  # the oldest made room
    assert loaded == ["a", "a", "b", "c", "d", "a"]
