"""The provider's server: routes, the books over HTTP, standing orders, and the command line."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Final, Self

import uvloop
from aiohttp import web

from geko_proxy.demo.provider import media
from geko_proxy.demo.provider.answers import Refusal, Service, answer, check_key, headers_of, read_json
from geko_proxy.demo.provider.books import Books
from geko_proxy.demo.provider.failures import error_reply
from geko_proxy.demo.provider.orders import BadOrder, Order, words_of
from geko_proxy.demo.provider.shape import Json, encode

MODELS: Final = (
    "gpt-4o", "gpt-4o-mini", "claude-sonnet-4", "text-embedding-3-small", "gpt-image-1", "gpt-4o-transcribe",
    "gpt-4o-mini-tts", "whisper-1", "dall-e-3",
)  # fmt: skip
MAX_BODY_BYTES: Final = 64 * 2**20
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class MockProvider:
    """`async with MockProvider() as provider: provider.url, provider.books`

    models: what GET /v1/models lists; calls may name any model. key: what callers must show; empty: anything.
    default_tokens, default_delay_ms: of answers whose order does not say.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        models: tuple[str, ...] = MODELS,
        key: str = "",
        default_tokens: int = 20,
        default_delay_ms: float = 0.0,
    ) -> None:
        self.host, self.port = host, port
        self.service = Service(models, default_tokens, default_delay_ms, key)
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where it listens; the APIs are below `/v1` and below `/any/thing/v1`."""
        return f"http://{self.host}:{self.port}"

    @property
    def books(self) -> Books:
        """What it served."""
        return self.service.books

    def order(self, model: str, order: str) -> None:
        """A standing order for a model, or for all (`*`); an empty one ends it. Raises BadOrder."""
        words = words_of(order) if order.strip() else {}
        Order.read(words)
        self.service.standing[model] = words
        self.service.books.forget_failures(("standing", model))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; port 0 becomes the port that was free."""
        self._runner = web.AppRunner(
            self._app(),
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=75,
            shutdown_timeout=0.1,
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port, backlog=1024).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close; calls that run are cut."""
        if self._runner is not None:
            await self._runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        service = self.service
        apis: dict[str, _Handler] = {
            "chat/completions": partial(answer, service, api="chat_completions"),
            "responses": partial(answer, service, api="responses"),
            "messages": partial(answer, service, api="messages"),
            "embeddings": partial(media.embeddings, service),
            "images/generations": partial(media.images, service),
            "audio/transcriptions": partial(media.transcriptions, service),
            "audio/speech": partial(media.speech, service),
        }
        for prefix in ("", "/{prefix:.+}"):
            for path, handler in apis.items():
                app.router.add_post(f"{prefix}/v1/{path}", handler)
            app.router.add_get(f"{prefix}/v1/models", partial(models, service))
            app.router.add_get(f"{prefix}/v1/models/{{model}}", partial(model, service))
        app.router.add_get("/served", partial(served, service))
        app.router.add_delete("/served", partial(reset, service))
        app.router.add_put("/orders", self._put_orders)
        app.router.add_get("/healthz", _health)
        return app

    async def _put_orders(self, request: web.Request) -> web.StreamResponse:
        """PUT /orders: standing orders by model; an empty text ends one."""
        try:
            for name, words in (await read_json(request)).items():
                self.order(name, str(words))
        except Refusal as refused:
            return error_reply("", refused.status, str(refused))
        except BadOrder as bad:
            return error_reply("", 400, str(bad))
        return _json({"standing": self.service.standing})


async def models(service: Service, request: web.Request) -> web.StreamResponse:
    """GET /v1/models; noted, with no usage."""
    service.lists.append({"path": request.path, "headers": headers_of(request)})
    try:
        check_key(service, request)
        _fail_as_ordered(service)
    except Refusal as refused:
        return error_reply("", refused.status, str(refused))
    return _json({"object": "list", "data": [_model(name) for name in service.models]})


async def model(service: Service, request: web.Request) -> web.StreamResponse:
    """GET /v1/models/{model}"""
    name = request.match_info["model"]
    if name not in service.models:
        return error_reply("", 404, f"The model '{name}' does not exist", param="model")
    return _json(_model(name))


def _fail_as_ordered(service: Service) -> None:
    """A provider that is down for all models lists none."""
    order = Order.read(service.standing.get("*") or {})
    if order.status is not None:
        raise Refusal(order.status, order.message or f"mock failure {order.status}")


def _model(name: str) -> Json:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "mock"}


async def served(service: Service, request: web.Request) -> web.StreamResponse:
    """GET /served[?calls=0]: the books."""
    shown = service.books.shown(with_calls=request.query.get("calls") != "0")
    return _json({**shown, "modelLists": service.lists[-1000:]})


async def reset(service: Service, request: web.Request) -> web.StreamResponse:
    """DELETE /served: new books; standing orders stay."""
    service.books.reset()
    service.lists.clear()
    return web.Response(status=204)


async def _health(request: web.Request) -> web.StreamResponse:
    return web.Response(text="ok")


def _json(body: Json) -> web.Response:
    return web.Response(body=encode(body), content_type="application/json")


async def run(provider: MockProvider) -> None:
    """Serve until SIGINT or SIGTERM."""
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with provider:
        print(f"listening on {provider.url}", flush=True)
        await ended.wait()


def main(arguments: list[str] | None = None) -> None:
    """`python -m geko_proxy.demo.provider`"""
    parser = argparse.ArgumentParser(prog="python -m geko_proxy.demo.provider", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8081, help="0: any free port")
    parser.add_argument("--key", default="", help="what callers must show; empty: anything")
    parser.add_argument(
        "--models", default=",".join(MODELS), help="what GET /v1/models lists, separated by commas"
    )
    parser.add_argument("--tokens", type=int, default=20, help="words of an answer that nobody orders")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="pause before each word")
    given = parser.parse_args(arguments)
    provider = MockProvider(
        host=given.host,
        port=given.port,
        models=tuple(name for name in given.models.split(",") if name),
        key=given.key,
        default_tokens=given.tokens,
        default_delay_ms=given.delay_ms,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(provider))
