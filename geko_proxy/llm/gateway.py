"""The way of one model call: key, whose it is, filters, provider, filters, LibreChat. The LLM side's `proxy`."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import unquote

from aiohttp import web
from multidict import CIMultiDict

from geko_proxy import relay
from geko_proxy.config.llm_settings import LlmProviderSettings
from geko_proxy.door import Door
from geko_proxy.errors import Refused, UpstreamError
from geko_proxy.exchange import Exchange, Reply, Request, Route
from geko_proxy.failures import refused_by
from geko_proxy.filters.chain import Chain
from geko_proxy.filters.metered_answers import answer_of
from geko_proxy.llm.attribution import Attribution
from geko_proxy.llm.call import LlmCall
from geko_proxy.llm.catalogue import Catalogue
from geko_proxy.llm.one_piece import in_one_piece
from geko_proxy.llm.pool import Answer, ProviderPool
from geko_proxy.llm.provider_headers import reply_headers
from geko_proxy.llm.routes import PATHS
from geko_proxy.llm.wire import FORMS, form_call, model_call
from geko_proxy.llm.wire.base import ModelCall
from geko_proxy.llm.wire.errors import refusal_body

log = logging.getLogger("geko.llm")
access = logging.getLogger("geko.access")

# LibreChat's OpenAI library tries 408, 409, 429 and 5xx again, for two minutes; what a limit refuses stays refused.
FINAL_STATUS: Final = 402
QUOTA_CODES: Final = frozenset({"quota_exceeded", "key_budget_exceeded"})
READABLE: Final = frozenset({"chat_completions", "responses", "messages", "embeddings", "images"})
NO_RETRY: Final = {"x-should-retry": "false"}


class Gateway:
    """Handles every request of the internal listener. key: what LibreChat must show; metrics: their text."""

    def __init__(
        self,
        *,
        door: Door,
        chain: Chain,
        attribution: Attribution,
        pool: ProviderPool,
        providers: Sequence[LlmProviderSettings],
        catalogue: Catalogue,
        key: str,
        metrics: Callable[[], bytes],
        access_log: bool,
    ) -> None:
        self._door = door
        self._chain = chain
        self._attribution = attribution
        self._pool = pool
        self._apis = {each.name: each.api for each in providers}
        self._catalogue = catalogue
        self._key = key.encode()
        self._metrics = metrics
        self._access_log = access_log
        self._finishing: set[asyncio.Task[None]] = set()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One call from its head to the last byte of its reply."""
        exchange = self._door.open(request)
        status = 499  # LibreChat left before there was a status
        try:
            self._check_key(exchange)
            reply = await self._answer(exchange)
            status = reply.status
            hooks = self._chain.events(exchange) if reply.is_event_stream else None
            call = exchange.state.get(LlmCall)
            if call is not None and call.shape.is_collected and reply.is_event_stream:
                reply, hooks = await in_one_piece(reply, call.shape, hooks), None
            return await relay.send(request, exchange, reply, hooks)
        except relay.ClientLeft:
            return web.Response(status=499)
        except Exception as error:  # noqa: BLE001  # the last place: whatever it is becomes a reply
            reply = failure(exchange, error)
            status = reply.status
            return await relay.send(request, exchange, reply, None)
        finally:
            if exchange.reply is not None:
                exchange.reply.close()  # when it was not sent: the provider would write on for nobody
            if self._access_log:
                log_access(exchange, status)
            if self._chain.must_finish(exchange):
                await self._finish(exchange)

    async def _finish(self, exchange: Exchange) -> None:
        """Also when LibreChat has left: what was used is charged all the same."""
        finishing = asyncio.create_task(self._chain.finish(exchange))
        self._finishing.add(finishing)
        finishing.add_done_callback(self._finishing.discard)
        await asyncio.shield(finishing)

    async def drain(self) -> None:
        """Wait until what has ended is charged."""
        if self._finishing:
            await asyncio.wait(set(self._finishing))

    async def _answer(self, exchange: Exchange) -> Reply:
        if exchange.operation == "health":
            return Reply.of_json(200, {"status": "ok"})
        if exchange.operation == "metrics":
            return Reply(200, CIMultiDict({"Content-Type": "text/plain; version=0.0.4"}), self._metrics())
        if exchange.route is not Route.LLM:
            raise self._door.refusal(exchange)
        provider = unquote(exchange.params["provider"])
        if provider not in self._apis:
            raise Refused(404, "unknown_provider", f"There is no provider {provider!r} in [[llm_providers]].")
        if exchange.operation == "models":
            return await self._list_models(exchange, provider)
        return await self._call(exchange, provider)

    def _check_key(self, exchange: Exchange) -> None:
        if exchange.operation == "health":
            return
        headers = exchange.request.headers
        scheme, _, shown = headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            shown = headers.get("x-api-key", "")
        if not hmac.compare_digest(shown.strip().encode(errors="replace"), self._key):
            raise Refused(401, "invalid_api_key", "The key of this listener is llm.key of GEKO's settings.")

    async def _list_models(self, exchange: Exchange, provider: str) -> Reply:
        exchange.user = await self._attribution.identify(exchange.request)
        reply = await self._chain.request(exchange)
        if reply is None:
            reply = await self._catalogue.reply(provider, exchange.config)
        return await self._chain.reply(exchange, reply)

    async def _call(self, exchange: Exchange, provider: str) -> Reply:
        body, shape = await read_call(exchange)
        exchange.user = await self._attribution.identify(exchange.request)
        call = LlmCall(shape, await self._attribution.origin(exchange, body), provider)
        call.is_form = exchange.operation in FORMS
        exchange.state[LlmCall] = call
        exchange.model = f"{provider}/{shape.model}"
        reply = await self._chain.request(exchange)
        if reply is None:
            edited = body if call.is_form else await exchange.request.json()
            if edited is not body:  # by a filter
                call.shape = model_call(exchange.operation, {**edited, "model": shape.model})
            if answer_of(exchange) is None:
                call.shape.is_collected = False  # nobody meters it, so nobody will cut it
            reply = await self._ask(exchange, call)
        reply = await self._chain.reply(exchange, reply)
        check_readable(exchange, reply)
        return reply

    async def _ask(self, exchange: Exchange, call: LlmCall) -> Reply:
        answer = await self._pool.send(
            self._targets(exchange, call),
            PATHS[exchange.operation],
            call.shape.body_for,
            caller_headers(exchange.request),
            content_type=exchange.request.headers["Content-Type"] if call.is_form else "application/json",
            streams=call.shape.streams or call.shape.is_collected,
            on_left=call.note_left,
        )
        call.answered = (answer.provider, answer.model)
        answer.reply.on_broken = lambda: self._pool.broke_off(answer)
        return reply_of(answer)

    def _targets(self, exchange: Exchange, call: LlmCall) -> Sequence[tuple[str, str]]:
        """What was asked for, then the workspace's fallbacks that it may use itself."""
        asked = (call.provider, call.shape.model)
        targets = [asked]
        config = exchange.config
        if not self._pool.serves(*asked):
            return targets  # its name would be a way around the limits of the fallback's model
        for entry in config.fallback if config is not None else ():
            provider, _, model = entry.partition("/")
            same_api = self._apis.get(provider) == self._apis[call.provider]
            if same_api and config is not None and config.allows_model(provider, model):
                targets.append((provider, model))
        return targets


