"""Failures by order, and what the stand-in tells about what it got."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from geko_proxy.demo.librechat import StandIn
from tests.demo.comparison import events
from tests.demo.people import Person

USER = "/api/user"


async def test_a_status_and_then_the_truth(bob: Person, lc: StandIn) -> None:
    lc.fail(USER, "status", 2, status=502, body="bad gateway")
    statuses = [(await bob.call("GET", USER)).status for _ in range(3)]
    assert statuses == [502, 502, 200]


async def test_not_ready(bob: Person, lc: StandIn) -> None:
    lc.fail("/api/agents/chat/*", "not_ready", method="POST")
    refused = await bob.call("POST", "/api/agents/chat/Mock", {})
    assert (refused.status, refused.json["code"]) == (503, "SERVER_NOT_READY")
    assert refused.headers["Retry-After"] == "1"


async def test_close_and_cut(bob: Person, lc: StandIn) -> None:
    lc.fail(USER, "close", 2)  # the client repeats a GET once by itself
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await bob.call("GET", USER)
    lc.fail(USER, "cut", after=10)
    with pytest.raises(aiohttp.ClientPayloadError):
        await bob.call("GET", USER)
    assert (await bob.call("GET", USER)).status == 200


async def test_hang_and_delay(bob: Person, lc: StandIn) -> None:
    lc.fail(USER, "hang")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await bob.call("GET", USER)
    lc.fail(USER, "delay", delay_s=0.05)
    assert (await bob.call("GET", USER)).status == 200


async def test_a_stream_breaks_or_ends_without_a_final(bob: Person, lc: StandIn) -> None:
    for kind in ("cut", "eof"):
        conversation = await bob.start("[[tokens=20]]")
        path = f"/api/agents/chat/stream/{conversation}"
        lc.fail(path, "cut" if kind == "cut" else "eof", after=5)
        async with bob.subscribed(conversation) as reply:
            read = b""
            try:
                async for chunk in reply.content.iter_any():
                    read += chunk
            except aiohttp.ClientPayloadError:
                assert kind == "cut"
            else:
                assert kind == "eof"
        assert len(events(read)) == 5


async def test_the_control_routes(bob: Person, lc: StandIn, http: aiohttp.ClientSession) -> None:
    order = {"path": USER, "kind": "status", "status": 500}
    async with http.post(f"{lc.url}/__standin__/fail", json=order) as reply:
        assert await reply.json() == {"ok": True}
    assert (await bob.call("GET", USER, X_Forwarded_For="1.2.3.4")).status == 500
    assert lc.received(USER)[-1].header("x-forwarded-for") == "1.2.3.4"
    await bob.chat("[[tokens=2 usage=always]]")
    async with http.get(f"{lc.url}/__standin__/log") as reply:
        [entry] = [e for e in await reply.json() if e["purpose"] == "chat"]
    assert (entry["outcome"], entry["sent"], entry["usage_sent"]) == ("done", 2, True)
    assert entry["usage"]["completion_tokens"] == 2
    async with http.get(f"{lc.url}/__standin__/received") as reply:
        assert [USER in seen["path"] for seen in await reply.json()].count(True) == 1
    async with http.post(f"{lc.url}/__standin__/clear") as reply:
        assert reply.status == 200
    assert lc.received(USER) == []
