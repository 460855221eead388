"""GEKO's HTTP/1.1 client for LibreChat: a pool of connections, strict about framing, streaming both ways.

Our own because three quarters of a proxy's cost is here (design §8). It follows no redirects, keeps no cookies and
decompresses nothing.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

from geko_proxy.errors import UpstreamBusy, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from geko_proxy.exchange import BodySource

Headers = Sequence[tuple[bytes, bytes]]

REPLAYABLE = frozenset({"GET", "HEAD", "OPTIONS"})  # safe methods, RFC 9110 §9.2.1
HIGH_WATER_BYTES = 256 * 1024
LOW_WATER_BYTES = 64 * 1024
MAX_HEAD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class UpstreamOptions:
    """Limits of the client. All times in ms; idle_timeout_ms limits the silence inside a body, 0: no limit."""

    connect_timeout_ms: int = 3000
    read_timeout_ms: int = 30_000
    idle_timeout_ms: int = 120_000
    keepalive_timeout_ms: int = 3000  # below Node's 5 s (contract §8)
    max_connections: int = 512


class _Lost(UpstreamUnreachable):
    """The connection ended before the first byte of a reply."""


class Connection(asyncio.Protocol):
    """One connection; carries one exchange at a time."""

    def __init__(self, pool: Upstream) -> None:
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
    """A reply from LibreChat: head, then a body to be read once (`read_chunk`) or given up (`close`)."""

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
        self._head: asyncio.Future[None] = self._loop.create_future()
        self._waiter: asyncio.Future[None] | None = None
        self._buffer: deque[bytes] = deque()
        self._buffered = 0
        self._paused = False
        self._until_close = False
        self._error: UpstreamError | None = None
        self._head_bytes = 0

    # called by httptools, in this order

    def on_message_begin(self) -> None:
        if self.complete:
            raise UpstreamError("LibreChat sent more than one reply")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > MAX_HEAD_BYTES:
            raise UpstreamError("LibreChat's reply head is too large")
        if not self._head.done():
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
        if not self._head.done():
            self._head.set_result(None)
        if self.bodiless:
            self.complete = True

    def on_body(self, data: bytes) -> None:
        if self.bodiless:
            raise UpstreamError("LibreChat sent a body where none may be")
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
        if self.complete:
            self._done()
        self._wake()

    def connection_lost(self) -> None:
        if self.complete:
            return
        if self._until_close and self._head.done():
            self.complete = True
            self._done()
            self._wake()
        elif not self.started:
            self.fail(_Lost("LibreChat closed the connection"))
        else:
            self.fail(UpstreamUnreachable("LibreChat broke off its reply"))

    def fail(self, error: UpstreamError) -> None:
        """End the reply with an error, for whoever waits for it."""
        if self._error is None:
            self._error = error
        if not self._head.done():
            self._head.set_exception(error)
            self._head.exception()  # seen: nobody may be waiting
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
            await self._head
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
            await self._wait()
        data = self._buffer[0] if len(self._buffer) == 1 else b"".join(self._buffer)
        self._buffer.clear()
        self._buffered = 0
        if self._paused and self._connection is not None and self._connection.transport is not None:
            self._paused = False
            self._connection.transport.resume_reading()
        return data

    async def _wait(self) -> None:
        timer = self._loop.call_later(self._idle_timeout_s, self._time_out) if self._idle_timeout_s else None
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

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

    def close(self) -> None:
        """Give up what has not been read; a connection with an unread body is not used again."""
        if not self.complete:
            self.fail(UpstreamUnreachable("the reply was given up"))


class Upstream:
    """A pool of connections to one origin.

    url: `http://host[:port]` or `https://…`, without a path. Raises ValueError for anything else.
    """

    def __init__(self, url: str, options: UpstreamOptions | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError(f"not the URL of an origin: {url!r}")
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self.options = options or UpstreamOptions()
        self._address = (parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host = parts.netloc.rpartition("@")[2].encode("ascii")
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._connecting = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def in_use(self) -> int:
        """Connections that carry an exchange now."""
        return len(self._open) - len(self._idle)

    async def request(
        self,
        method: str,
        target: str,
        headers: Headers = (),
        body: bytes | BodySource | None = None,
        *,
        content_length: int | None = None,
        timeout_ms: int | None = None,
        idle_timeout_ms: int | None = None,
    ) -> UpstreamReply:
        """Send a request; return the reply once its head is there.

        target: path and query as they go on the wire. headers: without Host, Content-Length and hop-by-hop ones.
        content_length: bytes of a streamed body, None: chunked. timeout_ms: for the head; idle_timeout_ms: for each
        pause in the body (0: no limit). Raises UpstreamUnreachable, UpstreamTimeout, UpstreamBusy, UpstreamError.
        """
        head, chunked = self._head(method, target, headers, body, content_length)
        replayable = method in REPLAYABLE and (body is None or isinstance(body, bytes))
        while True:
            connection = await self._take()
            reused = connection.used > 0
            idle = self.options.idle_timeout_ms if idle_timeout_ms is None else idle_timeout_ms
            reply = UpstreamReply(connection, method, idle)
            connection.begin(reply)
            try:
                await self._send(connection, reply, head, body, chunked)
                await reply.wait_for_head(self.options.read_timeout_ms if timeout_ms is None else timeout_ms)
                return reply
            except _Lost:
                if not (reused and replayable):
                    raise
            except BaseException:
                reply.close()
                raise

    def _head(
        self, method: str, target: str, headers: Headers, body: bytes | BodySource | None, length: int | None
    ) -> tuple[bytes, bool]:
        lines = [b"%b %b HTTP/1.1\r\nHost: %b" % (method.encode("ascii"), target.encode("ascii"), self._host)]
        lines.extend(name + b": " + value for name, value in headers)
        chunked = False
        if isinstance(body, bytes):
            length = len(body)
        elif body is not None and length is None:
            chunked = True
            lines.append(b"Transfer-Encoding: chunked")
        if body is not None and length is not None and (length or method not in REPLAYABLE):
            lines.append(b"Content-Length: %d" % length)
        elif body is None and method in ("POST", "PUT", "PATCH"):
            lines.append(b"Content-Length: 0")
        head = b"\r\n".join(lines)
        if head.count(b"\n") != len(lines) or b"\0" in head:
            raise ValueError("a header or the target has a line break")
        return head + b"\r\n\r\n", chunked

    async def _send(
        self,
        connection: Connection,
        reply: UpstreamReply,
        head: bytes,
        body: bytes | BodySource | None,
        chunked: bool,
    ) -> None:
        if body is None or isinstance(body, bytes):
            await connection.send(head, body, chunked)
            return
        # LibreChat may answer (413, 401) before it has taken the whole body
        sending = asyncio.create_task(connection.send(head, body, chunked))
        try:
            await asyncio.wait({sending, reply._head}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            elif not reply._head.exception():
                reply.keep_alive = False
                connection.idle_since = -1.0
        finally:
            if not sending.done():
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    async def _take(self) -> Connection:
        loop = asyncio.get_running_loop()
        oldest = loop.time() - self.options.keepalive_timeout_ms / 1000
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed and connection.idle_since > oldest:
                return connection
            connection.abort()
        if len(self._open) + self._connecting >= self.options.max_connections:
            await self._wait_for_place()
            return await self._take()
        return await self._connect(loop)

    async def _wait_for_place(self) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await asyncio.wait_for(place, self.options.connect_timeout_ms / 1000)
        except TimeoutError:
            raise UpstreamBusy("all connections to LibreChat are in use") from None
        finally:
            if place in self._waiting:
                self._waiting.remove(place)

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> Connection:
        self._connecting += 1
        host, port = self._address
        try:
            async with asyncio.timeout(self.options.connect_timeout_ms / 1000):
                _, connection = await loop.create_connection(
                    lambda: Connection(self), host, port, ssl=self._tls
                )
        except TimeoutError:
            raise UpstreamTimeout("no connection to LibreChat in time") from None
        except OSError as error:
            raise UpstreamUnreachable(
                f"no connection to LibreChat: {error.strerror or type(error).__name__}"
            ) from error
        finally:
            self._connecting -= 1
        self._open.add(connection)
        return connection

    def put_back(self, connection: Connection) -> None:
        """Take a connection whose exchange is complete."""
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)
        self._free_place()

    def forget(self, connection: Connection) -> None:
        """Drop a closed connection."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._free_place()

    def _free_place(self) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return

    async def close(self) -> None:
        """Close all connections at once."""
        for connection in tuple(self._open):
            connection.abort()
        await asyncio.sleep(0)
