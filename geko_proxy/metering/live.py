"""Live usage: one look a second at a workspace's windows, shared by all who listen to it in this process.

Turns begin, top up and settle on any instance; limit_windows and leases show them all.
A workspace that nobody listens to is not looked at.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Final, NamedTuple
from uuid import UUID

from geko_proxy.errors import Refused, StoreError
from geko_proxy.metering.limit_states import LimitStates, Look

log = logging.getLogger("geko.live")

LOOK_S: Final = 1.0
LOOK_TIMEOUT_S: Final = 5.0
SPEED_S: Final = 10.0  # leases tell what was consumed at top-ups and every 5 s: a shorter time would jump
MAX_LISTENERS: Final = 1000  # of one process
MAX_OF_USER: Final = 10


class Snapshot(NamedTuple):
    """What was seen. tokens_per_second: the mean of the last ten seconds; number: grows with each change."""

    look: Look
    tokens_per_second: float
    number: int


class Feed:
    """One workspace, as long as somebody listens. closed: GEKO is going away."""

    def __init__(self, states: LimitStates, tenant_id: UUID, workspace_id: UUID) -> None:
        self._states = states
        self._tenant_id = tenant_id
        self._workspace_id = workspace_id
        self._progress: deque[tuple[float, int]] = deque()
        self._ticked = asyncio.Event()
        self._first = asyncio.Lock()
        self._snapshot: Snapshot | None = None
        self.task: asyncio.Task[None] | None = None
        self.listeners = 0
        self.closed = False

    async def latest(self) -> Snapshot:
        """What was seen last; looks when nothing was yet. Raises StoreError."""
        async with self._first:
            return self._snapshot or await self._look()

    async def tick(self) -> None:
        """Wait until it has been looked once more, in vain perhaps."""
        await self._ticked.wait()

    def wake(self) -> None:
        """End all waiting."""
        self._ticked.set()
        self._ticked = asyncio.Event()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                async with asyncio.timeout(LOOK_TIMEOUT_S):
                    await self._look()
            except (StoreError, TimeoutError) as error:  # listeners keep what they have
                log.info("workspace %s: no look at its usage: %s", self._workspace_id, error)
            except Exception:
                log.exception("workspace %s: looking at its usage failed", self._workspace_id)
            self.wake()

    async def _look(self) -> Snapshot:
        look = await self._states.look(self._tenant_id, self._workspace_id)
        speed = self._speed(monotonic(), look)
        last = self._snapshot
        if last is None or (look, speed) != (last.look, last.tokens_per_second):
            self._snapshot = last = Snapshot(look, speed, last.number + 1 if last is not None else 0)
        return last

    def _speed(self, now: float, look: Look) -> float:
        used = sum(
            used for (limit_id, _, _), (used, _) in look.windows.items() if limit_id == self._workspace_id
        )
        self._progress.append((now, used + look.consumed))
        while now - self._progress[0][0] > SPEED_S:
            self._progress.popleft()
        (start, before), (end, after) = self._progress[0], self._progress[-1]
        return round(max(0, after - before) / (end - start), 1) if end > start else 0.0


class LiveUsage:
    """The feeds of this process."""

    def __init__(self, states: LimitStates, max_listeners: int = MAX_LISTENERS) -> None:
        self._states = states
        self._max_listeners = max_listeners
        self._feeds: dict[UUID, Feed] = {}
        self._of_user: Counter[UUID] = Counter()
        self._ended = False

    async def start(self) -> None:
        """Nothing is done before somebody listens."""

    async def stop(self) -> None:
        """End the feeds."""
        self.end_all()
        tasks = [feed.task for feed in self._feeds.values() if feed.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def end_all(self) -> None:
        """Let all who listen go, and nobody new in."""
        self._ended = True
        for feed in self._feeds.values():
            feed.closed = True
            feed.wake()

    @property
    def listeners(self) -> int:
        """How many listen."""
        return self._of_user.total()

    @asynccontextmanager
    async def follow(self, tenant_id: UUID, workspace_id: UUID, user_id: UUID) -> AsyncIterator[Feed]:
        """Listen to a workspace. Raises Refused 429 when too many do, 503 when GEKO is going away."""
        if self._ended:
            raise Refused(503, "going_away", "GEKO is being stopped.", retry_after_s=1)
        if self.listeners >= self._max_listeners or self._of_user[user_id] >= MAX_OF_USER:
            raise Refused(429, "too_many_listeners", "Too many streams of usage are open.", retry_after_s=30)
        feed = self._feeds.get(workspace_id)
        if feed is None:
            feed = self._feeds[workspace_id] = Feed(self._states, tenant_id, workspace_id)
            feed.task = asyncio.create_task(feed.run(), name=f"live usage of {workspace_id}")
        feed.listeners += 1
        self._of_user[user_id] += 1
        try:
            yield feed
        finally:
            self._leave(feed, workspace_id, user_id)
            if not feed.listeners and feed.task is not None:
                feed.task.cancel()

    def _leave(self, feed: Feed, workspace_id: UUID, user_id: UUID) -> None:
        feed.listeners -= 1
        self._of_user[user_id] -= 1
        if not self._of_user[user_id]:
            del self._of_user[user_id]
        if not feed.listeners and self._feeds.get(workspace_id) is feed:
            del self._feeds[workspace_id]
