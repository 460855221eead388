"""Work on the ledger that is not given up in its middle when the client leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class Sheltered:
    """Runs work to its end, whatever becomes of the request that waits for it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(
        self, work: Coroutine[Any, Any, T], undo: Callable[[T], Awaitable[None]] | None = None
    ) -> T:
        """Do the work; undo: takes what it gave when nobody waits for that any more."""
        task = self._start(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if undo is not None:
                self._start(_undo(task, undo))
            raise

    async def drain(self) -> None:
        """Wait until all is done."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _undo(task: asyncio.Task[T], undo: Callable[[T], Awaitable[None]]) -> None:
    try:
        await undo(await task)
    except Exception as error:  # noqa: BLE001  # nobody waits: a lease that stays is taken over when it expires
        log.warning("not undone: %s", error)
