"""Where the scenarios play: all servers, people with workspaces of their own, and the books of both sides."""

from __future__ import annotations

import itertools
import os
import random
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp

from bench.processes import ROOT
from geko_proxy.accounts.registration import Registration
from geko_proxy.storage.database import Database
from geko_proxy.storage.migrations import migrate
from prove import servers
from prove.books import Books
from prove.servers import Postgres, Server
from tests.e2e.people import PASSWORD, Person, login
from tests.e2e.processes import JWT_REFRESH_SECRET, JWT_SECRET, geko_environment

WIDE = {  # the load is a few people at one address
    "GEKO_FILTER_RATE_LIMIT_LIMIT": "1000000000",
    "GEKO_SERVER_MAX_REQUESTS_PER_ADDRESS": "1000000",
    "GEKO_SERVER_MAX_ANSWERS_PER_USER": "1000000",
    "GEKO_SERVER_ACCESS_LOG": "false",
    "GEKO_SERVER_SHUTDOWN_TIMEOUT_S": "2",
    "GEKO_LIBRECHAT_MAX_CONNECTIONS": "4096",
    "GEKO_AUTH_ACCESS_TOKEN_TTL_S": "3600",
}


@dataclass(frozen=True, slots=True)
class User:
    """Somebody signed in, seen through each instance."""

    at: tuple[Person, ...]

    @property
    def workspace_id(self) -> str:
        """The one workspace of this person."""
        return self.at[0].workspace_id


@dataclass
class Stage:
    """What a scenario plays with. turns: how many at once; missing: programs that are not installed."""

    turns: int
    random: random.Random
    folder: Path
    postgres: Postgres
    librechat: Server
    instances: tuple[Server, ...]
    env: dict[str, str]
    books: Books
    clients: tuple[aiohttp.ClientSession, ...]
    missing: list[str] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def user(
        self, token_limit: int | None, clients: tuple[aiohttp.ClientSession, ...] | None = None
    ) -> User:
        """The owner of a fresh tenant with one workspace. clients: of other instances than the stage's own."""
        clients = clients or self.clients
        email = f"owner{next(self._numbers)}@prove.example"
        database = await Database.open(self.postgres.dsn)
        try:
            await Registration(database).register(
                email=email, password=PASSWORD, name="Owner", token_limit=token_limit
            )
        finally:
            await database.close()
        person = await login(clients[0], email)
        return User(tuple(replace(person, client=client) for client in clients))


@asynccontextmanager
async def open_stage(turns: int, seed: int) -> AsyncIterator[Stage]:
    """Start everything; stop it in reverse. Raises BenchError with the reason when something does not start."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="geko-prove-", dir=_short())))
        missing: list[str] = []
        postgres = Postgres(folder / "home")
        stack.push_async_callback(postgres.stop)
        await postgres.start()
        await migrate(postgres.dsn, ROOT / "sql")
        librechat = await _begun(stack, servers.stand_in(folder, JWT_SECRET, JWT_REFRESH_SECRET))
        env = {**geko_environment(postgres.dsn, librechat.url), **WIDE}
        if (bouncer := servers.pgbouncer(folder, postgres.sockets)) is not None:
            await _begun(stack, bouncer)
            env["DATABASE_URL"] = f"postgresql://geko@127.0.0.1:{bouncer.port}/geko"
            env["DATABASE_DIRECT_URL"] = postgres.dsn
            env["GEKO_DATABASE_STATEMENT_CACHE_SIZE"] = "0"
        else:
            missing.append("PgBouncer")
        if (redis := servers.redis(folder)) is not None:
            await _begun(stack, redis)
            env["REDIS_URL"] = f"redis://127.0.0.1:{redis.port}/0"
        else:
            missing.append("Redis")
        instances = (servers.geko("geko-a", folder, env), servers.geko("geko-b", folder, env))
        for instance in instances:
            await _begun(stack, instance)
        clients = tuple([await stack.enter_async_context(client_of(each)) for each in instances])
        books = await stack.enter_async_context(Books.open(postgres, librechat.url))
        yield Stage(
            turns, random.Random(seed), folder, postgres, librechat, instances, env, books, clients, missing
        )


def client_of(server: Server) -> aiohttp.ClientSession:
    """A client with as many connections as it likes."""
    return aiohttp.ClientSession(
        server.url,
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
    )


async def _begun(stack: AsyncExitStack, server: Server) -> Server:
    stack.push_async_callback(server.stop)
    await server.start()
    return server


def _short() -> str | None:
    """A folder with a short path, as unix sockets need it."""
    return "/tmp" if os.access("/tmp", os.W_OK) else None
