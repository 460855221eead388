"""LibreChat slow, silent, gone or lying; GEKO killed; the rate limit. Each with servers of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.people import Person, call, deltas, login, register
from tests.e2e.processes import Running, geko_environment, running


async def order(stand_in: Running, **fault: Any) -> None:
    """Tell the stand-in to fail."""
    url = stand_in.url + "/__standin__/fail"
    async with aiohttp.ClientSession() as session, session.post(url, json=fault) as reply:
        assert reply.status == 200, await reply.text()


@pytest.fixture(autouse=True)
async def _no_faults_left(stand_in: Running) -> AsyncIterator[None]:
    yield
    async with aiohttp.ClientSession() as session, session.post(stand_in.url + "/__standin__/clear") as reply:
        assert reply.status == 200


STREAMS = "/api/agents/chat/stream/*"


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "close"},
        {"kind": "cut", "after": 9},
        {"kind": "eof", "after": 9},
        {"kind": "status", "status": 503},
    ],
)
async def test_a_stream_that_breaks_off_is_taken_up_again(
    alice: Person, stand_in: Running, fault: dict[str, Any]
) -> None:
    await order(stand_in, path=STREAMS, **fault)
    events = await alice.chat("broken [[tokens=40 prompt=5 delay_ms=20]]")
    assert events[-1]["final"] is True
    assert not events[-1].get("aborted")
    assert len(events[-1]["responseMessage"]["content"][0]["text"].split()) == 40
    usage = await alice.usage()
    assert (usage["used"], usage["leased"]) == (45, 0)


async def test_a_stream_that_never_comes_back_ends_with_an_error(alice: Person, stand_in: Running) -> None:
    await order(stand_in, path=STREAMS, kind="cut", after=9, times=50)
    events = await alice.chat("gone [[tokens=400 prompt=5 delay_ms=25]]")
    assert "broke off" in events[-1]["error"]
    usage = await alice.usage()
    assert usage["leased"] == 0
    assert usage["used"] > 5  # what was seen of it


async def test_an_answer_that_was_over_before_it_could_be_read(alice: Person, stand_in: Running) -> None:
    await order(stand_in, path=STREAMS, kind="delay", delay_s=1.0)
    events = await alice.chat("over [[tokens=5 prompt=6 delay_ms=0]]")
    assert events[-1]["final"] is True
    usage = await alice.usage()
    assert usage["leased"] == 0
    assert usage["used"] >= 5


async def test_refusals_of_librechat_on_the_post(alice: Person, stand_in: Running) -> None:
    chat = "/api/agents/chat/MockUsage"
    await order(stand_in, path=chat, kind="not_ready")
    starting = await alice.post_chat("x")
    assert (starting.status, starting.json["code"]) == (
        503,
        "SERVER_NOT_READY",
    )  # its page tries again by itself
    assert starting.headers["Retry-After"] == "1"
    text = 'event: message\ndata: {"created":true}\n\nevent: error\ndata: {"message":"You are banned"}\n\n'
    await order(stand_in, path=chat, kind="status", status=200, body=text)
    refused = await alice.post_chat("x")
    assert refused.status == 403
    assert refused.json["info"] == "You are banned"
    assert (await alice.usage())["leased"] == 0
    await alice.chat("fine again [[tokens=2 prompt=2]]")
    assert (await alice.usage())["used"] == 4


async def test_an_abort_that_librechat_does_not_obey_still_ends_the_answer(
    alice: Person, stand_in: Running
) -> None:
    await alice.set_quota(40)
    await order(stand_in, path="/api/agents/chat/abort", kind="status", status=500, times=5)
    events = await alice.chat("cut me [[tokens=1000 prompt=5 delay_ms=10]]")
    assert events[-1]["final"] is True
    assert "used up" in events[-1]["responseMessage"]["content"][-1]["error"]
    assert events[-1]["responseMessage"]["content"][0]["text"] == deltas(events)


async def test_librechat_is_down(e2e_dsn: str, log_dir: Path, alice: Person) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with running(["geko_proxy", "serve"], geko_environment(e2e_dsn, url), log_dir / "log") as lonely:
            async with aiohttp.ClientSession(lonely.url) as client:
                person = await login(client, alice.email)  # signing in needs no LibreChat
                answer = await person.call("GET", "/api/convos")
                assert (answer.status, answer.json) == (502, {"message": "LibreChat can't be reached."})
                chat = await person.post_chat("x")
                assert chat.status == 502
                assert chat.json["type"] == "google_error"
                assert (await person.call("GET", "/v1/nothing")).json["error"]["code"] == "not_found"
                assert (await call(client, "GET", "/healthz")).status == 200
                assert (await call(client, "GET", "/readyz")).status == 503
                assert (await person.usage())["leased"] == 0
            assert "Traceback" not in lonely.log_text()


async def test_librechat_is_silent(e2e_dsn: str, log_dir: Path, alice: Person) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(mute, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    environment = geko_environment(e2e_dsn, url, GEKO_LIBRECHAT_READ_TIMEOUT_MS="300")
    with running(["geko_proxy", "serve"], environment, log_dir / "log") as patient:
        async with aiohttp.ClientSession(patient.url) as client:
            assert (await call(client, "GET", "/")).status == 504
            person = await login(client, alice.email)
            assert (await person.call("GET", "/api/convos")).status == 504
    listener.close()


async def test_a_killed_geko_gives_its_leases_back(
    e2e_dsn: str, stand_in: Running, log_dir: Path, geko: Running, alice: Person
) -> None:
    with running(["geko_proxy", "serve"], geko_environment(e2e_dsn, stand_in.url), log_dir / "log") as doomed:
        async with aiohttp.ClientSession(doomed.url) as client:
            person = await login(client, alice.email)
            await person.start("to be lost [[tokens=400 prompt=5 delay_ms=50]]")
        assert (await alice.usage())["leased"] > 0
        os.kill(doomed.pid, signal.SIGKILL)
    import asyncpg

    connection = await asyncpg.connect(e2e_dsn)
    await connection.execute("update leases set expires_at = now() - interval '1 second'")  # a minute passes
    await connection.close()
    await alice.chat("next [[tokens=2 prompt=3]]")
    await alice.set_quota(10)
    assert (await alice.post_chat("refused after looking for lost turns [[tokens=2]]")).status in (200, 429)
    usage = await alice.usage()
    assert usage["used"] >= 5


async def test_sigterm_waits_for_running_answers(
    e2e_dsn: str, stand_in: Running, log_dir: Path, alice: Person
) -> None:
    with running(["geko_proxy", "serve"], geko_environment(e2e_dsn, stand_in.url), log_dir / "log") as old:
        async with aiohttp.ClientSession(old.url) as client:
            person = await login(client, alice.email)
            conversation = await person.start("finish first [[tokens=30 prompt=5 delay_ms=30]]")
            async with person.subscribed(conversation) as reply:
                await reply.content.readline()
                os.kill(old.pid, signal.SIGTERM)
                rest = await reply.read()
            assert b'"final":true' in rest
    assert (await alice.usage())["used"] == 35


async def test_a_hundred_requests_a_minute(e2e_dsn: str, stand_in: Running, log_dir: Path) -> None:
    environment = geko_environment(e2e_dsn, stand_in.url, GEKO_SERVER_TRUSTED_PROXIES="127.0.0.0/8")
    del environment["GEKO_FILTER_RATE_LIMIT_LIMIT"]
    with running(["geko_proxy", "serve"], environment, log_dir / "log") as strict:
        async with aiohttp.ClientSession(strict.url) as client:
            for _ in range(120):  # pages and files do not count
                assert (await call(client, "GET", "/login")).status == 200
            statuses = [(await call(client, "GET", "/api/user")).status for _ in range(105)]
            assert statuses[:100] == [401] * 100
            assert set(statuses[100:]) <= {401, 429}
            limited = await call(client, "GET", "/v1/auth/me")
            if limited.status != 429:  # a minute ended in between
                pytest.fail("the window was missed twice")
            assert limited.json["error"]["code"] == "rate_limited"
            assert int(limited.headers["Retry-After"]) >= 1
            # behind the trusted proxy each client has a window of its own, by the right-most address it added
            other = {"X-Forwarded-For": "198.51.100.9, 203.0.113.5"}
            assert (await call(client, "GET", "/api/user", headers=other)).status == 401


async def test_two_first_requests_make_one_shadow_account(
    client: aiohttp.ClientSession, stand_in: Running, alice: Person
) -> None:
    answers = await asyncio.gather(*(alice.call("GET", "/api/user") for _ in range(8)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.json["id"] for answer in answers}) == 1


async def test_login_identity_needs_no_shared_secret(e2e_dsn: str, stand_in: Running, log_dir: Path) -> None:
    environment = geko_environment(e2e_dsn, stand_in.url, GEKO_LIBRECHAT_IDENTITY="login")
    for name in ("LIBRECHAT_JWT_SECRET", "LIBRECHAT_JWT_REFRESH_SECRET"):
        del environment[name]
    with running(["geko_proxy", "serve"], environment, log_dir / "log") as server:
        async with aiohttp.ClientSession(server.url) as client:
            gina = await register(client, f"gina{os.getpid()}@example.org", "Gina")
            events = await gina.chat("by password [[tokens=4 prompt=6]]")
            assert deltas(events) == "the quick brown fox"
            assert (await gina.usage())["used"] == 10
