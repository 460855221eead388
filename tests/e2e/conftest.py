"""A running GEKO in front of a running stand-in, and people who use it."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from geko_proxy.storage.migrations import migrate
from tests.conftest import SQL, run, with_database
from tests.e2e.people import Person, register
from tests.e2e.processes import JWT_REFRESH_SECRET, JWT_SECRET, Running, geko_environment, running

numbers = itertools.count(1)


@pytest.fixture(scope="session")
def e2e_dsn(server_dsn: str) -> Iterator[str]:
    """A migrated database for the whole session."""
    name = f"geko_e2e_{os.getpid()}"
    asyncio.run(run(server_dsn, f"create database {name}"))
    dsn = with_database(server_dsn, name)
    asyncio.run(migrate(dsn, SQL))
    yield dsn
    asyncio.run(run(server_dsn, f"drop database {name} with (force)"))


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A LibreChat that behaves as the contract says."""
    log = tmp_path_factory.mktemp("librechat") / "log"
    secrets = ["--jwt-secret", JWT_SECRET, "--jwt-refresh-secret", JWT_REFRESH_SECRET]
    with running(
        ["geko_proxy.demo.librechat", "--port", "0", *secrets, "--secure-image-links"], {}, log
    ) as server:
        yield server


@pytest.fixture(scope="session")
def geko(e2e_dsn: str, stand_in: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The real server process, with all filters."""
    log = tmp_path_factory.mktemp("geko") / "log"
    with running(["geko_proxy", "serve"], geko_environment(e2e_dsn, stand_in.url), log) as server:
        yield server


@pytest.fixture
async def client(geko: Running) -> AsyncIterator[aiohttp.ClientSession]:
    """A client without cookies of its own."""
    async with aiohttp.ClientSession(geko.url, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


@pytest.fixture
async def alice(client: aiohttp.ClientSession) -> Person:
    """The owner of a fresh tenant."""
    return await register(client, f"alice{os.getpid()}n{next(numbers)}@example.org", "Alice")


@pytest.fixture
async def bob(client: aiohttp.ClientSession) -> Person:
    """The owner of another tenant."""
    return await register(client, f"bob{os.getpid()}n{next(numbers)}@example.org", "Bob")


@pytest.fixture
def log_dir(tmp_path: Path) -> Path:
    """For servers that a test starts itself."""
    return tmp_path
