"""The stand-in's server: all state in one object, one dispatcher in Express's order, `main` for the command line."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

import msgspec
from aiohttp import web

from geko_proxy.demo.librechat import accounts, discovery, faults, pages, sign_in
from geko_proxy.demo.librechat.accounts import Account, Accounts
from geko_proxy.demo.librechat.chat import balance, chats
from geko_proxy.demo.librechat.chat.provider import ModelProvider, Provider
from geko_proxy.demo.librechat.chat.streams import Jobs
from geko_proxy.demo.librechat.chat.titles import Titles
from geko_proxy.demo.librechat.express import (
    MAX_JSON_BYTES,
    Json,
    before_middleware,
    compressed,
    finish_headers,
    json_reply,
    not_modified,
    object_id,
    text_reply,
)
from geko_proxy.demo.librechat.faults import CONTROL, Faults, Received
from geko_proxy.demo.librechat.library import agents, conversations, files, keys, messages, shares, shelf
from geko_proxy.demo.librechat.limits import Limiters, Violations, browser_wall
from geko_proxy.demo.librechat.llm.client import LlmClient
from geko_proxy.demo.librechat.remote import access, completions, responses
from geko_proxy.demo.librechat.routes import Call, Guard, Route, Routes
from geko_proxy.demo.librechat.settings import Endpoint, Settings, hidden_name, llm_endpoints

_log = logging.getLogger(__name__)
_PARTS = (
    sign_in.ROUTES, discovery.ROUTES, chats.ROUTES, balance.ROUTES, completions.ROUTES, responses.ROUTES, agents.ROUTES,
    conversations.ROUTES, messages.ROUTES, files.ROUTES, shares.ROUTES, keys.ROUTES, shelf.ROUTES,
)  # fmt: skip
ROUTES = Routes(row for part in _PARTS for row in part)
_PAGE = Route("GET", "/", pages.page, Guard.OPEN)


class StandIn:
    """A LibreChat of its own: `async with StandIn(jwt_secret="…", jwt_refresh_secret="…") as lc: lc.url`.

    Every keyword of Settings works here. `faults` takes failures by order, `provider.log` has the model calls.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        **switches: Any,
    ) -> None:
        if settings is None:
            switches = {"jwt_secret": "stand-in", "jwt_refresh_secret": "stand-in-refresh", **switches}
            settings = Settings(**switches)
        self.settings = settings
        self.endpoints = settings.endpoints
        self.host, self.port = host, port
        self.faults = Faults()
        self.accounts = Accounts(
            settings.jwt_secret, settings.jwt_refresh_secret, settings.session_s, settings.refresh_s
        )
        self.provider: ModelProvider = LlmClient(settings) if settings.llm_url else _built_in(settings)
        self.memories: dict[str, dict[str, str]] = {}
        self.jobs = Jobs(settings.error_job_s, settings.completed_job_s)
        self.conversations = conversations.Conversations()
        self.titles = Titles()
        self.files = files.Files()
        self.shares = shares.Shares()
        self.agents = agents.Agents()
        self.api_keys = keys.ApiKeys()
        self.shelves = shelf.Shelves()
        self.stored_responses: dict[tuple[str, str], Json] = {}
        self.violations = Violations()
        self.limiters = Limiters(settings)
        self.role_ids = {"USER": object_id(), "ADMIN": object_id()}
        self._tasks: set[asyncio.Task[None]] = set()
        self._runner: web.AppRunner | None = None

    def endpoint(self, name: object) -> Endpoint | None:
        """The endpoint of this name."""
        return next((endpoint for endpoint in self.endpoints if endpoint.name == name), None)

    @property
    def url(self) -> str:
        """Where it listens, without a trailing slash."""
        return f"http://{self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; port 0 becomes the port that was free."""
        if isinstance(self.provider, LlmClient):
            await self.provider.open()
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self._serve)
        app.on_response_prepare.append(finish_headers)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, keepalive_timeout=5, shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Cancel all runs and close."""
        await self.jobs.stop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()
        if isinstance(self.provider, LlmClient):
            await self.provider.close()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run beside everything; ended by `stop`."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def fail(self, path: str, kind: faults.FaultKind, times: int = 1, **more: Any) -> None:
        """Order a failure for the next `times` requests to `path`; see faults.Fault."""
        self.faults.orders.append(faults.Fault(path, kind, times, **more))

    def received(self, path: str) -> list[Received]:
        """All requests to a path (query left out), the oldest first."""
        return [r for r in self.faults.received if r.path.partition("?")[0] == path]

    def forget(self, account: Account) -> None:
        """Delete an account with all it has."""
        for conversation in self.conversations.of(account.id):
            self.conversations.delete(conversation)
            self.shares.drop(conversation.doc["conversationId"])
        for file in self.files.of(account.id):
            self.files.delete(file.doc["file_id"])
        for agent in self.agents.all_visible(account):
            if agent.doc["author"] == account.id:
                self.agents.delete(agent.id)
        for key in self.api_keys.of(account):
            self.api_keys.delete(account, key.id)
        self.shelves.pop(account.id, None)
        self.memories.pop(account.id, None)
        self.accounts.remove(account)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.path.startswith(CONTROL):
            return await faults.control(request, self.faults, self.provider.log)
        fault = self.faults.take(request)
        reply = await faults.before(request, fault) if fault is not None else None
        if reply is None:
            reply = await self._answer(request)
        if isinstance(reply, web.Response) and not reply.prepared:
            reply = not_modified(request, reply)
            if self.settings.compression:
                reply = compressed(request, reply)
        return await faults.cut_short(request, reply)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        if request.method == "OPTIONS":
            return _preflight(request)
        call = Call(request, self)
        bad = await _read_body(call)
        if bad is not None:
            return bad
        found = ROUTES.find(request.method, path)
        if found is None:
            if path.lower().startswith("/api/") or path.lower() == "/api":
                return json_reply({"message": "Endpoint not found"}, 404)
            found = (_PAGE, {})
        row, call.params = found
        refused = _guard(call, row.guard)
        if refused is not None:
            return refused
        try:
            return await row.handler(call)
        except Exception:  # noqa: BLE001  Express's last handler: whatever a body's wrong types led to
            _log.exception("%s %s", request.method, path)
            return text_reply("An unknown error occurred.", 500)


def _built_in(settings: Settings) -> Provider:
    return Provider(
        settings.default_tokens,
        settings.default_delay_ms,
        settings.provider_retries,
        settings.provider_retry_s,
    )


def _preflight(request: web.Request) -> web.Response:
    headers = {
        "Access-Control-Allow-Methods": "GET,HEAD,PUT,PATCH,POST,DELETE",
        "Vary": "Access-Control-Request-Headers",
        "Content-Length": "0",
    }
    asked = request.headers.get("Access-Control-Request-Headers")
    return web.Response(
        status=204, headers=headers | ({"Access-Control-Allow-Headers": asked} if asked else {})
    )


async def _read_body(call: Call) -> web.Response | None:
    """The JSON parser, before any route; returns its complaint. Other bodies are left to their handlers."""
    request = call.request
    if request.content_type != "application/json" or not request.body_exists:
        return None
    raw = b""
    async for chunk in request.content.iter_any():
        raw += chunk
        if len(raw) > MAX_JSON_BYTES:
            return text_reply("An unknown error occurred.", 500)
    try:
        parsed = msgspec.json.decode(raw) if raw.strip() else {}
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = {"error": "Invalid JSON format", "message": "The request body contains malformed JSON"}
        return before_middleware(json_reply(said, 400))
    call.body = parsed if isinstance(parsed, dict) else {}
    return None


def _guard(call: Call, guard: Guard) -> web.Response | None:
    """Sign the caller in as the route wants it; returns the refusal."""
    if guard is Guard.OPEN:
        return None
    if guard is Guard.KEY:
        return access.key_error(call)
    try:
        call.account = call.lc.accounts.from_bearer(call.request.headers.get("Authorization"))
    except accounts.Unauthorized as refused:
        return None if guard is Guard.OPTIONAL else json_reply({"message": str(refused)}, 401)
    except accounts.CastError:
        return text_reply("An unknown error occurred.", 500)
    return browser_wall(call) if guard is Guard.BROWSER else None


async def run(lc: StandIn) -> None:
    """Serve until SIGINT or SIGTERM."""
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with lc:
        print(f"listening on {lc.url}", flush=True)
        await ended.wait()


def _with_llm(given: dict[str, Any]) -> dict[str, Any]:
    """Settings from the arguments for real model calls."""
    names = given.pop("endpoint") or ["Mock", "MockUsage"]
    models = {kind: given.pop(f"{kind}_model") for kind in ("memory", "summary")}
    if not given["llm_url"]:
        return given
    hidden = {kind: (hidden_name(names[0], kind), model) for kind, model in models.items() if model}
    return {**given, "endpoints": llm_endpoints(*names), **hidden}


def main(arguments: list[str] | None = None) -> None:
    """`python -m geko_proxy.demo.librechat`"""
    parser = argparse.ArgumentParser(prog="python -m geko_proxy.demo.librechat", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3080, help="0: any free port")
    parser.add_argument("--jwt-secret", required=True)
    parser.add_argument("--jwt-refresh-secret", required=True)
    parser.add_argument("--secure-image-links", action="store_true")
    parser.add_argument("--compression", action="store_true")
    llm = parser.add_argument_group("real model calls")
    llm.add_argument("--llm-url", default="", help="their base URL; empty: the built-in provider answers")
    llm.add_argument("--llm-key", default="", help="the endpoints' apiKey")
    llm.add_argument(
        "--endpoint", action="append", help="an endpoint, named as its provider (default: Mock, MockUsage)"
    )
    llm.add_argument("--memory-model", default="", help="switches the memory agent on")
    llm.add_argument("--summary-model", default="", help="makes summaries instead of the answering model")
    given = _with_llm(vars(parser.parse_args(arguments)))
    host, port = given.pop("host"), given.pop("port")
    asyncio.run(run(StandIn(Settings(**given), host=host, port=port)))
