"""Fixtures shared by all tests: a real PostgreSQL, and a fresh migrated database for each test that asks."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from geko_proxy.accounts import passwords
from geko_proxy.accounts.registration import Registration
from geko_proxy.storage.database import Database
from geko_proxy.storage.embedded import EmbeddedPostgres
from geko_proxy.storage.invalidation import Invalidation
from geko_proxy.storage.migrations import migrate

SQL = Path(__file__).parent.parent / "sql"

# Tests need no data that survives a power failure.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200"}

numbers = itertools.count(1)


def with_database(dsn: str, name: str) -> str:
    """The same server's address, another database."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """The address of a PostgreSQL that may create databases: DATABASE_URL_TEST, else an embedded one."""
    if given := os.environ.get("DATABASE_URL_TEST"):
        yield given
        return
    home = Path(tempfile.mkdtemp(prefix="geko-"))  # pytest's own folders are too deep for a unix socket
    server = EmbeddedPostgres(FAST)
    try:
        yield server.start(home)
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def template(server_dsn: str) -> AsyncIterator[str]:
    """The name of a migrated database that the databases of the tests are copied from."""
    name = f"geko_template_{os.getpid()}"
    await run(server_dsn, f"drop database if exists {name}", f"create database {name}")
    await migrate(with_database(server_dsn, name), SQL)
    yield name
    await run(server_dsn, f"drop database {name} with (force)")


@pytest.fixture
async def empty_dsn(server_dsn: str) -> AsyncIterator[str]:
    """The address of a fresh database without any table."""
    name = f"geko_empty_{os.getpid()}_{next(numbers)}"
    await run(server_dsn, f"create database {name}")
    yield with_database(server_dsn, name)
    await run(server_dsn, f"drop database {name} with (force)")


@pytest.fixture
async def dsn(server_dsn: str, template: str) -> AsyncIterator[str]:
    """The address of a fresh migrated database."""
    name = f"geko_test_{os.getpid()}_{next(numbers)}"
    await run(server_dsn, f"create database {name} template {template} strategy file_copy")
    yield with_database(server_dsn, name)
    await run(server_dsn, f"drop database {name} with (force)")


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    """An open `Database` on a fresh migrated database."""
    opened = await Database.open(dsn)
    yield opened
    await opened.close()


async def run(dsn: str, *statements: str) -> None:
    """Runs statements that cannot be in a transaction."""
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Redis of this session's own."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    assert program, "redis-server is needed: apt install redis-server (.ci/run does)"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with (folder / "log").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
async def invalidation(dsn: str) -> AsyncIterator[Invalidation]:
    """A listening `Invalidation` on the test's database."""
    started = Invalidation(dsn)
    await started.start()
    yield started
    await started.stop()


@pytest.fixture(autouse=True)
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> passwords.Cost:
    """scrypt with little work, in this process only; returns the product's cost."""
    real = passwords.COST
    monkeypatch.setattr(passwords, "COST", passwords.Cost(log_n=4, r=8, p=1))
    return real


class Account(NamedTuple):
    """The owner of a tenant with one workspace; `place` is the key of most stores."""

    tenant_id: UUID
    workspace_id: UUID
    user_id: UUID
    email: str

    @property
    def place(self) -> tuple[UUID, UUID, UUID]:
        return self.tenant_id, self.workspace_id, self.user_id


@pytest.fixture
async def account(database: Database) -> Account:
    """A registered owner; the password is "long enough"."""
    return await register(database, "owner@example.org")


@pytest.fixture
async def stranger(database: Database) -> Account:
    """The owner of another tenant."""
    return await register(database, "stranger@example.org")


async def register(database: Database, email: str) -> Account:
    """A tenant, its owner and first workspace, with 1000 tokens a month."""
    done = await Registration(database).register(
        email=email, password="long enough", name="Somebody", token_limit=1000
    )
    return Account(done.tenant.tenant_id, done.workspace.workspace_id, done.user.user_id, email)
