"""What a request found out a moment ago, for the next one like it: a look that costs one dictionary access."""

from __future__ import annotations

from collections.abc import Hashable
from time import monotonic
from typing import Generic, Protocol, TypeVar

V = TypeVar("V")

MAX_ENTRIES = 50_000


class Source(Protocol):
    """A store whose answers can be trusted as long as its generation stays the same."""

    @property
    def generation(self) -> int | None:
        """A number that changes with each change anywhere; None while changes can't be heard."""


class Recent(Generic[V]):
    """Values that hold for ttl_s seconds, and only while none of the sources has changed at all."""

    def __init__(self, *sources: Source, ttl_s: float = 5.0) -> None:
        self._sources = sources
        self._ttl_s = ttl_s
        self._values: dict[Hashable, tuple[int, float, V]] = {}

    def stamp(self) -> int | None:
        """The state of the sources; take it before asking them, and give it to `put`."""
        total = 0
        for source in self._sources:
            generation = source.generation
            if generation is None:
                return None
            total += generation  # each only grows, so equal sums mean that none has changed
        return total

    def get(self, key: Hashable) -> V | None:
        """The value, if it still holds."""
        entry = self._values.get(key)
        if entry is None or entry[1] < monotonic() or entry[0] != self.stamp():
            return None
        return entry[2]

    def put(self, key: Hashable, value: V, stamp: int | None) -> None:
        """Remember a value that was found out after `stamp` was taken."""
        if stamp is None:
            return
        if len(self._values) >= MAX_ENTRIES:
            self._values.clear()
        self._values[key] = (stamp, monotonic() + self._ttl_s, value)

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()
