"""A model provider on a real socket, that answers what the test says and keeps what it was sent."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from geko_proxy.config.llm_settings import DeploymentSettings, LlmProviderSettings, LlmSettings
from geko_proxy.llm.pool import Answer, ProviderPool

Reply = web.StreamResponse | int | Exception | Callable[["Seen"], Awaitable[web.StreamResponse]]


@dataclass
class Seen:
    """A request that came."""

    request: web.BaseRequest
    body: bytes

    @property
    def model(self) -> str:
        return str(msgspec.json.decode(self.body)["model"])


@dataclass
class Provider:
    """Answers with `replies`, one after the other, then with 200; an int is a status, an exception cuts the line."""

    url: str = ""
    replies: list[Reply] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        seen = Seen(request, await request.read())
        self.seen.append(seen)
        reply = self.replies.pop(0) if self.replies else web.json_response({"served_by": self.url})
        if isinstance(reply, int):
            return web.json_response({"error": {"message": "sk-secret-of-geko"}}, status=reply)
        if isinstance(reply, Exception):
            assert request.transport is not None
            request.transport.close()
            raise reply
        return reply if isinstance(reply, web.StreamResponse) else await reply(seen)

    async def hang(self, _: Seen) -> web.StreamResponse:
        """Never answer; `left` is set when the caller is gone."""
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()
        raise AssertionError

    def deployment(self, **changes: Any) -> DeploymentSettings:
        return DeploymentSettings(
            **{"base_url": f"{self.url}/v1", "name": self.url.rpartition(":")[2], "key": "sk-1"} | changes
        )


@asynccontextmanager
async def serving(*replies: Reply) -> AsyncIterator[Provider]:
    """A provider that runs."""
    provider = Provider(replies=list(replies))
    runner = web.ServerRunner(web.Server(provider.handle, handler_cancellation=True), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    provider.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield provider
    finally:
        await runner.cleanup()


class Time:
    """A clock that goes on only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)
        self.now += seconds


def provider_settings(name: str, *deployments: DeploymentSettings, **changes: Any) -> LlmProviderSettings:
    return LlmProviderSettings(name=name, deployments=deployments, **changes)


def pool_of(*providers: LlmProviderSettings, time: Time, chance: float = 0.5, **llm: Any) -> ProviderPool:
    return ProviderPool(
        LlmSettings(**llm), providers, clock=time.clock, sleep=time.sleep, chance=lambda: chance
    )


async def ask(pool: ProviderPool, *targets: str, **changes: Any) -> Answer:
    """Sends a chat completion to targets like "Mock/gpt-4o"."""
    pairs = [(provider, model) for provider, _, model in (target.partition("/") for target in targets)]
    options: dict[str, Any] = {"content_type": "application/json", "streams": True} | changes
    headers = options.pop("headers", ())
    return await pool.send(pairs, "/chat/completions", _body, headers, **options)


def _body(model: str) -> bytes:
    return msgspec.json.encode({"model": model})


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def raw_server(script: Script, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server of bytes; its port. Each connection is closed when the script is through with it."""
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            try:
                await script(reader, writer)
            finally:
                writer.close()
                await writer.wait_closed()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await asyncio.gather(*running)
