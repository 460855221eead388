"""Calls through the pool to providers on real sockets."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from aiohttp import web

from geko_proxy.config.llm_settings import DeploymentSettings
from geko_proxy.errors import Refused, UpstreamError
from geko_proxy.llm.pool import ProviderPool
from tests.llm.provider import Provider, Reply, Seen, Time, ask, pool_of, provider_settings, serving

# A port on which nobody listens: connecting is refused at once.
NOBODY = DeploymentSettings(base_url="http://127.0.0.1:1/v1", name="nobody")


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


async def one(
    stack: AsyncExitStack, time: Time, *replies: Reply, **llm: int
) -> tuple[Provider, ProviderPool]:
    """A provider "Mock" with one deployment."""
    provider = await stack.enter_async_context(serving(*replies))
    pool = pool_of(provider_settings("Mock", provider.deployment()), time=time, **llm)
    stack.push_async_callback(pool.close)
    return provider, pool


async def test_a_call_goes_through_with_geko_s_key_and_allowed_headers(
    stack: AsyncExitStack, time: Time
) -> None:
    provider, pool = await one(stack, time)
    headers = [
        (b"Authorization", b"Bearer key-of-librechat"),
        (b"Cookie", b"a=b"),
        (b"x-geko-user", b"1"),
        (b"Accept", b"text/event-stream"),
        (b"OpenAI-Beta", b"x=1"),
        (b"accept-encoding", b"gzip"),
        (b"OpenAI-Organization", b"another"),
    ]
    answer = await ask(pool, "Mock/gpt-4o", headers=headers)
    assert (answer.reply.status, answer.provider, answer.model, answer.attempts) == (200, "Mock", "gpt-4o", 1)
    assert provider.url in (await answer.reply.read(1000)).decode()
    (seen,) = provider.seen
    assert (seen.request.method, seen.request.raw_path, seen.model) == (
        "POST",
        "/v1/chat/completions",
        "gpt-4o",
    )
    sent = {name.lower(): value for name, value in seen.request.headers.items()}
    assert sent == {
        "host": provider.url.removeprefix("http://"),
        "authorization": "Bearer sk-1",
        "accept": "text/event-stream",
        "openai-beta": "x=1",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "content-length": str(len(seen.body)),
    }


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504, 529])
async def test_a_failure_is_tried_again_after_a_pause(stack: AsyncExitStack, time: Time, status: int) -> None:
    provider, pool = await one(stack, time, status, status)
    answer = await ask(pool, "Mock/m")
    assert (answer.reply.status, answer.attempts, len(provider.seen)) == (200, 3, 3)
    assert time.slept == [0.25, 0.5]  # half of 0.5 and of 1 second: full jitter


async def test_slow_failures_are_tried_again_too_also_without_a_queue(
    stack: AsyncExitStack, time: Time
) -> None:
    async def slow(_: object) -> web.StreamResponse:
        time.now += 20
        return web.json_response({}, status=500)

    _, pool = await one(stack, time, slow, slow, queue_timeout_ms=0)
    assert (await ask(pool, "Mock/m")).attempts == 3


async def test_when_every_attempt_fails_nothing_of_the_provider_s_text_is_told(
    stack: AsyncExitStack, time: Time
) -> None:
    provider, pool = await one(stack, time, 500, 500, 500, 500)
    with pytest.raises(Refused) as found:
        await ask(pool, "Mock/m")
    assert (found.value.status, found.value.code, len(provider.seen)) == (502, "provider_failed", 3)
    assert "sk-" not in found.value.message


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422])
async def test_what_is_wrong_with_the_request_is_an_answer(
    stack: AsyncExitStack, time: Time, status: int
) -> None:
    provider, pool = await one(stack, time, status)
    answer = await ask(pool, "Mock/m")
    assert (answer.reply.status, answer.attempts, len(provider.seen)) == (status, 1, 1)
    assert b"message" in await answer.reply.read(1000)


@pytest.mark.parametrize("status", [401, 402, 403, 302])
async def test_geko_s_own_key_being_wrong_is_not_the_caller_s_401(
    stack: AsyncExitStack, time: Time, status: int
) -> None:
    provider, pool = await one(stack, time, status)
    with pytest.raises(Refused) as found:
        await ask(pool, "Mock/m")
    assert (found.value.status, len(provider.seen), time.slept) == (502, 1, [])


async def test_a_dead_deployment_is_left_out_and_a_dead_provider_replaced(
    stack: AsyncExitStack, time: Time
) -> None:
    alive = await stack.enter_async_context(serving())
    spare = await stack.enter_async_context(serving())
    pool = pool_of(
        provider_settings("Mock", NOBODY, alive.deployment(models={"a": "azure-a"})),
        provider_settings("Spare", spare.deployment()),
        time=time,
        chance=0.0,  # always the first
    )
    stack.push_async_callback(pool.close)
    answer = await ask(pool, "Mock/a", "Spare/b")
    assert (answer.deployment, answer.attempts, answer.model) == (alive.deployment().name, 2, "a")
    assert [each.model for each in alive.seen] == ["azure-a"]
    answer = await ask(pool, "Mock/other", "Gone/x", "Spare/b")
    assert (answer.provider, answer.model, answer.attempts) == ("Spare", "b", 4)
    assert [each.model for each in spare.seen] == ["b"]
    shown = pool.metrics.render().decode()
    assert 'geko_llm_fallbacks_total{answered_by="Spare",provider="Mock"} 1.0' in shown


async def test_weights_decide_among_healthy_deployments(stack: AsyncExitStack, time: Time) -> None:
    light, heavy = [await stack.enter_async_context(serving()) for _ in range(2)]
    pool = pool_of(
        provider_settings("Mock", light.deployment(weight=1), heavy.deployment(weight=3)), time=time
    )
    stack.push_async_callback(pool.close)
    chances = iter([0.0, 0.24, 0.26, 0.5, 0.99])
    pool._chance = lambda: next(chances)
    served = Counter([(await ask(pool, "Mock/m")).deployment for _ in range(5)])
    assert served == {light.deployment().name: 2, heavy.deployment().name: 3}


async def test_a_provider_that_keeps_failing_is_left_alone_then_probed_once(
    stack: AsyncExitStack, time: Time
) -> None:
    provider, pool = await one(stack, time, *[500] * 5, breaker_failures=5, breaker_cooldown_ms=10_000)
    for _ in range(2):
        with pytest.raises(Refused):
            await ask(pool, "Mock/m")
    assert len(provider.seen) == 5
    with pytest.raises(Refused) as found:
        await ask(pool, "Mock/m")
    assert (found.value.status, found.value.retry_after_s, len(provider.seen)) == (503, 10, 5)
    assert (await ask(pool, "Mock/another")).reply.status == 200  # models have circuits of their own
    time.now += 10
    release = asyncio.Event()

    async def later(_: object) -> web.StreamResponse:
        await release.wait()
        return web.json_response({})

    provider.replies.append(later)
    probe = asyncio.create_task(ask(pool, "Mock/m"))
    while len(provider.seen) < 7:
        await asyncio.sleep(0.001)
    with pytest.raises(Refused):
        await ask(pool, "Mock/m")
    release.set()
    assert (await probe).reply.status == 200
    assert (await ask(pool, "Mock/m")).reply.status == 200


async def test_a_caller_that_leaves_a_probe_lets_the_next_one_try(stack: AsyncExitStack, time: Time) -> None:
    provider, pool = await one(stack, time, 500, 500, 500, breaker_failures=3, breaker_cooldown_ms=1000)
    with pytest.raises(Refused):
        await ask(pool, "Mock/m")
    time.now += 1
    provider.replies.append(provider.hang)
    probe = asyncio.create_task(ask(pool, "Mock/m"))
    while len(provider.seen) < 4:
        await asyncio.sleep(0.001)
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    await asyncio.wait_for(provider.left.wait(), 10)  # its connection is closed
    assert (await ask(pool, "Mock/m")).reply.status == 200


async def test_a_deployment_whose_key_is_wrong_is_passed_over(stack: AsyncExitStack, time: Time) -> None:
    wrong, right = [await stack.enter_async_context(serving(*replies)) for replies in ([401] * 9, [500, 500])]
    pool = pool_of(
        provider_settings("Mock", wrong.deployment(), right.deployment()),
        time=time,
        chance=0.0,
        breaker_failures=3,
    )
    stack.push_async_callback(pool.close)
    answer = await ask(pool, "Mock/m")
    assert (answer.deployment, answer.attempts) == (right.deployment().name, 4)
    assert len(wrong.seen) == 1  # though the right one failed twice
    for _ in range(4):
        await ask(pool, "Mock/m")
    assert len(wrong.seen) == 3  # its circuit is open


async def test_a_reply_is_passed_on_as_it_comes_and_ends_when_it_is_given_up(
    stack: AsyncExitStack, time: Time
) -> None:
    async def stream(seen: Seen) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(seen.request)
        await response.write(b"data: 1\n\n")
        return await provider.hang(seen)

    provider, pool = await one(stack, time, stream)
    answer = await ask(pool, "Mock/m")
    assert await answer.reply.read_chunk() == b"data: 1\n\n"
    assert 'in_flight{deployment="' + provider.deployment().name in pool.metrics.render().decode()
    answer.reply.close()
    await asyncio.wait_for(provider.left.wait(), 10)


async def test_other_paths_and_bodies_go_through_unchanged(stack: AsyncExitStack, time: Time) -> None:
    provider, pool = await one(stack, time)
    form = b"--x\r\nContent-Disposition: form-data; name=model\r\n\r\nwhisper\r\n--x--\r\n"
    answer = await pool.send(
        [("Mock", "whisper")],
        "/audio/transcriptions",
        lambda _: form,
        (),
        content_type="multipart/form-data; boundary=x",
        streams=False,
    )
    assert answer.reply.status == 200
    (seen,) = provider.seen
    assert (seen.request.path, seen.body) == ("/v1/audio/transcriptions", form)
    assert seen.request.headers["content-type"] == "multipart/form-data; boundary=x"


async def test_what_a_failed_attempt_has_not_read_is_let_go(stack: AsyncExitStack, time: Time) -> None:
    large = web.Response(status=500, body=b"x" * 1_000_000)
    _, pool = await one(stack, time, large, web.Response(status=429, body=b"x" * 1_000_000))
    answer = await ask(pool, "Mock/m")
    assert answer.attempts == 3
    (deployment,) = pool._providers["Mock"].deployments
    await answer.reply.read(1000)
    assert deployment.in_use() == 0


async def test_a_deployment_whose_replies_all_break_off_is_left_alone(
    stack: AsyncExitStack, time: Time
) -> None:
    async def cut(seen: Seen) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(seen.request)
        await response.write(b"data: 1\n\n")
        assert seen.request.transport is not None
        seen.request.transport.close()
        return response

    provider, pool = await one(stack, time, *[cut] * 100)
    for _ in range(11):
        answer = await ask(pool, "Mock/m")
        with pytest.raises(UpstreamError):
            await answer.reply.read(100)
        pool.broke_off(answer)
    with pytest.raises(Refused) as found:
        await ask(pool, "Mock/m")
    # 20 outcomes: a success and a failure of each call, but for the first success, which nothing had failed before
    assert (found.value.status, len(provider.seen)) == (503, 11)
    assert 'status="broke_off"} 11.0' in pool.metrics.render().decode()


async def test_what_nobody_serves(stack: AsyncExitStack, time: Time) -> None:
    provider = await stack.enter_async_context(serving())
    pool = pool_of(
        provider_settings("Listed", provider.deployment(), models=("a",)),
        provider_settings("Mapped", provider.deployment(models={"a": "b"})),
        time=time,
    )
    stack.push_async_callback(pool.close)
    for target, code in (
        ("Listed/b", "model_not_found"),
        ("Mapped/b", "model_not_found"),
        ("Other/a", "provider_not_found"),
    ):
        with pytest.raises(Refused) as found:
            await ask(pool, target)
        assert (found.value.status, found.value.code) == (404, code)
    assert provider.seen == []
    assert (await ask(pool, "Listed/b", "Mapped/a")).model == "a"
