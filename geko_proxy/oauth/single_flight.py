"""Many wait for one answer: a provider that is slow is asked once, not once for each person who signs in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """work: what is done; while it is under way, whoever asks gets its result or its error too."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._work = work
        self._task: asyncio.Task[T] | None = None

    async def run(self) -> T:
        """The result. A caller that is cancelled does not end the work for the others."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
            self._task.add_done_callback(mark_seen)
        return await asyncio.shield(self._task)


def mark_seen(task: asyncio.Task[Any]) -> None:
    """Take the error of a task that nobody may wait for any more, or asyncio writes it into the log."""
    if not task.cancelled():
        task.exception()
