"""The events of one answer in order: written by its turn, read from any place by any number of readers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

MAX_PIECE_BYTES = 64 * 1024

Sink = Callable[[bytes, int], bool]
"""Takes events at once, as one piece and their number; False: no more for now."""


class EventLog:
    """Events as bytes, as they go on the wire."""

    __slots__ = ("_pushed", "_waiting", "closed", "events")

    def __init__(self) -> None:
        self.events: list[bytes] = []
        self.closed = False
        self._waiting: list[asyncio.Future[None]] = []
        self._pushed: list[tuple[Sink, asyncio.Future[None]]] = []

    def append(self, raw: bytes) -> None:
        """Add an event, give it to those who take it at once, wake the others."""
        self.events.append(raw)
        self._announce(raw, 1)

    def extend(self, raws: list[bytes]) -> None:
        """Add events that have come together: a reader gets them in one piece."""
        self.events += raws
        self._announce(raws[0] if len(raws) == 1 else b"".join(raws), len(raws))

    def _announce(self, piece: bytes, count: int) -> None:
        if self._pushed:
            for pushed in tuple(self._pushed):
                if not pushed[0](piece, count):
                    self._release(pushed)
        if self._waiting:
            self._wake()

    def close(self) -> None:
        """No event will follow."""
        self.closed = True
        for pushed in tuple(self._pushed):
            self._release(pushed)
        self._wake()

    def since(self, start: int) -> tuple[bytes, int]:
        """Events from number `start` on that are there now, in one piece, and the number of the next one.

        A piece is not much longer than MAX_PIECE_BYTES, so that a slow reader holds little memory.
        """
        end, size = start, 0
        events = self.events
        while end < len(events) and size < MAX_PIECE_BYTES:
            size += len(events[end])
            end += 1
        return (events[start] if end - start == 1 else b"".join(events[start:end])), end

    async def push(self, sink: Sink) -> None:
        """Give each new event to `sink` as it comes, until the log is closed or the sink wants no more.

        Costs neither a task switch nor a future per event; for a reader that has taken all there is.
        """
        if self.closed:
            return
        pushed = (sink, asyncio.get_running_loop().create_future())
        self._pushed.append(pushed)
        try:
            await pushed[1]
        finally:
            if pushed in self._pushed:
                self._pushed.remove(pushed)

    async def follow(self, start: int = 0) -> AsyncIterator[bytes]:
        """All events from number `start` on, as they come; those that are there already in one piece."""
        at = start
        loop = asyncio.get_running_loop()
        while True:
            piece, at = self.since(at)
            if piece:
                yield piece
            elif self.closed:
                return
            else:
                future = loop.create_future()
                self._waiting.append(future)
                await future

    def _release(self, pushed: tuple[Sink, asyncio.Future[None]]) -> None:
        self._pushed.remove(pushed)
        if not pushed[1].done():
            pushed[1].set_result(None)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)
