"""One reply made from the stream that was asked for in its place (`wire.collected`)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from geko_proxy import relay
from geko_proxy.errors import EndStream, UpstreamError
from geko_proxy.exchange import Reply
from geko_proxy.filters.chain import EventHooks
from geko_proxy.llm.wire.base import ModelCall
from geko_proxy.sse import SseEvent, SseFormatError, SseParser


async def in_one_piece(reply: Reply, shape: ModelCall, hooks: EventHooks | None) -> Reply:
    """Make the reply of a stream. Raises UpstreamError when it breaks off."""
    parser = SseParser()
    left: Iterator[SseEvent] = iter(())
    assert reply.source is not None
    try:
        while not shape.over and (chunk := await reply.source.read_chunk()):
            left = iter(parser.feed(chunk))
            for event in left:
                await _take(event, shape, hooks)
        if not shape.is_whole and not shape.failed:
            raise UpstreamError("the provider broke off a reply")
    except EndStream as end:
        await relay.give_up(reply, parser, left, hooks)
        for event in end.last:
            shape.collect(event)
    except SseFormatError as error:
        raise UpstreamError(f"the provider's stream was not understood: {error}") from None
    except asyncio.CancelledError:
        await relay.give_up(reply, parser, left, hooks)
        raise
    finally:
        reply.close()
    if shape.failed:
        raise UpstreamError("the provider's stream told of an error")
    return Reply.of_json(200, shape.collected(), {"Cache-Control": "no-store"})


async def _take(event: SseEvent, shape: ModelCall, hooks: EventHooks | None) -> None:
    if hooks is None and event.data and not shape.over:
        shape.read(event)
        shape.collect(event)
    for each in await hooks.run(event) if hooks is not None else ():
        if each.data:
            shape.collect(each)
