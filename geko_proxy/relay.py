"""Copies a reply to the client. Alone in writing to the client's connection, apart from GEKO's own endpoints."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict

from geko_proxy.browser_safety import secure
from geko_proxy.errors import EndStream, FilterError, UpstreamError
from geko_proxy.event_log import EventLog
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.filters.chain import EventHooks
from geko_proxy.sse import SseEvent, SseFormatError, SseParser
from geko_proxy.taps import Filtered, Push, Straight, Through, WholeEvents
from geko_proxy.upstream_connection import UpstreamReply

log = logging.getLogger("geko.relay")

EVENT_STREAM_HEADERS = {
    "Content-Type": "text/event-stream",
    "Content-Encoding": "identity",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}

STALLED_S = 30.0  # a client that takes nothing for so long is cut off


class ClientLeft(Exception):
    """The client closed its connection before the end."""


async def send(
    request: web.BaseRequest, exchange: Exchange, reply: Reply, hooks: EventHooks | None
) -> web.StreamResponse:
    """Send a reply: bytes at once, a source as it arrives, an event stream through its hooks if there are any."""
    headers = secure(reply.headers, exchange)
    if hooks is None and _is_there(reply) and request.method != "HEAD":
        await reply.read()
        headers.popall("Content-Length", None)
    if reply.source is None and request.method != "HEAD":
        return web.Response(status=reply.status, headers=headers, body=reply.body)
    response = web.StreamResponse(status=reply.status, headers=headers)
    if hooks is not None:
        response.headers.popall("Content-Length", None)
    await response.prepare(request)
    try:
        if request.method == "HEAD":
            pass
        elif hooks is None:
            await _raw(request, reply, response)
        else:
            await _events(request, exchange, reply, response, hooks)
        await response.write_eof()
    except ConnectionError as error:
        raise ClientLeft from error
    finally:
        reply.close()
    return response


def _is_there(reply: Reply) -> bool:
    """Whether the body has come whole, as small ones do with their head: one write sends both."""
    source = reply.source
    return isinstance(source, UpstreamReply) and source.complete and not source.bodiless


def _push(request: web.BaseRequest, response: web.StreamResponse) -> Push | None:
    """What writes straight to the client; None: the connection is gone."""
    if request.transport is None:
        return None
    return Push(request.transport, chunked="Transfer-Encoding" in response.headers)


async def _raw(request: web.BaseRequest, reply: Reply, response: web.StreamResponse) -> None:
    source = reply.source
    assert source is not None
    push = _push(request, response)
    if reply.is_event_stream and isinstance(source, UpstreamReply) and push is not None:
        source.tap = Straight(push)
    try:
        while chunk := await source.read_chunk():
            async with asyncio.timeout(STALLED_S):
                await response.write(chunk)
    except TimeoutError as error:
        raise _stalled(request) from error
    except UpstreamError as error:
        log.warning("LibreChat broke off a reply: %s", error)
        # the head is out: a cut connection is the only honest end (RFC 9112 §8)
        response.force_close()
        raise ClientLeft from error


def _stalled(request: web.BaseRequest) -> ClientLeft:
    """Cut off a client that takes nothing: it would hold a connection to LibreChat and memory for ever."""
    if request.transport is not None:
        request.transport.abort()
    return ClientLeft()


async def _events(
    request: web.BaseRequest,
    exchange: Exchange,
    reply: Reply,
    response: web.StreamResponse,
    event_hooks: EventHooks,
) -> None:
    parser = SseParser()
    left: Iterator[SseEvent] = iter(())
    hooks: EventHooks | Filtered = event_hooks
    assert reply.source is not None
    push = _push(request, response)
    if isinstance(reply.source, UpstreamReply) and push is not None:
        hooks = reply.source.tap = Filtered(push, parser, event_hooks)
    try:
        while chunk := await reply.source.read_chunk():
            out = []
            left = iter(parser.feed(chunk))
            try:
                for event in left:
                    waiting = hooks.start(event)
                    passed = (event,) if waiting is None else await waiting
                    out.extend([each.raw for each in passed])
            finally:
                if out:
                    await response.write(b"".join(out))
    except EndStream as end:
        await give_up(reply, parser, left, hooks)
        await response.write(b"".join(event.raw for event in end.last))
    except (FilterError, UpstreamError, SseFormatError) as error:
        log.warning("%s: stream ended: %s", exchange.id, error)
        text = {"error": {"message": "The stream was ended by an error.", "code": "stream_failed"}}
        await response.write(SseEvent.message(text, "error").raw)
    except (asyncio.CancelledError, ConnectionError):
        await give_up(reply, parser, left, hooks)
        raise


async def give_up(
    reply: Reply, parser: SseParser, left: Iterator[SseEvent], hooks: EventHooks | Filtered | None
) -> None:
    """Close the source at once; show the filters what has come already, and nobody gets: it was made all the same."""
    data = reply.source.give_up() if isinstance(reply.source, UpstreamReply) else b""
    if hooks is None:
        return
    with suppress(SseFormatError):
        for event in (*left, *parser.feed(data)):
            with suppress(EndStream, FilterError):
                await hooks.run(event)


async def send_events(
    request: web.BaseRequest, exchange: Exchange, reply: Reply, lost: bytes
) -> web.StreamResponse:
    """Send another instance's event stream, in whole events; `lost`: the last event when it breaks off."""
    response = web.StreamResponse(status=reply.status, headers=secure(reply.headers, exchange))
    await response.prepare(request)
    try:
        if request.method != "HEAD":
            await _whole_events(request, exchange, reply, response, lost)
        await response.write_eof()
    except ConnectionError as error:
        raise ClientLeft from error
    finally:
        reply.close()
    return response


