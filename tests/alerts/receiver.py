"""A real receiver of webhooks on loopback, which fails, hangs or redirects as a test says. Not a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook


@dataclass
class Received:
    """One request. path: where it came to."""

    path: str
    headers: dict[str, str]
    body: bytes

    def verified(self, secret: str) -> Any:
        """The JSON, checked with the library of Standard Webhooks."""
        return Webhook(secret).verify(self.body, self.headers)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """answers: what the next requests get, a status, "hang", "break" or a Response; then 200."""

    url: str = ""
    answers: list[Any] = field(default_factory=list)
    got: list[Received] = field(default_factory=list)
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.got.append(Received(request.path, headers, await request.read()))
        answer = self.answers.pop(0) if self.answers else 200
        if answer == "hang":
            await self.closing.wait()
        if answer == "break":
            assert request.transport is not None
            request.transport.abort()
        if isinstance(answer, web.StreamResponse):
            return answer
        return web.Response(status=answer if isinstance(answer, int) else 200)

    async def wait_for(self, number: int, seconds: float = 10) -> list[Received]:
        """What has come, once it is so many."""
        async with asyncio.timeout(seconds):
            while len(self.got) < number:
                await asyncio.sleep(0.01)
        return self.got


@asynccontextmanager
async def receiving(*answers: Any) -> AsyncIterator[Receiver]:
    """A receiver that listens."""
    receiver = Receiver(answers=list(answers))
    runner = web.ServerRunner(web.Server(receiver.handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    receiver.url = f"http://{host}:{port}/hook"
    try:
        yield receiver
    finally:
        receiver.closing.set()
        await runner.cleanup()
