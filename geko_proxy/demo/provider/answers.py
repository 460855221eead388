"""One call from its body to its last byte, whatever its API; the books are right however it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from aiohttp import web

from geko_proxy.demo.provider import asked as reading
from geko_proxy.demo.provider.asked import Asked, BadCall
from geko_proxy.demo.provider.books import Books, Entry, Usage
from geko_proxy.demo.provider.chat import ChatShape
from geko_proxy.demo.provider.failures import error_reply
from geko_proxy.demo.provider.messages import MessagesShape
from geko_proxy.demo.provider.orders import BadOrder, Order, order_in, words_of
from geko_proxy.demo.provider.plan import BrokeOff, Died, Piece, Plan, make, plan
from geko_proxy.demo.provider.responses import ResponsesShape
from geko_proxy.demo.provider.shape import Json, Shape, encode

_KEPT_HEADERS: Final = ("user-agent", "content-type", "accept", "accept-encoding", "anthropic-version")
_STREAM: Final = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
_NOTED_CHARS: Final = 200


@dataclass(slots=True)
class Service:
    """What all calls share. key: what callers must show; empty: anything. standing: orders by model or `*`."""

    models: tuple[str, ...]
    default_tokens: int
    default_ms: float
    key: str = ""
    books: Books = field(default_factory=Books)
    standing: dict[str, dict[str, str]] = field(default_factory=dict)
    lists: list[Json] = field(default_factory=list)

    def words(self, asked: Asked) -> tuple[dict[str, str], object]:
        """The order of a call, and what its failures are counted by."""
        name, _, own = asked.model.partition("~")
        named = next((each for each in (asked.model, name, "*") if self.standing.get(each)), "")
        said = words_of(own) | order_in(asked.last_user, asked.model)
        key: object = (asked.model, asked.user, asked.last_user) if "times" in said else ("standing", named)
        return self.standing.get(named, {}) | said, key


class Refusal(Exception):
    """Ends a call with an error status."""

    def __init__(self, status: int, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status, self.more = status, more


def headers_of(request: web.Request) -> dict[str, str]:
    """What the books keep of the headers: no keys."""
    return {
        name.lower(): value
        for name, value in request.headers.items()
        if name.lower() in _KEPT_HEADERS or (name.lower().startswith("x-") and name.lower() != "x-api-key")
    }


def check_key(service: Service, request: web.Request) -> None:
    """Raises Refusal 401; `x-api-key` is Anthropic's."""
    given = request.headers.get("x-api-key") or request.headers.get("Authorization", "").removeprefix(
        "Bearer "
    )
    if service.key and given != service.key:
        raise Refusal(401, "Incorrect API key provided.")


@asynccontextmanager
async def booked(service: Service, request: web.Request, api: str) -> AsyncIterator[Entry]:
    """Open and close the entry of a call; who leaves is noted."""
    entry = service.books.open(api, request.path, headers_of(request))
    try:
        yield entry
    except BaseException as ended:
        if entry.outcome == "running":
            entry.outcome = "refused" if isinstance(ended, Refusal) else "left"
        if isinstance(ended, Refusal):
            entry.status = ended.status
        raise
    finally:
        service.books.close(entry)


async def read_json(request: web.Request) -> Json:
    """The body. Raises Refusal 400."""
    try:
        body = msgspec.json.decode(await request.read())
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Refusal(400, "We could not parse the JSON body of your request.") from None
    if not isinstance(body, dict):
        raise Refusal(400, "The body of your request must be a JSON object.")
    return body


def note(entry: Entry, asked: Asked, body: Json | None = None) -> None:
    """Write down who asked what."""
    entry.model, entry.user, entry.stream = asked.model, asked.user, asked.stream
    entry.asked_usage = asked.wants_usage
    entry.last_user = asked.last_user[:_NOTED_CHARS]
    entry.tools = tuple(tool.name for tool in asked.tools)
    entry.body = body