async def read_call(exchange: Exchange) -> tuple[dict[str, Any], ModelCall]:
    """The body as JSON, empty for a form, and what it asks. Raises Refused."""
    request = exchange.request
    if exchange.operation in FORMS:
        return {}, form_call(await request.read(), request.headers.get("Content-Type", ""))
    body = await request.json()
    return body, model_call(exchange.operation, body)


def log_access(exchange: Exchange, status: int) -> None:
    """One line a call: what was asked and for whom, and who has answered."""
    if access.isEnabledFor(logging.INFO):
        call, user = exchange.state.get(LlmCall), exchange.user
        access.info(
            "%s llm %s %s %s %d %.1fms %s %s",
            exchange.id,
            call.origin.kind if call is not None else exchange.operation,
            exchange.model or "-",
            "/".join(call.answered) if call is not None and call.answered is not None else "-",
            status,
            (time.time() - exchange.started_at) * 1000,
            user.workspace_id if user is not None else "-",
            user.user_id if user is not None else "-",
        )


def caller_headers(request: Request) -> list[tuple[bytes, bytes]]:
    """The request's headers; the pool's allow-list decides which go on."""
    return [
        (name.encode(), value.encode(errors="surrogateescape")) for name, value in request.headers.items()
    ]


def reply_of(answer: Answer) -> Reply:
    """A provider's reply with the headers that LibreChat may see."""
    return Reply(answer.reply.status, reply_headers(answer.reply.headers), source=answer.reply)


def check_readable(exchange: Exchange, reply: Reply) -> None:
    """Whether the filters can read an answer: what nobody can count is not passed on. Raises UpstreamError."""
    if not 200 <= reply.status < 300 or exchange.operation not in READABLE:
        return
    kind, coding = reply.headers.get("Content-Type", ""), reply.headers.get("Content-Encoding", "identity")
    if coding.lower() != "identity":  # it was told to leave it (Accept-Encoding)
        raise UpstreamError("the provider's reply is compressed")
    if not reply.is_event_stream and not kind.lower().startswith("application/json"):
        raise UpstreamError(f"the provider's reply is neither JSON nor an event stream: {kind[:100]!r}")


def failure(exchange: Exchange, error: Exception) -> Reply:
    """Turn an exception into the reply, in the words of the API that was called."""
    if isinstance(error, UpstreamError):
        log.warning("%s: %s: %s", exchange.id, exchange.operation, error)
        # the provider may have billed it: LibreChat shall not ask for it again by itself
        text = "The model provider gave no usable answer."
        error = Refused(502, "provider_error", text, headers=NO_RETRY)
    refused = refused_by(exchange, error)
    status, headers = refused.status, dict(refused.headers or {})
    if refused.code in QUOTA_CODES:
        status = FINAL_STATUS
    if status in (FINAL_STATUS, 403):
        headers |= NO_RETRY
    elif refused.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, refused.retry_after_s))
    shown = refused if status == refused.status else with_status(refused, status)
    api = "messages" if exchange.operation == "messages" else "chat_completions"
    reply = Reply.of_json(status, refusal_body(api, shown), headers)
    reply.headers["Cache-Control"] = "no-store"
    return reply


def with_status(refused: Refused, status: int) -> Refused:
    """The same refusal with another status."""
    return Refused(status, "insufficient_quota", refused.message, librechat=refused.librechat)
