"""The turns that this process owns, by workspace and stream id."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from geko_proxy.turn import Turn

LINGER_S = 30.0  # a browser that comes after the end still gets the whole answer


class Turns:
    """The turns that this process owns."""

    def __init__(self) -> None:
        self._turns: dict[tuple[UUID, str], Turn] = {}
        self._taken: dict[UUID, int] = {}  # answers of a person that run or are being started
        self._tasks: set[asyncio.Task[Any]] = set()

    def running(self, workspace_id: UUID, conversation_id: str) -> Turn | None:
        """The turn that is being read in this conversation, if any."""
        turn = self._turns.get((workspace_id, conversation_id))
        return turn if turn is not None and not turn.log.closed else None

    def find(self, workspace_id: UUID, stream_id: str) -> Turn | None:
        """The turn of this stream, also for a while after its end."""
        return self._turns.get((workspace_id, stream_id))

    def latest_of(self, workspace_id: UUID, user_id: UUID) -> Turn | None:
        """The running turn that this person began last."""
        for turn in reversed(self._turns.values()):
            if turn.workspace_id == workspace_id and turn.user_id == user_id and not turn.log.closed:
                return turn
        return None

    @contextmanager
    def place_for(self, user_id: UUID, most: int) -> Iterator[bool]:
        """Whether one more answer of this person may start; counts it while it is being started."""
        taken = self._taken.get(user_id, 0)
        self._taken[user_id] = taken + 1
        try:
            yield taken < most
        finally:
            self._free(user_id)

    def _free(self, user_id: UUID) -> None:
        self._taken[user_id] -= 1
        if not self._taken[user_id]:
            del self._taken[user_id]

    @property
    def count(self) -> int:
        """Turns that are being read now."""
        return sum(not turn.log.closed for turn in self._turns.values())

    def start(self, turn: Turn, finished: Callable[[], Awaitable[None]]) -> None:
        """Read the turn in a task of its own; `finished` is awaited once it has ended."""
        self._turns[(turn.workspace_id, turn.stream_id)] = turn
        self._taken[turn.user_id] = self._taken.get(turn.user_id, 0) + 1
        self.spawn(self._run(turn, finished))

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        """Run a coroutine to its end, whoever goes away."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run(self, turn: Turn, finished: Callable[[], Awaitable[None]]) -> None:
        key = (turn.workspace_id, turn.stream_id)
        try:
            await turn.run(finished)
        finally:
            self._free(turn.user_id)
            asyncio.get_running_loop().call_later(LINGER_S, self._forget, key, turn)

    def _forget(self, key: tuple[UUID, str], turn: Turn) -> None:
        if self._turns.get(key) is turn:
            del self._turns[key]

    async def drain(self, timeout_s: float) -> None:
        """Wait for running turns; those that take longer are left to recovery."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=timeout_s)
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