async def _whole_events(
    request: web.BaseRequest, exchange: Exchange, reply: Reply, response: web.StreamResponse, lost: bytes
) -> None:
    source, whole = reply.source, WholeEvents()
    assert isinstance(source, UpstreamReply)
    push = _push(request, response)
    if push is not None:
        source.tap = Through(push, whole)
    try:
        while chunk := await source.read_chunk():
            if piece := whole.take(chunk):
                async with asyncio.timeout(STALLED_S):
                    await response.write(piece)
    except TimeoutError as error:
        raise _stalled(request) from error
    except UpstreamError as error:
        log.warning("%s: the instance that reads the answer broke off: %s", exchange.id, error)
        await response.write(lost)


async def send_log(
    request: web.BaseRequest, exchange: Exchange, events: EventLog, first: bytes, start: int
) -> web.StreamResponse:
    """Serve an answer's events from number `start` on to one more browser, after `first`."""
    headers = secure(CIMultiDict(EVENT_STREAM_HEADERS), exchange)
    response = web.StreamResponse(headers=headers)
    writer = await response.prepare(request)
    try:
        if request.method != "HEAD":
            if first:
                await response.write(first)
            await _follow(request, response, writer, events, start)
        await response.write_eof()
    except ConnectionError as error:
        raise ClientLeft from error
    except TimeoutError as error:
        raise _stalled(request) from error
    return response


async def _follow(
    request: web.BaseRequest,
    response: web.StreamResponse,
    writer: AbstractStreamWriter | None,
    events: EventLog,
    start: int,
) -> None:
    """Write the backlog, then each event the moment it comes, straight to the socket's buffer."""
    transport, at = request.transport, start
    while True:
        piece, at = events.since(at)
        if piece:
            async with asyncio.timeout(STALLED_S):
                await response.write(piece)
            continue
        if events.closed:
            return
        if transport is None or writer is None or transport.is_closing():
            raise ConnectionResetError
        push = Push(transport, chunked="Transfer-Encoding" in response.headers)
        await events.push(push)
        at += push.count
        if transport.is_closing():
            raise ConnectionResetError
        async with asyncio.timeout(STALLED_S):
            await writer.drain()
