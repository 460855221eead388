"""The way of one request: classify, filters, LibreChat (or an endpoint of GEKO's own), filters, client."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from geko_proxy import relay
from geko_proxy.addresses import network_of
from geko_proxy.answers import Answers
from geko_proxy.config import ServerSettings
from geko_proxy.door import Door
from geko_proxy.errors import Refused, UpstreamError, UpstreamLimited
from geko_proxy.exchange import Exchange, Reply, Request, Route
from geko_proxy.failures import failure_reply
from geko_proxy.filters.chain import Chain
from geko_proxy.headers import cookies_for_librechat, reply_headers, request_headers
from geko_proxy.librechat import concurrent_refusal, refusal_in_event_text
from geko_proxy.librechat_limits import BAN_PAUSE_S, is_ban
from geko_proxy.peers.finder import Place
from geko_proxy.peers.forwarding import Peers
from geko_proxy.turn import Turn
from geko_proxy.turns import Turns
from geko_proxy.upstream import Upstream

if TYPE_CHECKING:
    from geko_proxy.accounts.agent_keys import AgentKeys
    from geko_proxy.accounts.shadow import ShadowAccounts
    from geko_proxy.librechat_client import LibreChatClient

log = logging.getLogger("geko.proxy")
access = logging.getLogger("geko.access")

Endpoint = Callable[[Exchange, web.BaseRequest], Awaitable[Reply | web.StreamResponse]]

ABORT_WAIT_S = 3.0


def nothing() -> None:
    """The default of what is done when GEKO stops."""


class Proxy:
    """Handles every request of the public listener."""

    def __init__(
        self,
        *,
        door: Door,
        endpoints: Mapping[str, Endpoint],
        chain: Chain,
        upstream: Upstream,
        client: LibreChatClient,
        shadows: ShadowAccounts,
        agent_keys: AgentKeys,
        turns: Turns,
        peers: Peers,
        answers: Answers,
        settings: ServerSettings,
        on_drain: Callable[[], None] = nothing,
    ) -> None:
        self._max_in_flight = settings.max_requests_per_address
        self._max_turns = settings.max_answers_per_user
        self.chain = chain
        self._on_drain = on_drain
        self._door = door
        self._endpoints = endpoints
        self._upstream = upstream
        self._client = client
        self._shadows = shadows
        self._agent_keys = agent_keys
        self._turns = turns
        self.peers = peers
        self._answers = answers
        self._access_log = settings.access_log
        self._in_flight: dict[str, int] = {}  # requests by client address

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request from its head to the last byte of its reply. The story of the whole proxy."""
        exchange = self._door.open(request, self.peers.admit(request))
        status = 499  # the client left before there was a status
        address = network_of(exchange.request.client_ip)
        counted = exchange.hop is None  # else the instance that passes it on has counted it
        if counted:
            self._in_flight[address] = self._in_flight.get(address, 0) + 1
        try:
            self.peers.check(exchange.hop)
            self._door.check_https(exchange, request)
            if counted and self._in_flight[address] > self._max_in_flight:
                raise Refused(429, "too_many_connections", "Too many requests at once.", retry_after_s=1)
            if exchange.route is Route.CHAT:
                # a chat message goes on when the client leaves, or its usage would be lost
                reply = await asyncio.shield(self._turns.spawn(self._chat(exchange, request)))
                response = await relay.send(request, exchange, reply, None)
            else:
                response = await self._plain(exchange, request)
            status = response.status
            return response
        except relay.ClientLeft:
            return web.Response(status=499)
        except Exception as error:  # noqa: BLE001  # the last place: whatever it is becomes a reply
            reply = failure_reply(exchange, error)
            status = reply.status
            return await relay.send(request, exchange, reply, None)
        finally:
            if counted:
                self._in_flight[address] -= 1
                if not self._in_flight[address]:
                    del self._in_flight[address]
            if exchange.route is not Route.CHAT:
                await self.chain.finish(exchange)
            if self._access_log:
                self._log(exchange, status)

    async def drain(self, timeout_s: float) -> None:
        """Let go who only watches; wait for running answers to end."""
        self._on_drain()
        await self._turns.drain(timeout_s)

    async def _plain(self, exchange: Exchange, request: web.BaseRequest) -> web.StreamResponse:
        reply = await self.chain.request(exchange)
        if reply is None:
            if exchange.route is Route.BLOCKED:
                raise self._door.refusal(exchange)
            endpoint = self._endpoints.get(exchange.operation)
            if endpoint is not None:
                if exchange.route is Route.PUBLIC and exchange.request.method == "POST":
                    self._door.check_origin(request)
                answer = await endpoint(exchange, request)
                if isinstance(answer, web.StreamResponse):
                    return answer
                return await relay.send(request, exchange, answer, None)
            if exchange.route is Route.STREAM:
                return await self._answers.listen(exchange, request)
            if exchange.operation == "chat.abort":
                reply = await self._stop(exchange, request)
            elif exchange.route is Route.AGENTS_API:
                reply = await self._ask_agents_api(exchange, request)
            else:
                reply = await self._forward(exchange, request)
            reply = await self.chain.reply(exchange, reply)
        hooks = self.chain.events(exchange) if reply.is_event_stream else None
        return await relay.send(request, exchange, reply, hooks)

    async def _stop(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """Stop a running answer of the caller, here or where it is read."""
        found = await self._answers.to_stop(exchange)
        if isinstance(found, Place):
            return await self.peers.forward(exchange, request, found)
        exchange.request.set_json({"streamId": found.stream_id, "conversationId": found.stream_id})
        reply = await self._forward(exchange, request)
        if reply.status == 200:
            await _end_of(found)
        return reply

    async def _chat(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """Start an answer; from then on the turn finishes the exchange."""
        started = False
        try:
            reply = await self.chain.request(exchange)
            if reply is None:
                with self._turns.place_for(exchange.signed_in().user_id, self._max_turns) as place:
                    if not place:
                        raise too_many_answers(self._max_turns)
                    reply, turn = await self._start_turn(exchange, request)
                    reply = await self.chain.reply(exchange, reply)
                    if turn is not None:
                        self._turns.start(turn, lambda: self.chain.finish(exchange))
                        started = True
            await reply.read()
            return reply
        finally:
            if not started:
                await self.chain.finish(exchange)

    async def start_chat(self, parent: Exchange, body: dict[str, Any], request: web.BaseRequest) -> Turn:
        """For GEKO's own chat endpoints: send a chat message as LibreChat's client would, through all filters.

        body: as LibreChat wants it (contract §4.1). Raises what the caller is to be told.
        """
        asked = Request(
            "POST",
            "/api/agents/chat",
            "",
            parent.request.headers,
            client_ip=parent.request.client_ip,
            cookies=parent.request.cookies,
            secure=parent.request.secure,
        )
        asked.set_json(body)
        exchange = Exchange(parent.id, asked, Route.CHAT, "chat", {}, parent.started_at)
        exchange.parent = parent
        reply = await asyncio.shield(self._turns.spawn(self._chat(exchange, request)))
        stream_id = _stream_id(reply.status, await reply.read())
        turn = None
        if stream_id is not None:
            turn = self._turns.find(exchange.signed_in().workspace_id, stream_id)
        if turn is None:
            raise Refused(502, "upstream_error", "LibreChat did not start an answer.")
        return turn

    async def _start_turn(self, exchange: Exchange, request: web.BaseRequest) -> tuple[Reply, Turn | None]:
        identity = exchange.signed_in()
        conversation_id = (await exchange.request.json()).get("conversationId")
        if isinstance(conversation_id, str) and conversation_id not in ("", "new"):
            if self._turns.running(identity.workspace_id, conversation_id):
                raise concurrent_refusal()
            await self._check_conversation(exchange, conversation_id)
        reply = await self._forward(exchange, request)
        body = await reply.read()
        stream_id = _stream_id(reply.status, body)
        if stream_id is None:
            if reply.status == 200:
                if is_ban(reply.status, body):
                    log.error(
                        "%s: LibreChat has banned an account: it needs BAN_VIOLATIONS=false", exchange.id
                    )
                    raise UpstreamLimited("LibreChat has banned an account", BAN_PAUSE_S)
                reason = refusal_in_event_text(body) or "LibreChat did not start an answer."
                raise Refused(403, "refused_by_librechat", reason)
            return reply, None
        shadow = await self._shadows.get(identity.tenant_id, identity.workspace_id, identity.user_id)
        hooks = self.chain.events(exchange)
        turn = Turn(exchange, stream_id, self._client, lambda: self._shadows.bearer(shadow), hooks)
        return reply, turn

    async def _check_conversation(self, exchange: Exchange, conversation_id: str) -> None:
        """A conversation that goes on must be there: LibreChat mixes answers of two people under one new id."""
        identity = exchange.signed_in()
        if self._turns.find(identity.workspace_id, conversation_id) is not None:
            return
        shadow = await self._shadows.get(identity.tenant_id, identity.workspace_id, identity.user_id)
        bearer = await self._shadows.bearer(shadow)
        if not await self._client.has_conversation(bearer, conversation_id) and not (
            await self._answers.ended_elsewhere(identity, conversation_id)
        ):
            raise Refused(404, "conversation_not_found", "There is no such conversation.")

    async def _ask_agents_api(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """Send with the shadow account's key; once more with a new one if LibreChat does not know it any more."""
        identity, asked = exchange.signed_in(), exchange.request
        key = await self._agent_keys.get(identity)
        asked.set_header("authorization", f"Bearer {key}")
        reply = await self._forward(exchange, request)
        if reply.status != 401:
            return reply
        reply.close()
        another = await self._agent_keys.get(identity, refused=key)
        asked.set_header("authorization", f"Bearer {another}")
        reply = await self._forward(exchange, request)
        if reply.status == 401:  # not the caller's doing, who is signed in
            reply.close()
            raise UpstreamError("LibreChat takes no keys: is endpoints.agents.remoteApi.auth.apiKey off?")
        return reply

    async def _forward(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """Send the exchange to LibreChat as the caller's shadow account; give back head and unread body."""
        asked = exchange.request
        filtered = exchange.route in (Route.DISCOVERY, Route.CHAT, Route.AGENTS_API)
        await self._identify(exchange)
        headers = request_headers(
            asked,
            request.raw_headers,
            forwarded_for=asked.client_ip,
            forwarded_host=request.host if exchange.hop is None else exchange.hop.host,
            request_id=exchange.id,
            keep_conditionals=not filtered,
            keep_encoding=not filtered,
        )
        target = asked.path + ("?" + asked.query if asked.query else "")
        length = request.content_length if asked.source is not None else None
        reply = await self._upstream.request(
            asked.method, target, headers, asked.body if asked.source is None else asked.source,
            content_length=length,
        )  # fmt: skip
        kept = reply_headers(reply.headers, self._upstream.origin)
        if exchange.route is Route.MEDIA:
            kept["Cache-Control"] = "private, max-age=3600"
        if reply.bodiless:
            return Reply(reply.status, kept)
        if reply.complete and not kept.get("Content-Type", "").startswith("text/event-stream"):
            return Reply(reply.status, kept, await reply.read_chunk())  # small: head and body in one write
        return Reply(reply.status, kept, source=reply)

    async def _identify(self, exchange: Exchange) -> None:
        """Put the shadow account's credentials on the request; the client's own never go on."""
        extra: dict[str, str] = {}
        identity = exchange.user
        if identity is not None and exchange.route is not Route.ASSET:
            shadow = await self._shadows.get(identity.tenant_id, identity.workspace_id, identity.user_id)
            if exchange.route is Route.MEDIA:
                extra["refreshToken"] = await self._shadows.credentials.refresh_cookie(shadow)
            elif exchange.route is not Route.AGENTS_API:
                bearer = await self._shadows.bearer(shadow)
                exchange.request.overrides["authorization"] = "Bearer " + bearer
        cookies = exchange.request.cookies
        if cookies or extra:
            header = cookies_for_librechat(cookies, extra)
            if header:
                exchange.request.overrides["cookie"] = header

    def _log(self, exchange: Exchange, status: int) -> None:
        if access.isEnabledFor(logging.INFO):
            user = exchange.user
            access.info(
                "%s %s %s %d %.1fms %s %s",
                exchange.id,
                exchange.request.method,
                shown_path(exchange),  # without the query: it may hold secrets (contract trap 24)
                status,
                (time.time() - exchange.started_at) * 1000,
                exchange.request.client_ip,
                user.user_id if user is not None else "-",
            )


def shown_path(exchange: Exchange) -> str:
    """The path for the log, without the secret of a link."""
    token = exchange.params.get("token")
    return exchange.request.path.replace(token, "…") if token else exchange.request.path


async def _end_of(turn: Turn) -> None:
    """Wait for an aborted answer's last event.

    LibreChat sends it before it answers the abort, and its client counts on that: the other way round the next
    message of a new chat stays in the input box.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(ABORT_WAIT_S):
            await turn.over.wait()


def too_many_answers(limit: int) -> Refused:
    """One person may not take all of LibreChat's connections."""
    return Refused(429, "too_many_answers", f"{limit} answers are running already.", retry_after_s=5)


def _stream_id(status: int, body: bytes) -> str | None:
    if status != 200:
        return None
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None
    stream_id = value.get("streamId") if isinstance(value, dict) else None
    return stream_id if isinstance(stream_id, str) and stream_id else None
