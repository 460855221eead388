"""One connection to LibreChat and the reply it carries: strict framing, back pressure, no reuse in doubt."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from geko_proxy.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from geko_proxy.exchange import BodySource

HIGH_WATER_BYTES = 256 * 1024
MAX_HEAD_BYTES = 64 * 1024


class Pool(Protocol):
    """Where connections belong."""

    def put_back(self, connection: Connection) -> None:
        """Take a connection whose exchange is complete."""

    def forget(self, connection: Connection) -> None:
        """Drop a closed connection."""


class Tap(Protocol):
    """Takes small pieces of a body where they arrive: `read_chunk` would cost a change of tasks for each."""

    def take(self, data: bytes) -> bool:
        """Take a piece; False: it is left to `read_chunk`. Must not raise."""

    def flush(self) -> None:
        """No more pieces have come for now. Must not raise."""


class Lost(UpstreamUnreachable):
    """The connection ended before the first byte of a reply."""


class Connection(asyncio.Protocol):
    """One connection; carries one exchange at a time."""

    __slots__ = ("_parser", "_pool", "_writable", "closed", "idle_since", "reply", "transport", "used")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.transport: asyncio.Transport | None = None
        self.reply: UpstreamReply | None = None
        self.closed = False
        self.idle_since = 0.0
        self.used = 0
        self._parser: httptools.HttpResponseParser | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def begin(self, reply: UpstreamReply) -> None:
        """Make ready for the reply to a request that is about to be sent."""
        self.reply = reply
        self.used += 1
        self._parser = httptools.HttpResponseParser(reply)

    def data_received(self, data: bytes) -> None:
        reply = self.reply
        if reply is None or reply.is_over() or self._parser is None:
            self.abort()  # bytes that nobody asked for
            return
        reply.started = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            reply.fail(UpstreamError("LibreChat switched protocols unasked"))
        except httptools.HttpParserError as error:
            if reply.is_over():  # what follows belongs to nobody: the reply counts, the connection does not
                reply.keep_alive = False
                reply.flush()
            else:
                cause = error.__context__ if isinstance(error.__context__, UpstreamError) else None
                reply.fail(cause or UpstreamError(f"LibreChat's reply is not HTTP: {error}"))
        else:
            reply.flush()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._writable.set()
        self._pool.forget(self)
        if self.reply is not None:
            self.reply.connection_lost()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def send(self, head: bytes, body: bytes | BodySource | None, chunked: bool) -> None:
        """Write a request; a streamed body stops early when the reply is already complete."""
        assert self.transport is not None
        if body is None or isinstance(body, bytes):
            self.transport.write(head + body if body else head)
            return
        self.transport.write(head)
        while chunk := await body.read_chunk():
            if self.closed or (self.reply is not None and self.reply.complete):
                self.idle_since = -1.0  # the request was not sent whole: never use this connection again
                return
            self.transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
            await self._writable.wait()
        if chunked:
            self.transport.write(b"0\r\n\r\n")

    def release(self) -> None:
        """Called once when the reply is complete or given up: back to the pool, or away."""
        reply, self.reply, self._parser = self.reply, None, None
        whole = reply is not None and reply.complete and reply.keep_alive and self.idle_since >= 0
        if whole and not self.closed:
            self._pool.put_back(self)
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once."""
        if self.transport is not None and not self.closed:
            self.closed = True
            self.transport.abort()
            self._pool.forget(self)


