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
        self._by_id: dict[UUID, Turn] = {}
        self._expected: dict[UUID, list[asyncio.Future[None]]] = {}

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

    async def expect(self, turn_id: UUID, timeout_s: float) -> Turn | None:
        """The turn of this id; waits for one that LibreChat has not begun yet."""
        if turn_id not in self._by_id:
            begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            waiting = self._expected.setdefault(turn_id, [])
            waiting.append(begun)
            try:
                await asyncio.wait((begun,), timeout=timeout_s)
            finally:
                waiting.remove(begun)
                if not waiting:
                    self._expected.pop(turn_id, None)
        return self._by_id.get(turn_id)

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
        if turn.turn_id is not None:
            self._by_id[turn.turn_id] = turn
            for begun in self._expected.get(turn.turn_id, ()):
                if not begun.done():
                    begun.set_result(None)
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
        if turn.turn_id is not None:
            self._by_id.pop(turn.turn_id, None)

    async def drain(self, timeout_s: float) -> None:
        """Wait for running turns; those that take longer are left to recovery."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=timeout_s)
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
