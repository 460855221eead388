"""How the stand-in speaks HTTP, and how it is started."""

from __future__ import annotations

import asyncio
import gzip
import os
import signal
import sys

import aiohttp
import pytest
from yarl import URL

from geko_proxy.demo.librechat import StandIn
from tests.demo.people import Person, sign_up


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/API/user", "json"),
        ("/api/USER/", "json"),
        ("//api/user", "html"),
        ("/api/%75ser", "nothing"),
        ("/api/./user", "nothing"),
        ("/api/user;x", "nothing"),
        ("/c/whatever", "html"),
        ("/assets/missing.js", "missing"),
    ],
)
async def test_paths_match_as_in_express(
    bob: Person, lc: StandIn, http: aiohttp.ClientSession, path: str, kind: str
) -> None:
    headers = {"Authorization": f"Bearer {bob.token}"}
    async with http.get(URL(lc.url + path, encoded=True), headers=headers) as reply:
        body = await reply.text()
    expected = {"json": '"bob@example.com"', "html": "<!DOCTYPE html>"}
    expected |= {"nothing": "Endpoint not found", "missing": "Not Found"}
    assert expected[kind] in body
    assert reply.status == (404 if kind in ("nothing", "missing") else 200)


async def test_bodies_end_at_3_mb(bob: Person) -> None:
    big = await bob.call("POST", "/api/presets", {"text": "x" * 3 * 2**20})
    assert (big.status, big.raw) == (500, b"An unknown error occurred.")
    assert (await bob.call("POST", "/api/presets", {"text": "x" * 2**20})).status == 201


async def test_head_options_and_304(bob: Person, lc: StandIn, http: aiohttp.ClientSession) -> None:
    head = await bob.call("HEAD", "/api/models")
    assert (head.status, head.raw) == (200, b"")
    assert int(head.headers["Content-Length"]) > 1000
    fresh = await bob.call("GET", "/api/models", If_None_Match=head.headers["ETag"])
    assert (fresh.status, fresh.raw) == (304, b"")
    assert "Content-Type" not in fresh.headers
    async with http.options(f"{lc.url}/api/user", headers={"Access-Control-Request-Headers": "x-a"}) as reply:
        assert (reply.status, reply.headers["Access-Control-Allow-Headers"]) == (204, "x-a")


async def test_assets_have_variants_ranges_and_validators(lc: StandIn, http: aiohttp.ClientSession) -> None:
    url = f"{lc.url}/assets/index.BHS-ABOD.js"
    async with http.get(url, headers={"Accept-Encoding": "identity"}) as reply:
        plain = await reply.read()
    async with http.get(url, headers={"Accept-Encoding": "gzip"}) as reply:
        assert gzip.decompress(await reply.read()) == plain
    async with http.get(url, headers={"Range": "bytes=3-5", "Accept-Encoding": "identity"}) as reply:
        assert (reply.status, await reply.read()) == (206, plain[3:6])
        assert reply.headers["Content-Range"] == f"bytes 3-5/{len(plain)}"
        since = {"If-Modified-Since": reply.headers["Last-Modified"]}
    async with http.get(url, headers=since) as reply:
        assert reply.status == 304
    async with http.get(url, headers={"Range": "bytes=999999-"}) as reply:
        assert reply.status == 416


async def test_wrong_types_end_as_express_ends_them(bob: Person) -> None:
    body = {"text": 5, "endpoint": "Mock", "endpointType": "custom", "model": "gpt-4o", "files": 7}
    started = await bob.call("POST", "/api/agents/chat", body)
    assert started.status == 200
    broken = await bob.call("GET", "/api/convos?cursor=x")
    assert (broken.status, broken.raw) == (500, b"An unknown error occurred.")


async def test_with_compression_big_replies_are_zipped(http: aiohttp.ClientSession) -> None:
    async with StandIn(compression=True) as lc:
        bob = await sign_up(lc, http, "bob")
        zipped = await bob.call("GET", "/api/models", Accept_Encoding="gzip")
        assert zipped.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(zipped.raw).startswith(b'{"openAI"')
        assert "Content-Encoding" not in (await bob.call("GET", "/api/user", Accept_Encoding="gzip")).headers


async def test_the_command_line_says_where_it_listens_and_ends(http: aiohttp.ClientSession) -> None:
    command = [sys.executable, "-m", "geko_proxy.demo.librechat", "--port", "0"]
    command += ["--jwt-secret", "a", "--jwt-refresh-secret", "b"]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, env=dict(os.environ)
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    assert line.startswith("listening on http://127.0.0.1:")
    async with http.get(line.split()[-1] + "/health") as reply:
        assert await reply.text() == "OK"
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
