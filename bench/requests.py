"""Load of short requests: every connection sends the same request again as soon as it has the reply."""

from __future__ import annotations

import asyncio
import re
import time
from functools import partial
from typing import cast

from bench.window import Window

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
WARM_UP_S = 0.3


def request_bytes(method: str, target: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """A whole request."""
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", *(f"{k}: {v}" for k, v in headers.items())]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Requester(asyncio.Protocol):
    """One keep-alive connection under load."""

    def __init__(self, request: bytes, window: Window, closed: asyncio.Event) -> None:
        self._request = request
        self._window = window
        self._closed = closed
        self._reply = b""
        self._sent_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._window.over:
            self._window.fail("connection closed")
        self._closed.set()

    def data_received(self, data: bytes) -> None:
        reply = self._reply = self._reply + data if self._reply else data
        end = reply.find(b"\r\n\r\n")
        if end < 0:
            return
        length = LENGTH.search(reply, 0, end + 2)
        if length is None:
            if not reply.endswith(b"\r\n0\r\n\r\n"):
                return
        elif len(reply) < end + 4 + int(length[1]):
            return
        now = time.monotonic_ns()
        if reply.startswith(b"HTTP/1.1 200 "):
            self._window.add(now, now - self._sent_ns)
        else:
            self._window.fail(reply[9:12].decode("latin-1"))
        self._reply = b""
        self._send()

    def _send(self) -> None:
        if self._window.over:
            self._transport.close()
            return
        self._sent_ns = time.monotonic_ns()
        self._transport.write(self._request)


async def run(port: int, connections: int, request: bytes) -> Window:
    """Keep so many connections busy until the measurement is over."""
    window = Window()
    loop = asyncio.get_running_loop()
    ends = [asyncio.Event() for _ in range(connections)]
    for end in ends:
        await loop.create_connection(partial(Requester, request, window, end), "127.0.0.1", port)
    await asyncio.sleep(WARM_UP_S)
    await window.agree()
    await asyncio.wait([asyncio.create_task(end.wait()) for end in ends], timeout=3)
    return window
