"""Work that goes on after a reply has left: bounded, and waited for when GEKO stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger("geko.background")


class Background:
    """Runs tasks that nobody waits for.

    at_once: tasks that run at the same time; at_most: running and waiting ones, beyond which new ones are not taken.
    """

    def __init__(self, *, at_once: int = 4, at_most: int = 1000) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._at_most = at_most
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    def submit(self, name: str, work: Callable[[], Awaitable[object]]) -> bool:
        """Start some work soon; False, with a line in the log, when there is too much of it."""
        if self._stopped or len(self._tasks) >= self._at_most:
            log.warning("%s: dropped, %d tasks are waiting", name, len(self._tasks))
            return False
        task = asyncio.create_task(self._run(name, work), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def stop(self, timeout_s: float) -> None:
        """Take nothing more; wait for what is there, then give up the rest."""
        self._stopped = True
        if not self._tasks:
            return
        _, late = await asyncio.wait(set(self._tasks), timeout=timeout_s)
        for task in late:
            log.warning("%s: given up at the stop", task.get_name())
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def idle(self) -> None:
        """Wait until nothing is left to do."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _run(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        async with self._free:
            try:
                await work()
            except Exception:
                log.exception("%s failed", name)
