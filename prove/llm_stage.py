"""Where the scenarios of the LLM side play: LibreChat calls its models through GEKO, and a provider keeps books."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiohttp

from bench.processes import free_port, python
from prove import servers
from prove.servers import Server
from prove.stage import Stage, User, client_of
from tests.e2e.gateway import KEY, toml
from tests.e2e.processes import JWT_REFRESH_SECRET, JWT_SECRET

MODELS = ("gpt-4o", "gpt-4o-mini")
PROVIDERS = ("Mock", "MockUsage", "Spare")
SETTLED_S = 60.0

LEDGER = """
select kind, endpoint, model, estimated, tokens, output_tokens from usage_events where workspace_id = $1"""
DOUBLE = """
select count(*) from turns t where t.workspace_id = $1 and t.metered_by_calls
    and exists (select from usage_events e
        where e.tenant_id = t.tenant_id and e.turn_id = t.turn_id and e.tokens <> 0)"""
OPEN = "select count(*) from turns where workspace_id = $1 and ended_at is null"


@dataclass
class LlmStage:
    """Two instances, each with an LLM side; the first one's is what LibreChat calls."""

    stage: Stage
    provider: Server
    librechat: Server
    instances: tuple[Server, ...]
    clients: tuple[aiohttp.ClientSession, ...]

    async def user(self, token_limit: int | None) -> User:
        """The owner of a fresh tenant, seen through each of these instances."""
        return await self.stage.user(token_limit, self.clients)

    async def order(self, orders: Mapping[str, str]) -> None:
        """Standing orders of the provider, by model."""
        url = f"{self.provider.url}/orders"
        async with aiohttp.ClientSession() as session, session.put(url, json=dict(orders)) as reply:
            assert reply.status == 200, await reply.text()

    async def served(self) -> dict[str, list[dict[str, Any]]]:
        """What the provider has served, by LibreChat's account, when nothing runs any more."""
        async with aiohttp.ClientSession() as session, asyncio.timeout(SETTLED_S):
            while True:
                async with session.get(f"{self.provider.url}/served") as reply:
                    shown = json.loads(await reply.read())
                if not shown["running"]:
                    break
                await asyncio.sleep(0.1)
        found: dict[str, list[dict[str, Any]]] = {}
        for call in shown["calls"]:
            found.setdefault(call["user"], []).append(call)
        return found

    async def ledger(self, user: User) -> list[dict[str, Any]]:
        """The entries of a workspace's ledger."""
        return [dict(row) for row in await self.stage.books.fetch(LEDGER, UUID(user.workspace_id))]

    async def charged_twice(self, user: User) -> int:
        """Messages that are charged themselves, and by their calls."""
        ((number,),) = await self.stage.books.fetch(DOUBLE, UUID(user.workspace_id))
        return int(number)

    async def settled(self, user: User, wait_s: float = SETTLED_S) -> bool:
        """Whether all turns and calls of a workspace have ended, after some waiting."""
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    ((number,),) = await self.stage.books.fetch(OPEN, UUID(user.workspace_id))
                    if not number and (await self.stage.books.window(user.workspace_id)).consistent:
                        return True
                    await asyncio.sleep(0.1)
        except TimeoutError:
            return False


@asynccontextmanager
async def open_llm_stage(stage: Stage) -> AsyncIterator[LlmStage]:
    """Start a provider, a LibreChat that calls it through GEKO, and two instances. Raises BenchError."""
    async with AsyncExitStack() as stack:
        folder = stage.folder
        port = free_port()
        books = python("geko_proxy.demo.provider", "--port", str(port), "--key", "provider-key")
        provider = await _begun(stack, Server("provider", books, port, folder))
        inner = [free_port(), free_port()]
        librechat = await _begun(stack, _librechat(stage, inner[0]))
        env = {**stage.env, "LIBRECHAT_URL": librechat.url}
        instances = []
        for name, port in zip(("llm-a", "llm-b"), inner, strict=True):
            config = folder / f"{name}.toml"
            settings = toml(dict.fromkeys(PROVIDERS, provider.url), dict.fromkeys(PROVIDERS, MODELS))
            config.write_text(settings.replace("port = 0", f"port = {port}"))
            instances.append(await _begun(stack, servers.geko(name, folder, env, config=config)))
        clients = tuple([await stack.enter_async_context(client_of(each)) for each in instances])
        yield LlmStage(stage, provider, librechat, tuple(instances), clients)


def _librechat(stage: Stage, gateway_port: int) -> Server:
    port = free_port()
    command = python(
        "geko_proxy.demo.librechat",
        "--port",
        str(port),
        *("--jwt-secret", JWT_SECRET, "--jwt-refresh-secret", JWT_REFRESH_SECRET),
        *("--llm-url", f"http://127.0.0.1:{gateway_port}/llm", "--llm-key", KEY),
        *("--memory-model", "gpt-4o-mini", "--summary-model", "gpt-4o-mini"),
    )
    return Server("librechat-calling", command, port, stage.folder)


async def _begun(stack: AsyncExitStack, server: Server) -> Server:
    stack.push_async_callback(server.stop)
    await server.start()
    return server
