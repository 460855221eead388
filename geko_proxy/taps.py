"""Writes to a client where the pieces of a stream arrive, as long as the client keeps up (`UpstreamReply.tap`).

A piece that has to wait is left to the reader in `relay`, in its order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple

from geko_proxy.filters.chain import EventHooks
from geko_proxy.sse import SseEvent, SseParser


class Push:
    """Writes events to a client's socket as long as the client keeps up. count: events written."""

    __slots__ = ("_chunked", "_transport", "count")

    MAX_BUFFERED_BYTES = 64 * 1024

    def __init__(self, transport: asyncio.Transport, *, chunked: bool) -> None:
        self._transport = transport
        self._chunked = chunked
        self.count = 0

    @property
    def has_room(self) -> bool:
        """Whether the client is there and keeps up."""
        transport = self._transport
        return not transport.is_closing() and transport.get_write_buffer_size() <= self.MAX_BUFFERED_BYTES

    def __call__(self, piece: bytes, count: int) -> bool:
        transport = self._transport
        if transport.is_closing():
            return False
        transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece)
        self.count += count
        return transport.get_write_buffer_size() <= self.MAX_BUFFERED_BYTES


class WholeEvents:
    """Holds back the last event of a stream until it is there whole."""

    __slots__ = ("_held",)

    END = b"\n\n"

    def __init__(self) -> None:
        self._held: list[bytes] = []

    def is_whole(self, chunk: bytes) -> bool:
        """Whether a piece of the stream is nothing but whole events."""
        return not self._held and chunk.endswith(self.END)

    def take(self, chunk: bytes) -> bytes:
        """Take a piece of the stream; return the whole events that are there now."""
        if self.is_whole(chunk):
            return chunk
        if self._held and self._held[-1].endswith(b"\n"):  # the end may be in two pieces
            chunk = self._held.pop() + chunk
        cut = chunk.rfind(self.END) + len(self.END)
        if cut < len(self.END):
            self._held.append(chunk)
            return b""
        piece, rest = b"".join((*self._held, chunk[:cut])), chunk[cut:]
        self._held = [rest] if rest else []
        return piece


class Through:
    """Writes whole events to the client where they arrive, as long as it keeps up: a `Tap`."""

    __slots__ = ("_push", "_whole")

    def __init__(self, push: Push, whole: WholeEvents) -> None:
        self._push = push
        self._whole = whole

    def take(self, data: bytes) -> bool:
        """Pass a piece on; False: it is left to the reader, who waits for the client."""
        if not self._whole.is_whole(data) or not self._push.has_room:
            return False
        self._push(data, 1)
        return True

    def flush(self) -> None:
        """Nothing is held back."""


class Straight:
    """Writes what comes to the client where it arrives, as long as it keeps up: a `Tap`."""

    __slots__ = ("_pieces", "_push")

    def __init__(self, push: Push) -> None:
        self._push = push
        self._pieces: list[bytes] = []

    def take(self, data: bytes) -> bool:
        """Pass a piece on; False: it is left to the reader, who waits for the client."""
        if not self.has_room:
            return False
        self.keep(data)
        return True

    @property
    def has_room(self) -> bool:
        """Whether the client is there and keeps up."""
        return self._push.has_room

    def keep(self, data: bytes) -> None:
        """Write this with the next `flush`."""
        self._pieces.append(data)

    def flush(self) -> None:
        """Write what came together as one."""
        if pieces := self._pieces:
            self._pieces = []
            self._push(b"".join(pieces), len(pieces))


class Begun(NamedTuple):
    """An event that the filters have seen, and what is left to do: to wait for one of them, or to raise."""

    waiting: Coroutine[Any, Any, Sequence[SseEvent]] | None
    error: Exception | None


class Filtered:
    """Passes events through the filters where they arrive, as long as none has to wait or changes one: a `Tap`."""

    __slots__ = ("_begun", "_hooks", "_parser", "_straight")

    def __init__(self, push: Push, parser: SseParser, hooks: EventHooks) -> None:
        self._straight = Straight(push)
        self._parser = parser
        self._hooks = hooks
        self._begun: Begun | None = None

    def take(self, data: bytes) -> bool:
        """Pass an event on; False: it is left to the reader, with what the filters have begun."""
        if not self._straight.has_room:
            return False
        event = self._parser.whole(data)
        if event is None:
            return False
        try:
            waiting = self._hooks.start(event)
        except Exception as error:  # noqa: BLE001  # raised again in `run`
            self._begun = Begun(None, error)
            return False
        if waiting is not None:
            self._begun = Begun(waiting, None)
            return False
        self._straight.keep(event.raw)
        return True

    def flush(self) -> None:
        """Write what came together as one."""
        self._straight.flush()

    def start(self, event: SseEvent) -> Coroutine[Any, Any, Sequence[SseEvent]] | None:
        """As `EventHooks.start`; goes on with the event that `take` has begun, which is the next one to be read."""
        begun, self._begun = self._begun, None
        if begun is None:
            return self._hooks.start(event)
        if begun.error is not None:
            raise begun.error
        return begun.waiting

    async def run(self, event: SseEvent) -> Sequence[SseEvent]:
        """As `EventHooks.run`."""
        waiting = self.start(event)
        return (event,) if waiting is None else await waiting
