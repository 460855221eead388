"""Work after the reply: bounded, and waited for at the stop."""

from __future__ import annotations

import asyncio

import pytest

from geko_proxy.background import Background


async def test_so_much_at_once_and_no_more_than_can_wait() -> None:
    background, go = Background(at_once=2, at_most=4), asyncio.Event()
    running, most, done = 0, 0, 0

    async def work() -> None:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        await go.wait()
        running -= 1
        done += 1

    assert [background.submit("work", work) for _ in range(6)] == [True] * 4 + [False] * 2
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    go.set()
    await background.idle()
    assert (most, done) == (2, 4)


async def test_a_failure_is_logged_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    background, done = Background(at_once=1), []

    async def fail() -> None:
        raise ValueError("broken")

    async def work() -> None:
        done.append(1)

    background.submit("bad", fail)
    background.submit("good", work)
    await background.idle()
    assert done == [1]
    assert "bad failed" in caplog.text


async def test_a_stop_waits_and_then_gives_up(caplog: pytest.LogCaptureFixture) -> None:
    background, ended = Background(), []

    async def short() -> None:
        await asyncio.sleep(0.01)
        ended.append("short")

    async def endless() -> None:
        await asyncio.Event().wait()

    background.submit("short", short)
    background.submit("endless", endless)
    await background.stop(0.2)
    assert ended == ["short"]
    assert "endless: given up" in caplog.text
    assert background.submit("late", short) is False
