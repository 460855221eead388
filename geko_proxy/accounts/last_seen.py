"""When each session was last used, written together and seldom: no request waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from time import monotonic
from typing import Final
from uuid import UUID

import asyncpg
from cachetools import LRUCache

from geko_proxy.errors import StoreError
from geko_proxy.storage.database import Database

log = logging.getLogger("geko.sessions")

TOUCH: Final = "select touch_sessions($1, $2, $3, $4)"
FLUSH_S: Final = 10.0
EVERY_S: Final = 60.0  # at most once in this time for one session
MAX_SESSIONS: Final = 50_000

Key = tuple[UUID, UUID]


class LastSeen:
    """Notes uses in memory and writes them in one statement. clock: a monotonic time in seconds."""

    def __init__(self, database: Database, clock: Callable[[], float] = monotonic) -> None:
        self._database = database
        self._clock = clock
        self._noted: dict[Key, tuple[float, str]] = {}
        self._written: LRUCache[Key, float] = LRUCache(MAX_SESSIONS)
        self._task: asyncio.Task[None] | None = None

    def note(self, tenant_id: UUID, session_id: UUID, ip: str) -> None:
        """A session was used just now."""
        if len(self._noted) < MAX_SESSIONS:
            self._noted[tenant_id, session_id] = (self._clock(), ip)

    async def start(self) -> None:
        """Write every FLUSH_S."""
        self._task = asyncio.create_task(self._keep_writing(), name="sessions' last use")

    async def stop(self) -> None:
        """Write what is left."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        await self._flush_quietly(everything=True)

    async def flush(self, *, everything: bool = False) -> None:
        """Write the uses of sessions whose last was written long enough ago, or all. Raises StoreError."""
        now = self._clock()
        due = [key for key in self._noted if everything or now - self._written.get(key, -EVERY_S) >= EVERY_S]
        if not due:
            return
        noted = [self._noted.pop(key) for key in due]
        for key in due:
            self._written[key] = now
        await self._database.call(
            TOUCH,
            [tenant_id for tenant_id, _ in due],
            [session_id for _, session_id in due],
            [now - at for at, _ in noted],
            [ip or None for _, ip in noted],
        )

    async def _keep_writing(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            await self._flush_quietly()

    async def _flush_quietly(self, *, everything: bool = False) -> None:
        try:
            await self.flush(everything=everything)
        except (StoreError, asyncpg.PostgresError) as error:  # the next use is noted again
            log.warning("when sessions were last used is not written: %s", error)
