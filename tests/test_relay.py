"""Another instance's stream on its way to the client: whole events, at the client's pace, with an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from geko_proxy import relay
from geko_proxy.errors import EndStream
from geko_proxy.exchange import Exchange, Reply, Request, Route
from geko_proxy.filters.base import EventHook, Failure, Filter, Passed
from geko_proxy.filters.chain import Chain, Entry
from geko_proxy.sse import SseEvent
from geko_proxy.taps import WholeEvents
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


class Seen(Filter):
    """Counts the events that it sees; changes `two`, waits at `three`, and ends the stream at `end`."""

    name = "seen"
    routes = frozenset({Route.LLM})

    def __init__(self) -> None:
        self.events: list[bytes] = []

    def on_stream(self, exchange: Exchange) -> EventHook:
        def hook(event: SseEvent) -> Passed | Awaitable[Passed]:
            self.events.append(event.data)
            if event.data == b"two":
                return (SseEvent.text(b"2"),)
            if event.data == b"end":
                raise EndStream((SseEvent.text(b"cut"),))
            return self.wait() if event.data == b"three" else None

        return hook

    async def wait(self) -> Passed:
        await asyncio.sleep(0.01)
        return None


@asynccontextmanager
async def filtered(pieces: list[bytes], seen: Seen | None) -> AsyncIterator[int]:
    """The port of a relay with a filter; each piece comes in a packet of its own, after a reader waits for it."""

    async def provider(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await asyncio.sleep(0.03)
            await response.write(piece)
        return response

    async with serving(provider) as port:
        upstream = Upstream(f"http://127.0.0.1:{port}")

        async def geko(request: web.BaseRequest) -> web.StreamResponse:
            asked = Request("POST", "/", "", make_mocked_request("POST", "/").headers)
            exchange = Exchange("x", asked, Route.LLM, "chat_completions", {}, 0.0)
            source = await upstream.request("GET", "/", idle_timeout_ms=0)
            reply = Reply(200, CIMultiDict({"Content-Type": "text/event-stream"}), source=source)
            hooks = None if seen is None else Chain([Entry(seen, Failure.CLOSED)]).events(exchange)
            return await relay.send(request, exchange, reply, hooks)

        async with serving(geko) as last:
            yield last
        await upstream.close()


EVENTS = [b"data: %b\n\n" % each for each in (b"zero", b"one", b"two", b"three", b"four", b"five")]


async def test_each_event_is_seen_once_and_passes_in_order_whether_a_filter_waits_or_not() -> None:
    for pieces in (
        EVENTS,
        [b"".join(EVENTS)],
        [EVENTS[0], EVENTS[1] + EVENTS[2][:9], EVENTS[2][9:], *EVENTS[3:]],
    ):
        seen = Seen()
        async with filtered(pieces, seen) as port:
            assert await read(port) == b"".join(EVENTS).replace(b"two", b"2")
        assert seen.events == [b"zero", b"one", b"two", b"three", b"four", b"five"]


async def test_a_stream_that_is_cut_where_it_arrives_ends_with_the_filters_events() -> None:
    for pieces in (
        [*EVENTS[:2], b"data: end\n\n", *EVENTS[2:]],
        [b"data: end\n\n"],
        [*EVENTS[:4], b"data: end\n\n"],
    ):
        seen = Seen()
        async with filtered(pieces, seen) as port:
            raw = await read(port)
        before = b"".join(pieces).partition(b"data: end")[0].replace(b"two", b"2")
        assert raw == before + b"data: cut\n\n"
        assert seen.events.count(b"end") == 1


async def test_a_stream_without_filters_comes_as_it_was_sent() -> None:
    pieces = [b"data: 1", b"\n\nda", b"ta: 2\n\n", b": a comment\n\n" * 1000]
    async with filtered(pieces, None) as port:
        assert await read(port) == b"".join(pieces)


@pytest.mark.parametrize(("status", "body"), [(200, b"whole"), (200, b""), (404, b"gone"), (204, b"")])
async def test_a_reply_that_came_whole_is_sent_whole(status: int, body: bytes) -> None:
    async def provider(request: web.BaseRequest) -> web.Response:
        return web.Response(status=status, body=body)

    async with serving(provider) as port:
        upstream = Upstream(f"http://127.0.0.1:{port}")

        async def geko(request: web.BaseRequest) -> web.StreamResponse:
            asked = Request(request.method, "/", "", make_mocked_request("GET", "/").headers)
            exchange = Exchange("x", asked, Route.API, "x", {}, 0.0)
            source = await upstream.request(request.method, "/", idle_timeout_ms=0)
            head = CIMultiDict({name.decode(): value.decode() for name, value in source.headers})
            return await relay.send(request, exchange, Reply(source.status, head, source=source), None)

        async with serving(geko) as last, aiohttp.ClientSession() as session:
            for _ in range(2):  # over one connection
                async with session.get(f"http://127.0.0.1:{last}/") as reply:
                    assert (reply.status, await reply.read()) == (status, body)
            async with session.head(f"http://127.0.0.1:{last}/") as reply:
                assert (reply.status, await reply.read()) == (status, b"")
        await upstream.close()