def ordered(service: Service, asked: Asked) -> tuple[dict[str, str], Order]:
    """The order of a call, without its failure when that has happened often enough. Raises Refusal."""
    words, key = service.words(asked)
    try:
        order = Order.read(words)
    except BadOrder as bad:
        raise Refusal(400, str(bad)) from None
    if order.times is not None and order.fails and not service.books.count_failure(key, order.times):
        order = order.mended()
    if order.status is not None:
        message = order.message or f"mock failure {order.status}"
        raise Refusal(order.status, message, code=order.code, retry_after=order.retry_after)
    return words, order


async def answer(service: Service, request: web.Request, api: str) -> web.StreamResponse:
    """POST /v1/chat/completions, /v1/responses, /v1/messages"""
    try:
        async with booked(service, request, api) as entry:
            check_key(service, request)
            body = await read_json(request)
            try:
                asked = _READ[api](body)
            except BadCall as bad:
                raise Refusal(400, str(bad), param=bad.param) from None
            note(entry, asked, body)
            words, order = ordered(service, asked)
            found = plan(asked, words, order, service.default_tokens, service.default_ms)
            if asked.stream:
                return await _stream(request, entry, found, asked)
            return await _whole(request, entry, found, asked)
    except Refusal as refused:
        return error_reply(api, refused.status, str(refused), **refused.more)


def _shape(asked: Asked, found: Plan) -> Shape:
    if asked.api == "messages":
        return MessagesShape(asked, found.prompt)
    if asked.api == "responses":
        return ResponsesShape(asked, found.prompt)
    return ChatShape(asked, found.prompt, reports=_reports(asked, found.order))


def _reports(asked: Asked, order: Order) -> bool:
    """Whether the usage is told: other APIs and replies in one piece tell it unasked."""
    told_unasked = asked.api != "chat_completions" or not asked.stream
    return order.usage == "always" or (order.usage == "asked" and (told_unasked or asked.wants_usage))


async def _stream(request: web.Request, entry: Entry, found: Plan, asked: Asked) -> web.StreamResponse:
    shape, reports = _shape(asked, found), _reports(asked, found.order)
    reply = web.StreamResponse(headers={**_STREAM, "x-request-id": f"req_{shape.id}"})
    await reply.prepare(request)
    entry.status, entry.answered = 200, True
    try:
        waiting = shape.opening(found.usage(0, 0) if reports else None)
        async for batch in make(found, entry):
            await reply.write(waiting + shape.pieces(batch))
            waiting = b""
        waiting += shape.closing(found.finish, entry.usage if reports else None)
        entry.outcome, entry.usage_sent = "done", reports
    except BrokeOff:
        entry.outcome = "error event"
        waiting = shape.broken(
            found.order.message or "The server had an error while processing your request."
        )
    except Died:
        entry.outcome = "died"
        if request.transport is not None:
            request.transport.abort()
        return reply
    await reply.write(waiting)
    await reply.write_eof()
    return reply


async def _whole(request: web.Request, entry: Entry, found: Plan, asked: Asked) -> web.StreamResponse:
    shape, reports = _shape(asked, found), _reports(asked, found.order)
    said: list[Piece] = []
    try:
        async for batch in make(found, entry):
            said += batch
    except (Died, BrokeOff):
        entry.outcome, entry.usage = "died", Usage()  # nothing of it reached anybody
        if request.transport is not None:
            request.transport.abort()
        return web.Response()
    entry.status, entry.outcome, entry.usage_sent, entry.answered = 200, "done", reports, True
    body = encode(shape.whole(said, found.finish, entry.usage if reports else None))
    return web.Response(
        body=body, content_type="application/json", headers={"x-request-id": f"req_{shape.id}"}
    )


_READ: Final[dict[str, Callable[[Json], Asked]]] = {
    "chat_completions": reading.chat,
    "responses": reading.responses,
    "messages": reading.messages,
}
__all__ = ["Refusal", "Service", "Usage", "answer", "booked", "check_key", "note", "ordered", "read_json"]