class UpstreamReply:
    """A reply from LibreChat: head, then a body to be read once (`read_chunk`) or given up (`close`).

    tap: takes pieces of the body that come while `read_chunk` waits. on_broken: called when the body breaks off.
    """

    __slots__ = (
        "_buffer",
        "_buffered",
        "_connection",
        "_error",
        "_head_bytes",
        "_idle_timeout_s",
        "_loop",
        "_paused",
        "_tapped",
        "_timer",
        "_until_close",
        "_waiter",
        "bodiless",
        "complete",
        "head",
        "headers",
        "keep_alive",
        "on_broken",
        "started",
        "status",
        "tap",
    )

    def __init__(self, connection: Connection, method: str, idle_timeout_ms: int) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.started = False
        self.complete = False
        self.keep_alive = False
        self.bodiless = method == "HEAD"
        self._connection: Connection | None = connection
        self._idle_timeout_s = idle_timeout_ms / 1000
        self._loop = asyncio.get_running_loop()
        self.head: asyncio.Future[None] = self._loop.create_future()
        self._waiter: asyncio.Future[None] | None = None
        self._buffer: deque[bytes] = deque()
        self._buffered = 0
        self._paused = False
        self._until_close = False
        self._error: UpstreamError | None = None
        self._head_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tapped = False
        self.tap: Tap | None = None
        self.on_broken: Callable[[], None] | None = None

    # called by httptools, in this order

    def on_message_begin(self) -> None:
        if self.complete:
            raise UpstreamError("LibreChat sent more than one reply")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > MAX_HEAD_BYTES:
            raise UpstreamError("LibreChat's reply head is too large")
        if not self.head.done():
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        assert self._connection is not None
        parser = self._connection._parser
        assert parser is not None
        self.status = parser.get_status_code()
        if self.status < 200:
            if self.status == 101:
                raise UpstreamError("LibreChat switched protocols unasked")
            self.headers.clear()
            self.status = 0
            return
        self.keep_alive = parser.should_keep_alive()
        self.bodiless = self.bodiless or self.status in (204, 304)
        self._check_framing()
        if not self.head.done():
            self.head.set_result(None)
        if self.bodiless:
            self.complete = True

    def on_body(self, data: bytes) -> None:
        if self.bodiless:
            raise UpstreamError("LibreChat sent a body where none may be")
        if self.tap is not None and self._waiter is not None and not self._buffer and self.tap.take(data):
            self._tapped = True
            return
        self._buffer.append(data)
        self._buffered += len(data)

    def on_message_complete(self) -> None:
        if self.status >= 200:
            self.complete = True

    def _check_framing(self) -> None:
        """RFC 9112 §6.3: a reply framed in two ways is a smuggling attempt or a fault; either way unusable."""
        lengths = [v for n, v in self.headers if n.lower() == b"content-length"]
        codings = [v.lower() for n, v in self.headers if n.lower() == b"transfer-encoding"]
        if len(lengths) > 1 or (lengths and not lengths[0].isdigit()) or (lengths and codings):
            raise UpstreamError("LibreChat's reply has conflicting lengths")
        if codings and codings != [b"chunked"]:
            raise UpstreamError("LibreChat's reply has an unknown transfer coding")
        self._until_close = not lengths and not codings and not self.bodiless
        if self._until_close:
            self.keep_alive = False

    # called by the connection

    def is_over(self) -> bool:
        """Whether the last byte of the reply has come."""
        return self.complete

    def flush(self) -> None:
        """Wake the reader after new bytes; stop reading from the socket when too many wait."""
        if self._buffered > HIGH_WATER_BYTES and not self._paused and self._connection is not None:
            transport = self._connection.transport
            if transport is not None and not self.complete:
                self._paused = True
                transport.pause_reading()
        if self._tapped and self.tap is not None:
            self.tap.flush()
        if self.complete:
            self._done()
        if self.complete or self._buffer:
            self._wake()

    def connection_lost(self) -> None:
        if self.complete:
            return
        if self._until_close and self.head.done():
            self.complete = True
            self._done()
            self._wake()
        elif not self.started:
            self.fail(Lost("LibreChat closed the connection"))
        else:
            self.fail(UpstreamUnreachable("LibreChat broke off its reply"))

    def fail(self, error: UpstreamError) -> None:
        """End the reply with an error, for whoever waits for it."""
        if self._error is None:
            self._error = error
        if not self.head.done():
            self.head.set_exception(error)
            self.head.exception()  # seen: nobody may be waiting
        elif self.on_broken is not None:
            self.on_broken()
            self.on_broken = None
        self._let_go()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _done(self) -> None:
        if self._paused and self._connection is not None and self._connection.transport is not None:
            self._paused = False
            self._connection.transport.resume_reading()
        self._let_go()

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()

    # called by the proxy

    async def wait_for_head(self, timeout_ms: int) -> None:
        """Wait for status and headers. Raises UpstreamError."""
        timer = self._loop.call_later(timeout_ms / 1000, self._time_out) if timeout_ms else None
        try:
            await self.head
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _time_out(self) -> None:
        self.fail(UpstreamTimeout("LibreChat did not answer in time"))

    async def read_chunk(self) -> bytes:
        """Bytes of the body, all that have come so far; waits for some; empty at the end.

        Raises UpstreamError when the body breaks off or pauses longer than the limit.
        """
        while not self._buffer:
            if self._error is not None:
                raise self._error
            if self.complete:
                return b""
            if self._idle_timeout_s:
                self._timer = self._loop.call_later(self._idle_timeout_s, self._look_for_silence)
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
        data = self._buffer[0] if len(self._buffer) == 1 else b"".join(self._buffer)
        self._buffer.clear()
        self._buffered = 0
        if self._paused and self._connection is not None and self._connection.transport is not None:
            self._paused = False
            self._connection.transport.resume_reading()
        return data

    def _look_for_silence(self) -> None:
        if not self._tapped:
            self._time_out()
            return
        self._tapped = False
        self._timer = self._loop.call_later(self._idle_timeout_s, self._look_for_silence)

    async def read(self, max_bytes: int) -> bytes:
        """The whole body. Raises UpstreamError when it is longer than `max_bytes`."""
        parts, size = [], 0
        while chunk := await self.read_chunk():
            size += len(chunk)
            if size > max_bytes:
                self.close()
                raise UpstreamError("LibreChat's reply is too large")
            parts.append(chunk)
        return b"".join(parts)

    def give_up(self) -> bytes:
        """Close before the end; returns what has come and was not read."""
        data = b"".join(self._buffer)
        self._buffer.clear()
        self.close()
        return data

    def close(self) -> None:
        """Give up what has not been read; a connection with an unread body is not used again."""
        if not self.complete:
            self.on_broken = None
            self.fail(UpstreamUnreachable("the reply was given up"))
