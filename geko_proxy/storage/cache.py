"""A bounded cache of database rows that a write on any instance empties at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Generic, TypeVar

from geko_proxy.storage.invalidation import EVERYTHING, Invalidation

V = TypeVar("V")


class Cache(Generic[V]):
    """Values by a text key, each kept for at most ttl_s seconds.

    invalidation: where changes are heard; None when there is only this process. While its connection is down
    nothing is taken from the cache, because a change could be missed.
    """

    def __init__(
        self, topic: str, *, ttl_s: float, max_entries: int = 10_000, invalidation: Invalidation | None
    ) -> None:
        # a plain dict: cachetools' TTLCache takes 4 µs a look, and each request looks four times
        self._values: dict[str, tuple[float, V]] = {}
        self._ttl_s = ttl_s
        self._max_entries = max_entries
        self._invalidation = invalidation
        self._generation = 0
        if invalidation is not None:
            invalidation.subscribe(topic, self.drop)

    @property
    def generation(self) -> int | None:
        """Grows with each drop; None while changes can't be heard."""
        if self._invalidation is not None and not self._invalidation.connected:
            return None
        return self._generation

    async def get(self, key: str, load: Callable[[], Awaitable[V]]) -> V:
        """The cached value, else what `load` returns, which is then kept."""
        if self._invalidation is not None and not self._invalidation.connected:
            return await load()
        entry = self._values.get(key)
        if entry is not None and entry[0] > monotonic():
            return entry[1]
        generation = self._generation
        loaded = await load()
        # A change that was announced while we were reading may be newer than what we read.
        if generation == self._generation:
            self._keep(key, loaded)
        return loaded

    def _keep(self, key: str, value: V) -> None:
        self._values.pop(key, None)
        while len(self._values) >= self._max_entries:
            del self._values[next(iter(self._values))]  # the oldest: a dict keeps the order of insertion
        self._values[key] = (monotonic() + self._ttl_s, value)

    def drop(self, key: str) -> None:
        """Forgets one key; all that begin with "a/b/" for "a/b/*"; everything for "*"."""
        self._generation += 1
        if key == EVERYTHING:
            self._values.clear()
        elif key.endswith(EVERYTHING):
            for cached in [k for k in self._values if k.startswith(key[:-1])]:
                self._values.pop(cached, None)
        else:
            self._values.pop(key, None)
