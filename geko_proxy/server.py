"""Listener, signals, drain. Knows how to run a proxy, not what it does."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import web

from geko_proxy.app import open_app
from geko_proxy.config import Settings
from geko_proxy.errors import ConfigError
from geko_proxy.http_server import HttpServer

log = logging.getLogger("geko.server")

KEEPALIVE_TIMEOUT_S = 75.0
BACKLOG = 4096

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[str]:
    """Serve while the context is open; gives the address, `http://host:port`.

    On the way out no new connection is taken, running answers get `server.shutdown_timeout_s`.
    """
    async with open_app(settings) as (proxy, gateway), AsyncExitStack() as stack:
        runner = await _runner(proxy.handle, settings, stack)
        site = await _listen(runner, settings.server.host, settings.server.port, "server.port")
        if gateway is not None:
            inner = await _runner(gateway.handle, settings, stack)
            await _listen(inner, settings.llm.host, settings.llm.port, "llm.port")
            log.info("LibreChat calls its models at %s/llm/", address_of(inner))
        tune_collector()
        await proxy.peers.start(peer_url(settings.server.peer_url, address_of(runner)))
        yield address_of(runner)
        await site.stop()
        await proxy.drain(settings.server.shutdown_timeout_s)


async def _runner(handler: Handler, settings: Settings, stack: AsyncExitStack) -> web.ServerRunner:
    server = HttpServer(
        handler,
        handler_cancellation=True,  # a reply that nobody reads must not keep LibreChat busy
        access_log=None,
        auto_decompress=False,  # compressed bodies are passed on as they are
        keepalive_timeout=KEEPALIVE_TIMEOUT_S,
    )
    runner = web.ServerRunner(server, shutdown_timeout=settings.server.shutdown_timeout_s)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    return runner


async def _listen(runner: web.ServerRunner, host: str, port: int, setting: str) -> web.TCPSite:
    site = web.TCPSite(runner, host, port, backlog=BACKLOG)
    try:
        await site.start()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        hint = "; GEKO_PORT sets another port" if setting == "server.port" else ""
        raise ConfigError([f"{setting}: can't listen on {host}:{port}: {reason}{hint}"]) from None
    return site


def address_of(runner: web.ServerRunner) -> str:
    """Where a server listens, `http://host:port`."""
    host, port = runner.addresses[0][:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def peer_url(setting: str, address: str) -> str:
    """How other instances reach this one; empty: they don't. address: where it listens."""
    if setting in ("", "none"):
        return ""
    if setting != "auto":
        return setting
    host = urlsplit(address).hostname or ""
    return "" if ip_address(host).is_unspecified else address


def tune_collector() -> None:
    """Look for reference cycles seldom: a request makes few, and each look stops all streams (8 % of the time)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def serve(settings: Settings, ready: Callable[[str], Awaitable[None]] | None = None) -> None:
    """Serve until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    async with serving(settings) as address:
        log.info("listening on %s", address)
        if ready is not None:
            await ready(address)
        await stop.wait()
        log.info("stopping")
