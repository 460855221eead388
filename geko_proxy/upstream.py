"""GEKO's HTTP/1.1 client for LibreChat: a pool of connections, strict about framing, streaming both ways.

Our own because three quarters of a proxy's cost is here (design §8). It follows no redirects, keeps no cookies and
decompresses nothing.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from urllib.parse import urlsplit

from geko_proxy.errors import UpstreamBusy, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from geko_proxy.exchange import BodySource
from geko_proxy.upstream_connection import Connection, Lost, UpstreamReply

Headers = Sequence[tuple[bytes, bytes]]

CONTROL_CONNECTIONS = 64  # beyond the limit, for aborts and answers that were let in
REPLAYABLE = frozenset({"GET", "HEAD", "OPTIONS"})  # safe methods, RFC 9110 §9.2.1
STALE_S = 1.0  # a server that closes an idle connection crosses with a request within a round trip


@dataclass(frozen=True, slots=True)
class UpstreamOptions:
    """Limits of the client. All times in ms; idle_timeout_ms limits the silence inside a body, 0: no limit."""

    connect_timeout_ms: int = 3000
    read_timeout_ms: int = 30_000
    idle_timeout_ms: int = 120_000
    keepalive_timeout_ms: int = 3000  # below Node's 5 s (contract §8)
    max_connections: int = 512


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
        control: bool = False,
        on_sent: Callable[[], None] | None = None,
    ) -> UpstreamReply:
        """Send a request; return the reply once its head is there.

        target: path and query as they go on the wire. headers: without Host, Content-Length and hop-by-hop ones.
        content_length: bytes of a streamed body, None: chunked. timeout_ms: for the head; idle_timeout_ms: for each
        pause in the body (0: no limit). control: GEKO's own call, for which some connections are
        kept free. on_sent: called when the request goes out. Raises UpstreamUnreachable, UpstreamTimeout,
        UpstreamBusy, UpstreamError.
        """
        head, chunked = self._head(method, target, headers, body, content_length)
        replayable = method in REPLAYABLE and (body is None or isinstance(body, bytes))
        while True:
            connection = await self._take(control)
            reused = connection.used > 0
            idle = self.options.idle_timeout_ms if idle_timeout_ms is None else idle_timeout_ms
            reply = UpstreamReply(connection, method, idle)
            connection.begin(reply)
            if on_sent is not None:
                on_sent()
            began = monotonic()
            try:
                await self._send(connection, reply, head, body, chunked)
                await reply.wait_for_head(self.options.read_timeout_ms if timeout_ms is None else timeout_ms)
                return reply
            except Lost as lost:
                # RFC 9112 §9.3.1: the server may have closed it while it was idle; later it was at work on the request
                lost.sent = not (reused and monotonic() - began < STALE_S)
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
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head:
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
            await asyncio.wait({sending, reply.head}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            elif not reply.head.exception():
                reply.keep_alive = False
                connection.idle_since = -1.0
        finally:
            if not sending.done():
                sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _take(self, control: bool) -> Connection:
        oldest = monotonic() - self.options.keepalive_timeout_ms / 1000
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed and connection.idle_since > oldest:
                return connection
            connection.abort()
        limit = self.options.max_connections + (CONTROL_CONNECTIONS if control else 0)
        if len(self._open) + self._connecting >= limit:
            await self._wait_for_place()
            return await self._take(control)
        return await self._connect()

    async def _wait_for_place(self) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await asyncio.wait_for(place, self.options.connect_timeout_ms / 1000)
        except TimeoutError:
            raise _unsent(UpstreamBusy("all connections to LibreChat are in use")) from None
        finally:
            if place in self._waiting:
                self._waiting.remove(place)

    async def _connect(self) -> Connection:
        self._connecting += 1
        host, port = self._address
        try:
            async with asyncio.timeout(self.options.connect_timeout_ms / 1000):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self), host, port, ssl=self._tls
                )
        except TimeoutError:
            raise _unsent(UpstreamTimeout("no connection to LibreChat in time")) from None
        except (OSError, UnicodeError) as error:  # UnicodeError: a host name that is none (IDNA)
            reason = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
            raise _unsent(UpstreamUnreachable(f"no connection to LibreChat: {reason}")) from error
        finally:
            self._connecting -= 1
        self._open.add(connection)
        return connection

    def put_back(self, connection: Connection) -> None:
        """Take a connection whose exchange is complete."""
        connection.idle_since = monotonic()
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


def _unsent(error: UpstreamError) -> UpstreamError:
    error.sent = False
    return error
