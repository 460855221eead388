"""What is measured: LibreChat's stand-in alone, nginx, a naive aiohttp proxy, and GEKO with all its filters."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import aiohttp

from bench.cores import Cores
from bench.processes import ROOT, BenchError, free_port, python, running
from geko_proxy.accounts.registration import Registration
from geko_proxy.storage.database import Database
from geko_proxy.storage.embedded import EmbeddedPostgres
from geko_proxy.storage.migrations import migrate

EMAIL = "owner@bench.example"
TOKEN_LIMIT = 10**12
NO_LIMIT = "1000000000"  # requests a minute: the filter counts, but never refuses

NGINX = """
worker_processes 1; daemon off; pid nginx.pid; error_log stderr error;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 100000000;
  client_body_temp_path body; proxy_temp_path proxy;
  fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  upstream librechat {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://librechat; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Subject:
    """One thing to measure. headers: of every request; chats: streams begin with a chat message.

    target: the path of chat completions, of what is called as a model provider.
    """

    name: str
    port: int
    pid: int
    headers: dict[str, str] = field(default_factory=dict)
    chats: bool = False
    target: str = ""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the subjects run: the upstream's port, the cores, and a folder that is thrown away."""

    upstream: int
    cores: Cores
    folder: Path


@asynccontextmanager
async def upstream(cores: Cores, folder: Path) -> AsyncIterator[int]:
    """Run the upstream; gives its port."""
    port = free_port()
    command = python("bench.upstream", str(port))
    async with running("upstream", command, core=cores.upstream, port=port, folder=folder):
        yield port


@asynccontextmanager
async def direct(stage: Stage) -> AsyncIterator[Subject]:
    """The upstream without a proxy: what load generator and upstream can do at most."""
    yield Subject("direct", stage.upstream, 0)


@asynccontextmanager
async def nginx(stage: Stage) -> AsyncIterator[Subject | None]:
    """nginx with one worker; None: it is not installed."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/bin") or shutil.which(
        "nginx"
    )
    if program is None:
        yield None
        return
    port = free_port()
    folder = stage.folder / "nginx"
    folder.mkdir()
    (folder / "nginx.conf").write_text(NGINX.format(upstream=stage.upstream, port=port))
    command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf")]
    async with running("nginx", command, core=stage.cores.measured, port=port, folder=folder) as pid:
        yield Subject("nginx", port, pid)


@asynccontextmanager
async def naive(stage: Stage) -> AsyncIterator[Subject]:
    """An aiohttp pass-through without filters."""
    port = free_port()
    command = python("bench.naive", str(port), f"http://127.0.0.1:{stage.upstream}")
    async with running("naive", command, core=stage.cores.measured, port=port, folder=stage.folder) as pid:
        yield Subject("naive", port, pid)


@asynccontextmanager
async def geko(stage: Stage, more: Mapping[str, str] | None = None) -> AsyncIterator[Subject]:
    """GEKO as it is shipped, all filters on, with a database of its own and one signed-in user.

    Differs from the shipped settings: limits for one person and address that never refuse,
    a large quota, no access log, log level warning. more: further settings.
    """
    password = secrets.token_hex(16)
    port = free_port()
    async with database(stage.folder / "geko") as dsn:
        await register(dsn, password)
        command = python("geko_proxy", "--config", str(ROOT / "config" / "geko.toml"), "serve")
        env = {**settings(stage.upstream, port, dsn), **(more or {})}
        async with running(
            "GEKO", command, core=stage.cores.measured, port=port, folder=stage.folder, env=env
        ) as pid:
            token = await log_in(port, password)
            yield Subject("geko", port, pid, {"Authorization": f"Bearer {token}"}, chats=True)


SUBJECTS: dict[str, Callable[[Stage], AbstractAsyncContextManager[Subject | None]]] = {
    "direct": direct,
    "nginx": nginx,
    "naive": naive,
    "geko": geko,
}


@asynccontextmanager
async def database(home: Path) -> AsyncIterator[str]:
    """A database of its own; gives its address."""
    postgres = EmbeddedPostgres()
    yield await asyncio.to_thread(postgres.start, home)
    await asyncio.to_thread(postgres.stop)


async def register(dsn: str, password: str) -> UUID:
    """Make the tables, and a user; returns the id of the user's workspace."""
    await migrate(dsn, ROOT / "sql")
    opened = await Database.open(dsn)
    try:
        registered = await Registration(opened).register(
            email=EMAIL, password=password, name="Bench", token_limit=TOKEN_LIMIT
        )
    finally:
        await opened.close()
    return registered.workspace.workspace_id


def settings(upstream_port: int, port: int, dsn: str) -> dict[str, str]:
    """What differs from the shipped settings."""
    names = (
        "GEKO_AUTH_JWT_SECRET",
        "GEKO_AUTH_ENCRYPTION_SECRET",
        "GEKO_LIBRECHAT_JWT_SECRET",
        "GEKO_LIBRECHAT_JWT_REFRESH_SECRET",
        "GEKO_LIBRECHAT_SHADOW_SECRET",
    )
    return {
        "GEKO_LIBRECHAT_URL": f"http://127.0.0.1:{upstream_port}",
        "GEKO_SERVER_PORT": str(port),
        "GEKO_SERVER_ACCESS_LOG": "false",
        "GEKO_LOGGING_LEVEL": "warning",
        "GEKO_FILTER_RATE_LIMIT_LIMIT": NO_LIMIT,
        "GEKO_SERVER_SHUTDOWN_TIMEOUT_S": "1",
        # the load is one person at one address
        "GEKO_SERVER_MAX_REQUESTS_PER_ADDRESS": "1000000",
        "GEKO_SERVER_MAX_ANSWERS_PER_USER": "1000000",
        "GEKO_LIBRECHAT_MAX_CONNECTIONS": "2048",
        "DATABASE_URL": dsn,
        **{name: secrets.token_hex(32) for name in names},
    }


async def log_in(port: int, password: str) -> str:
    """Sign the user in; returns the token."""
    url = f"http://127.0.0.1:{port}/v1/auth/login"
    async with aiohttp.ClientSession() as session:
        async with session.post(url, json={"email": EMAIL, "password": password}) as reply:
            answer = await reply.json(content_type=None)
            if reply.status != 200:
                raise BenchError(f"GEKO did not let the bench's user in: {reply.status} {answer}")
        return str(answer["accessToken"])
