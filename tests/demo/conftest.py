"""A running stand-in and two people on it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from geko_proxy.demo.librechat import StandIn
from tests.demo.people import Person, sign_up


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client without cookies of its own and without decompression."""
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(cookie_jar=jar, auto_decompress=False) as session:
        yield session


@pytest.fixture
async def lc() -> AsyncIterator[StandIn]:
    """A stand-in with one MCP server that waits for nothing longer than a test must."""
    async with StandIn(
        jwt_secret="secret",
        jwt_refresh_secret="refresh-secret",
        duplicate_delay_s=0.01,
        title_hold_s=0.05,
        start_delay_s=0.05,
        late_save_s=0.25,
        mcp_servers={"files": ("read", "write")},
    ) as running:
        yield running


@pytest.fixture
async def alice(lc: StandIn, http: aiohttp.ClientSession) -> Person:
    """The first account: an ADMIN."""
    return await sign_up(lc, http, "alice")


@pytest.fixture
async def bob(lc: StandIn, http: aiohttp.ClientSession, alice: Person) -> Person:
    """A USER."""
    return await sign_up(lc, http, "bob")
