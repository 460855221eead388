"""What goes to another instance and what comes back."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Request, Route
from geko_proxy.peers.finder import Place
from geko_proxy.peers.forwarding import Peers
from geko_proxy.peers.hop import HEADER, Hop, HopSigner
from geko_proxy.server import peer_url

SIGNER = HopSigner("s" * 64)
TARGET = "/api/agents/chat/abort"


def make_peers(clock: Any = time.time) -> Peers:
    return Peers(cast(Any, SimpleNamespace(instance_id=uuid4())), SIGNER, 1000, clock)


@asynccontextmanager
async def instance(handler: Any) -> AsyncIterator[str]:
    """A server that stands for another instance."""
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def asked(headers: dict[str, str], body: bytes = b'{"streamId":"c"}') -> tuple[Exchange, web.BaseRequest]:
    request = make_mocked_request("POST", TARGET, headers=headers)
    ours = Request("POST", TARGET, "", request.headers, client_ip="203.0.113.9", secure=True, body=body)
    return Exchange("id1", ours, Route.CONTROL, "chat.abort", {}, 0.0), request


async def test_a_request_goes_on_as_it_came() -> None:
    seen: list[tuple[web.BaseRequest, bytes]] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        seen.append((request, await request.read()))
        headers = {"WWW-Authenticate": "Bearer", "Set-Cookie": "x=1", "X-Powered-By": "y", "Retry-After": "3"}
        return web.Response(status=401, body=b"{}", content_type="application/json", headers=headers)

    headers = {
        "Host": "team.acme.example.org",
        "Authorization": "Bearer t",
        "Cookie": "geko_refresh=x",
        "X-Anything": "kept",
        "Connection": "keep-alive, X-Secret",
        "X-Secret": "of this connection",
        "X-Forwarded-For": "1.2.3.4",
        "Transfer-Encoding": "chunked",
        "x-geko-hop": "made up",
    }
    peers = make_peers()
    async with instance(answer) as url:
        place = Place(uuid4(), uuid4(), True, url)
        reply = await peers.forward(*asked(headers), place)
        assert (reply.status, await reply.read()) == (401, b"{}")
        assert reply.headers["WWW-Authenticate"] == "Bearer"
        assert reply.headers["Retry-After"] == "3"
        assert not {"Set-Cookie", "X-Powered-By", "Date", "Server"} & set(reply.headers)
    request, body = seen[0]
    assert (request.method, request.raw_path, body) == ("POST", TARGET, b'{"streamId":"c"}')
    for name in ("Authorization", "Cookie", "X-Anything"):
        assert request.headers[name] == headers[name]
    assert not {"X-Secret", "X-Forwarded-For", "Transfer-Encoding"} & set(request.headers)
    (value,) = request.headers.getall(HEADER)
    hop = SIGNER.read(value, "POST", TARGET, request.raw_headers)
    assert hop is not None
    assert (hop.target, hop.turn_id) == (place.instance_id, place.turn_id)
    assert (hop.client_ip, hop.host, hop.secure, hop.request_id) == (
        "203.0.113.9",
        "team.acme.example.org",
        True,
        "id1",
    )


@pytest.mark.parametrize("url", [None, "", "http://127.0.0.1:9"])
async def test_an_instance_that_is_away(url: str | None) -> None:
    with pytest.raises(Refused) as refused:
        await make_peers().forward(*asked({}), Place(uuid4(), uuid4(), True, url))
    assert (refused.value.status, refused.value.code) == (503, "answer_unreachable")
    assert refused.value.retry_after_s


async def test_an_instance_that_is_another_one() -> None:
    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(status=421)

    async with instance(answer) as url:
        with pytest.raises(Refused) as refused:
            await make_peers().forward(*asked({}), Place(uuid4(), uuid4(), True, url))
        assert refused.value.status == 503


def test_hops_for_others_and_old_ones_are_refused() -> None:
    peers = make_peers(lambda: 1000.0)
    mine = peers.instances.instance_id

    def hop(target: Any, at: float) -> Hop:
        return Hop(target, at, "a", "h", False, "i", uuid4())

    for good in (None, hop(mine, 1000), hop(mine, 941), hop(mine, 1059)):
        peers.check(good)
    for bad in (hop(uuid4(), 1000), hop(mine, 939), hop(mine, 1061)):
        with pytest.raises(Refused) as refused:
            peers.check(bad)
        assert refused.value.status == 421


@pytest.mark.parametrize(
    ("setting", "address", "url"),
    [
        ("auto", "http://127.0.0.1:3002", "http://127.0.0.1:3002"),
        ("auto", "http://[2001:db8::1]:3002", "http://[2001:db8::1]:3002"),
        ("auto", "http://0.0.0.0:3002", ""),
        ("auto", "http://[::]:3002", ""),
        ("none", "http://127.0.0.1:3002", ""),
        ("https://geko-1:3002", "http://0.0.0.0:3002", "https://geko-1:3002"),
    ],
)
def test_how_others_reach_this_one(setting: str, address: str, url: str) -> None:
    assert peer_url(setting, address) == url
