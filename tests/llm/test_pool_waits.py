"""When providers have no room, when connections are lost, and what is then sent again."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web

from geko_proxy.errors import Refused
from geko_proxy.llm.deployments import MAX_TRACKED
from geko_proxy.llm.pool import ProviderPool
from tests.llm.provider import Provider, Reply, Time, ask, pool_of, provider_settings, raw_server, serving


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


async def two(
    stack: AsyncExitStack,
    time: Time,
    *replies: Reply,
    chance: float = 0.5,
    timeout_ms: int = 60_000,
    **llm: int,
) -> tuple[Provider, Provider, ProviderPool]:
    """A provider "Mock", and a provider "Spare" to fall back on."""
    mock = await stack.enter_async_context(serving(*replies))
    spare = await stack.enter_async_context(serving())
    pool = pool_of(
        provider_settings("Mock", mock.deployment(read_timeout_ms=timeout_ms)),
        provider_settings("Spare", spare.deployment()),
        time=time,
        chance=chance,
        **llm,
    )
    stack.push_async_callback(pool.close)
    return mock, spare, pool


def limited(**headers: str) -> web.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.json_response({"error": {"code": "rate_limit_exceeded"}}, status=429, headers=named)


async def test_a_call_waits_for_room_as_long_as_the_provider_says(stack: AsyncExitStack, time: Time) -> None:
    mock, _, pool = await two(
        stack, time, limited(Retry_After="7"), limited(retry_after_ms="1500"), chance=0.0
    )
    answer = await ask(pool, "Mock/m", "Spare/m")
    assert (answer.provider, answer.attempts) == ("Mock", 3)
    assert time.slept == [7.0, 1.5]
    assert len(mock.seen) == 3


async def test_a_wait_that_is_too_long_is_not_begun(stack: AsyncExitStack, time: Time) -> None:
    mock, spare, pool = await two(stack, time, limited(Retry_After="11"))
    answer = await ask(pool, "Mock/m", "Spare/m")
    assert (answer.provider, len(mock.seen), time.slept) == ("Spare", 1, [])
    # others learn of it without asking, until the time is over
    with pytest.raises(Refused) as found:
        await ask(pool, "Mock/m")
    assert (found.value.status, found.value.retry_after_s, len(mock.seen)) == (429, 11, 1)
    assert (await ask(pool, "Mock/other")).provider == "Mock"
    time.now += 11
    assert (await ask(pool, "Mock/m")).provider == "Mock"
    assert len(spare.seen) == 1


async def test_waiting_ends_with_a_refusal(stack: AsyncExitStack, time: Time) -> None:
    mock, _, pool = await two(stack, time, *[limited() for _ in range(50)], queue_timeout_ms=3000)
    with pytest.raises(Refused) as found:
        await ask(pool, "Mock/m")
    assert (found.value.status, found.value.code) == (429, "provider_rate_limited")
    assert sum(time.slept) <= 3.0
    assert 2 <= len(mock.seen) <= 10
    assert pool.metrics.render().decode().count('geko_llm_queue_length{provider="Mock"} 0.0') == 1


async def test_only_so_many_wait(stack: AsyncExitStack, time: Time) -> None:
    replies = [limited(Retry_After="5") for _ in range(2)]
    _, _, pool = await two(stack, time, *replies, max_queue=2)
    go_on = asyncio.Event()

    async def sleep(seconds: float) -> None:
        await go_on.wait()
        time.now += seconds

    pool._sleep = sleep
    waiting = [asyncio.create_task(ask(pool, "Mock/m")) for _ in range(2)]
    while 'queue_length{provider="Mock"} 2.0' not in pool.metrics.render().decode():
        await asyncio.sleep(0.001)
    with pytest.raises(Refused) as found:
        await ask(pool, "Mock/m")
    assert (found.value.status, found.value.retry_after_s) == (429, 5)
    waiting[0].cancel()
    go_on.set()
    assert (await waiting[1]).provider == "Mock"
    assert 'queue_length{provider="Mock"} 0.0' in pool.metrics.render().decode()


async def test_rests_of_models_that_callers_make_up_are_forgotten(stack: AsyncExitStack, time: Time) -> None:
    replies = [limited(Retry_After="60") for _ in range(MAX_TRACKED + 1)]
    mock, _, pool = await two(stack, time, *replies)
    for number in range(MAX_TRACKED + 1):
        with pytest.raises(Refused):
            await ask(pool, f"Mock/{number}")
    assert (await ask(pool, "Mock/0")).provider == "Mock"  # the oldest is asked again, nothing else
    with pytest.raises(Refused):
        await ask(pool, f"Mock/{MAX_TRACKED}")
    assert len(mock.seen) == MAX_TRACKED + 2


async def test_a_provider_without_any_patience_is_not_flooded(stack: AsyncExitStack, time: Time) -> None:
    replies = [limited(retry_after_ms="0") for _ in range(1000)]
    mock, _, pool = await two(stack, time, *replies, chance=0.0, queue_timeout_ms=60_000)
    with pytest.raises(Refused) as found:
        await ask(pool, "Mock/m")
    assert (found.value.status, len(mock.seen)) == (429, 20)
    assert min(time.slept) >= 0.1


async def test_an_empty_account_is_not_waited_for(stack: AsyncExitStack, time: Time) -> None:
    empty = web.json_response({"error": {"code": "insufficient_quota"}}, status=429)
    _, _, pool = await two(stack, time, empty)
    assert (await ask(pool, "Mock/m", "Spare/m")).provider == "Spare"
    assert time.slept == []


async def test_retry_after_of_a_failure_is_obeyed(stack: AsyncExitStack, time: Time) -> None:
    overloaded = web.json_response({}, status=503, headers={"Retry-After": "4"})
    mock, _, pool = await two(stack, time, overloaded)
    assert (await ask(pool, "Mock/m")).attempts == 2
    assert time.slept == [4.0]
    mock.replies.append(web.json_response({}, status=503, headers={"Retry-After": "60"}))
    assert (await ask(pool, "Mock/m", "Spare/m")).provider == "Spare"
    assert time.slept == [4.0]


async def test_no_attempt_begins_after_the_time_for_all(stack: AsyncExitStack, time: Time) -> None:
    async def slow(_: object) -> web.StreamResponse:
        time.now += 61
        return web.json_response({}, status=500)

    mock, spare, pool = await two(stack, time, slow)
    with pytest.raises(Refused) as found:
        await ask(pool, "Mock/m", "Spare/m")
    assert (found.value.status, len(mock.seen), len(spare.seen)) == (502, 1, 0)


async def test_a_pause_that_would_end_too_late_is_not_begun(stack: AsyncExitStack, time: Time) -> None:
    async def slow(_: object) -> web.StreamResponse:
        time.now += 59.9
        return web.json_response({}, status=500)

    _, _, pool = await two(stack, time, slow)
    assert (await ask(pool, "Mock/m", "Spare/m")).provider == "Spare"
    assert time.slept == []


@pytest.mark.parametrize("streams", [True, False])
async def test_a_call_that_may_be_billed_is_not_sent_again(
    stack: AsyncExitStack, time: Time, streams: bool
) -> None:
    mock, spare, pool = await two(stack, time, ConnectionResetError())
    with pytest.raises(Refused) as found:
        await ask(pool, "Mock/m", "Spare/m", streams=streams)
    assert (found.value.status, found.value.headers) == (502, {"x-should-retry": "false"})
    assert (len(mock.seen), len(spare.seen)) == (1, 0)


async def test_a_head_that_does_not_come_ends_the_call_and_the_connection(
    stack: AsyncExitStack, time: Time
) -> None:
    mock, spare, pool = await two(stack, time, timeout_ms=50, breaker_failures=1)
    mock.replies.append(mock.hang)
    with pytest.raises(Refused) as found:
        await ask(pool, "Mock/m", "Spare/m")
    assert (found.value.status, found.value.code, len(spare.seen)) == (504, "provider_timeout", 0)
    await asyncio.wait_for(mock.left.wait(), 10)
    # its circuit is open now: others go to the fallback
    assert (await ask(pool, "Mock/m", "Spare/m")).provider == "Spare"


async def test_a_connection_that_was_closed_while_idle_is_no_failure(time: Time) -> None:
    """A server that closes right when the next request comes: what it got, it did not look at."""
    answered = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        await reader.readuntil(b"}")
        answered += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        await reader.read(1)

    async with raw_server(serve) as port:
        pool = pool_of(
            provider_settings("Mock", Provider(f"http://127.0.0.1:{port}").deployment()), time=time
        )
        for _ in range(3):
            answer = await ask(pool, "Mock/m")
            assert (await answer.reply.read(10), answer.attempts) == (b"{}", 1)
        assert (answered, time.slept) == (3, [])
        await pool.close()


@pytest.mark.parametrize(
    "reply", [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"]
)
async def test_what_is_no_http_is_a_failure(time: Time, reply: bytes) -> None:
    requests = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await reader.readuntil(b"}")
        requests += 1
        writer.write(reply)

    async with raw_server(serve) as port:
        pool = pool_of(
            provider_settings("Mock", Provider(f"http://127.0.0.1:{port}").deployment()), time=time
        )
        with pytest.raises(Refused) as found:
            await ask(pool, "Mock/m")
        assert (found.value.status, requests) == (502, 1)
        await pool.close()


async def test_tls_names_the_host_and_checks_the_certificate(
    time: Time, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key -out crt"
    command += " -addext subjectAltName=DNS:localhost"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    names: list[str | None] = []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    context.sni_callback = lambda _socket, name, _context: names.append(name)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    async with raw_server(serve, context) as port:
        deployment = Provider(f"https://localhost:{port}").deployment()
        stranger = pool_of(provider_settings("Mock", deployment, retries=0), time=time)
        with pytest.raises(Refused) as found:
            await ask(stranger, "Mock/m")
        assert found.value.status == 502
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "crt"))
        pool = pool_of(provider_settings("Mock", deployment), time=time)
        answer = await ask(pool, "Mock/m")
        assert (await answer.reply.read(10), names) == (b"{}", ["localhost", "localhost"])
        await pool.close()
