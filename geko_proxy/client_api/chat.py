"""POST /v1/chat/send: one message in, the answer as SSE or as one JSON. Runs through the filters of a chat message."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp_sse import EventSourceResponse

from geko_proxy.browser_safety import secure
from geko_proxy.client_api.chat_events import Answer, ClientEvent
from geko_proxy.client_api.chat_message import ROOT, SendBody, check, chosen_model, librechat_message
from geko_proxy.client_api.quota_warning import QuotaWarning, headers_of
from geko_proxy.client_api.validation import parse
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.metering.meter import TurnMeter
from geko_proxy.relay import ClientLeft
from geko_proxy.sse import SseParser
from geko_proxy.turn import Turn

if TYPE_CHECKING:
    from geko_proxy.services import Services

StartChat = Callable[[Exchange, dict[str, Any], web.BaseRequest], Awaitable[Turn]]
"""Starts an answer: the caller's exchange, LibreChat's body, the request. Raises what the caller is to be told."""


class Chat:
    """The endpoint. A client that leaves changes nothing: the turn goes on and is charged."""

    def __init__(self, services: Services, start_chat: StartChat) -> None:
        self._services = services
        self._start_chat = start_chat

    async def send(self, exchange: Exchange, request: web.BaseRequest) -> Reply | web.StreamResponse:
        """200 with events (see `chat_events`), or with `stream: false` the data of the final as JSON.

        What is known before the answer begins has its own status: 400, 403, 404, 409, 429, 502, 503, 504.
        """
        body = parse(SendBody, await exchange.request.json())
        check(body)
        message = await self._message(exchange, body)
        turn = await self._start_chat(exchange, message, request)
        model = turn.exchange.model or ""
        meter = TurnMeter(self._services.counter, model.partition("/")[2])
        answer = Answer(turn.stream_id, model, exchange.id, meter)
        tenant_id, turn_id = exchange.signed_in().tenant_id, turn.exchange.turn_id
        warning = QuotaWarning(self._services.usage.standings, tenant_id, turn_id)
        if body.stream:
            return await stream(exchange, request, turn, answer, warning)
        return await collect(turn, answer, warning)

    async def _message(self, exchange: Exchange, body: SendBody) -> dict[str, Any]:
        """The message for LibreChat; in a conversation that goes on, after its last message and with its model."""
        history: list[dict[str, Any]] = []
        if body.conversation_id is not None:
            identity = exchange.signed_in()
            shadows = self._services.shadows
            shadow = await shadows.get(identity.tenant_id, identity.workspace_id, identity.user_id)
            bearer = await shadows.bearer(shadow)
            history = await self._services.client.messages(bearer, body.conversation_id)
            if not history:
                raise Refused(404, "conversation_not_found", "There is no such conversation.")
        endpoint, model = chosen_model(body, history)
        parent = body.parent_message_id or (str(history[-1].get("messageId")) if history else ROOT)
        return librechat_message(body, endpoint, model, parent, datetime.now(UTC))


async def stream(
    exchange: Exchange, request: web.BaseRequest, turn: Turn, answer: Answer, warning: QuotaWarning
) -> web.StreamResponse:
    """Send the answer's events as they come; those that come together are written together."""
    standing = await warning.look()
    response = EventSourceResponse(sep="\n", allow_all_methods=True, send_timeout=None)
    secure(response.headers, exchange)
    response.headers["X-Conversation-Id"] = turn.stream_id
    response.headers.update(headers_of(standing))
    try:
        await response.prepare(request)
        async with response:  # it pings a client that waits for a slow model
            if told := warning.event(standing):
                await response.write(told[0].raw)
            async for events in client_events(turn, answer):
                portion = await warning.before_end(events)
                await response.write(b"".join([event.raw for event in portion]))
        await response.write_eof()
    except ConnectionError as error:
        raise ClientLeft from error
    return response


async def collect(turn: Turn, answer: Answer, warning: QuotaWarning) -> Reply:
    """Wait for the end. Raises Refused when there is no answer."""
    events = [event async for portion in client_events(turn, answer) for event in portion]
    last = events[-1]
    if last.name == "error":
        status = 403 if last.data["code"] == "model_not_available" else 502
        raise Refused(status, last.data["code"], last.data["message"])
    headers = {"Cache-Control": "no-store", "X-Conversation-Id": turn.stream_id}
    return Reply.of_json(200, last.data, {**headers, **headers_of(await warning.look())})


async def client_events(turn: Turn, answer: Answer) -> AsyncIterator[list[ClientEvent]]:
    """What the client gets, in portions that came together. The last event is a final or an error."""
    parser = SseParser()
    async for piece in turn.log.follow():
        events = [each for event in parser.feed(piece) for each in answer.read(event)]
        if events:
            yield events
    if not answer.ended:
        yield [answer.fail()]
