"""Listening to an answer and stopping it, wherever it is read: in this process or by another instance."""

from __future__ import annotations

import logging
from typing import Final
from uuid import UUID

from aiohttp import web

from geko_proxy import relay
from geko_proxy.accounts.tokens import Identity
from geko_proxy.errors import Refused, StoreError
from geko_proxy.exchange import Exchange
from geko_proxy.librechat import error_part
from geko_proxy.peers.finder import Place, TurnFinder
from geko_proxy.peers.forwarding import Peers
from geko_proxy.sse import SseEvent
from geko_proxy.turn import Turn
from geko_proxy.turns import Turns

log = logging.getLogger("geko.answers")

BEGIN_WAIT_S: Final = 5.0  # a message that LibreChat has not answered yet
LOST_TEXT: Final = "The answer broke off. Reload the page to see what was stored."


class Answers:
    """Serves requests about an answer that runs. A caller learns nothing about those of others."""

    def __init__(self, turns: Turns, finder: TurnFinder, peers: Peers) -> None:
        self._turns = turns
        self._finder = finder
        self._peers = peers

    async def listen(self, exchange: Exchange, request: web.BaseRequest) -> web.StreamResponse:
        """Serve a browser from the turn's log; `?resume=true` gets a `sync` first, as from LibreChat."""
        found = await self._find(exchange)
        if isinstance(found, Place):
            return await self._pass_on(exchange, request, found)
        resume = "resume=true" in exchange.request.query.split("&")
        first, start = await found.resume() if resume else (b"", 0)
        return await relay.send_log(request, exchange, found.log, first, start)

    async def _find(self, exchange: Exchange) -> Turn | Place:
        """The caller's turn of this stream, or where it is. Raises Refused."""
        caller, stream_id = exchange.signed_in(), exchange.params["streamId"]
        if exchange.hop is not None:
            turn = await self._expected(caller, stream_id, exchange.hop.turn_id)
        else:
            turn = self._turns.find(caller.workspace_id, stream_id)
            if turn is not None and turn.user_id != caller.user_id:
                raise Refused(403, "forbidden", "Unauthorized", librechat={"error": "Unauthorized"})
            if turn is None or turn.log.closed:  # the conversation may have gone on elsewhere
                place = await self._look_around(caller, stream_id, turn)
                if place is not None and not self._is_here(place):
                    if not place.running and not place.url:
                        raise stream_not_found()  # the page then takes what LibreChat has stored
                    return place
                if place is not None:
                    turn = await self._expected(caller, stream_id, place.turn_id) or turn
        if turn is None:
            raise stream_not_found()
        return turn

    async def _look_around(self, caller: Identity, stream_id: str, ended: Turn | None) -> Place | None:
        try:
            return await self._finder.find(caller, stream_id)
        except StoreError as error:
            if ended is None:
                raise
            log.warning("an answer that has ended here is taken for the last one: %s", error)
            return None

    def _is_here(self, place: Place) -> bool:
        return place.instance_id == self._peers.instances.instance_id

    async def _expected(self, caller: Identity, stream_id: str, turn_id: UUID) -> Turn | None:
        """The caller's turn of this id, once LibreChat has begun it. stream_id: "" for any."""
        turn = await self._turns.expect(turn_id, BEGIN_WAIT_S)
        if turn is None or (turn.workspace_id, turn.user_id) != (caller.workspace_id, caller.user_id):
            return None
        return turn if stream_id in ("", turn.stream_id) else None

    async def _pass_on(
        self, exchange: Exchange, request: web.BaseRequest, place: Place
    ) -> web.StreamResponse:
        reply = await self._peers.forward(exchange, request, place)
        if not reply.is_event_stream:
            return await relay.send(request, exchange, reply, None)
        lost = SseEvent.message({"error": error_part(LOST_TEXT)["error"]}, "error").raw
        return await relay.send_events(request, exchange, reply, lost)

    async def ended_elsewhere(self, caller: Identity, conversation_id: str) -> bool:
        """Whether another instance has read an answer of this conversation until a moment ago."""
        place = await self._finder.find(caller, conversation_id)
        return place is not None and not self._is_here(place)

    async def to_stop(self, exchange: Exchange) -> Turn | Place:
        """The running answer of the caller that an abort names, or the instance that reads it (contract trap 18).

        Raises Refused 404 where there is none: LibreChat would stop another one.
        """
        identity = exchange.signed_in()
        body = await exchange.request.json()
        named = (
            body.get("streamId")
            or body.get("conversationId")
            or str(body.get("abortKey") or "").split(":")[0]
        )
        found: Turn | Place | None = None
        if isinstance(named, str):
            found = await self._to_stop(exchange, identity, "" if named == "new" else named)
        if found is None:
            missing = {"error": "Job not found", "streamId": named}
            raise Refused(404, "job_not_found", "No such answer is running.", librechat=missing)
        return found

    async def _to_stop(self, exchange: Exchange, caller: Identity, named: str) -> Turn | Place | None:
        """named: empty for a new chat, whose page does not know its name yet."""
        if exchange.hop is not None:
            return _running(await self._expected(caller, named, exchange.hop.turn_id))
        turn = self._turns.running(caller.workspace_id, named) if named else None
        if turn is not None:
            return turn if turn.user_id == caller.user_id else None
        place = await (self._finder.find(caller, named) if named else self._latest(caller))
        if place is None:
            return None if named else self._turns.latest_of(caller.workspace_id, caller.user_id)
        if not place.running or not self._is_here(place):
            return place if place.running else None
        return _running(await self._expected(caller, named, place.turn_id))

    async def _latest(self, caller: Identity) -> Place | None:
        try:
            return await self._finder.latest(caller)
        except StoreError as error:
            log.warning("only answers of this instance can be stopped: %s", error)
            return None


def stream_not_found() -> Refused:
    """404 in LibreChat's words."""
    text = "The generation job does not exist or has expired."
    shown = {"error": "Stream not found", "message": text}
    return Refused(404, "stream_not_found", text, librechat=shown)


def _running(turn: Turn | None) -> Turn | None:
    return turn if turn is not None and not turn.log.closed else None
