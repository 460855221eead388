"""A bounded cache of database rows that a write on any instance empties at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from cachetools import TTLCache

from geko_proxy.storage.invalidation import EVERYTHING, Invalidation

V = TypeVar("V")

MISSING: Final = object()


class Cache(Generic[V]):
    """Values by a text key, each kept for at most ttl_s seconds.

    invalidation: where changes are heard; None when there is only this process. While its connection is down
    nothing is taken from the cache, because a change could be missed.
    """

    def __init__(
        self, topic: str, *, ttl_s: float, max_entries: int = 10_000, invalidation: Invalidation | None
    ) -> None:
        self._values: TTLCache[str, V] = TTLCache(max_entries, ttl_s)
        self._invalidation = invalidation
        self._generation = 0
        if invalidation is not None:
            invalidation.subscribe(topic, self.drop)

    async def get(self, key: str, load: Callable[[], Awaitable[V]]) -> V:
        """The cached value, else what `load` returns, which is then kept."""
        if self._invalidation is not None and not self._invalidation.connected:
            return await load()
        value = self._values.get(key, MISSING)
        if value is not MISSING:
            return value  # type: ignore[return-value]  # MISSING is excluded above
        generation = self._generation
        loaded = await load()
        # A change that was announced while we were reading may be newer than what we read.
        if generation == self._generation:
            self._values[key] = loaded
        return loaded

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
