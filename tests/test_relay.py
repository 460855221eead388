"""Another instance's stream on its way to the client: whole events, at the client's pace, with an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from geko_proxy import relay
from geko_proxy.exchange import Exchange, Reply, Request, Route
from geko_proxy.relay import WholeEvents
from geko_proxy.upstream import Upstream

LOST = b"event: error\ndata: {}\n\n"
Write = Callable[[bytes], Awaitable[None]]


@given(st.lists(st.sampled_from([b"data: x", b"\n", b"\n\n", b"y\n\nz", b"\n\n\n"]), max_size=30))
def test_events_leave_whole_and_in_order(pieces: list[bytes]) -> None:
    whole, sent = WholeEvents(), b""
    for piece in pieces:
        out = whole.take(piece)
        assert not out or out.endswith(b"\n\n")
        sent += out
    whole_stream = b"".join(pieces)
    assert whole_stream.startswith(sent)
    assert b"\n\n" not in whole_stream[len(sent) :]


@asynccontextmanager
async def serving(handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[int]:
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield cast(int, runner.addresses[0][1])
    await runner.cleanup()


@asynccontextmanager
async def relayed(tell: Callable[[web.BaseRequest, Write], Awaitable[None]]) -> AsyncIterator[int]:
    """The port of an instance that passes on what `tell` writes at another one."""

    async def owner(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await tell(request, response.write)
        return response

    async with serving(owner) as port:
        upstream = Upstream(f"http://127.0.0.1:{port}")

        async def other(request: web.BaseRequest) -> web.StreamResponse:
            reply = await upstream.request("GET", "/", idle_timeout_ms=0)
            asked = Request("GET", "/", "", make_mocked_request("GET", "/").headers)
            exchange = Exchange("x", asked, Route.STREAM, "chat.stream", {}, 0.0)
            head = CIMultiDict({"Content-Type": "text/event-stream"})
            return await relay.send_events(request, exchange, Reply(200, head, source=reply), LOST)

        async with serving(other) as last:
            yield last
        await upstream.close()


async def read(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
    raw = await reader.read()
    writer.close()
    return raw.partition(b"\r\n\r\n")[2]


async def test_an_owner_that_breaks_off_within_an_event_ends_with_an_error() -> None:
    async def tell(request: web.BaseRequest, write: Write) -> None:
        for piece in (b"data: 1\n\n", b"data: 2\n\ndata: ", b"3\n"):
            await write(piece)
            await asyncio.sleep(0.02)
        assert request.transport is not None
        request.transport.abort()

    async with relayed(tell) as port:
        assert await read(port) == b"data: 1\n\ndata: 2\n\n" + LOST


async def test_a_client_that_reads_slowly_slows_the_owner_down() -> None:
    event, number = b"data: " + b"x" * 1016 + b"\n\n", 60_000
    written = 0

    async def tell(request: web.BaseRequest, write: Write) -> None:
        nonlocal written
        for _ in range(number):
            await write(event)
            written += 1

    async with relayed(tell) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
        before = -1
        while written != before or not written:  # until nothing moves any more
            before = written
            await asyncio.sleep(0.3)
        assert written < number
        raw = await reader.read()
        assert raw.partition(b"\r\n\r\n")[2] == event * number
        writer.close()


async def test_a_client_that_leaves_frees_the_owner() -> None:
    left = asyncio.Event()

    async def tell(request: web.BaseRequest, write: Write) -> None:
        try:
            while True:
                await write(b"data: 1\n\n")
                await asyncio.sleep(0.01)
        finally:
            left.set()

    async with relayed(tell) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await reader.read(100)
        writer.transport.abort()
        async with asyncio.timeout(5):
            await left.wait()
