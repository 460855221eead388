"""Every reader sees every event once, in order, whenever it comes and however it reads."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.event_log import EventLog

step = st.one_of(st.binary(min_size=1, max_size=5), st.just(None), st.sampled_from(["follow", "push"]))


@given(st.lists(step, max_size=40), st.integers(1, 5))
def test_all_readers_see_all(steps: list[bytes | str | None], patience: int) -> None:
    async def run() -> None:
        log, written = EventLog(), b""
        readers: list[asyncio.Task[bytes]] = []
        for each in steps:
            if each is None:
                await asyncio.sleep(0)
            elif isinstance(each, bytes):
                log.append(each)
                written += each
            else:
                read = followed if each == "follow" else pushed
                readers.append(asyncio.create_task(read(log, patience)))
        log.close()
        assert all(seen == written for seen in await asyncio.gather(*readers))

    asyncio.run(run())


async def followed(log: EventLog, _: int) -> bytes:
    return b"".join([piece async for piece in log.follow()])


async def pushed(log: EventLog, patience: int) -> bytes:
    """As the relay does: what is there, then pushed events, again and again."""
    seen, at = b"", 0
    while True:
        piece, at = log.since(at)
        seen += piece
        if not piece:
            if log.closed:
                return seen
            taken: list[bytes] = []

            def sink(raw: bytes, count: int, taken: list[bytes] = taken) -> bool:
                taken.append(raw)
                return len(taken) < patience

            await log.push(sink)
            seen += b"".join(taken)
            at += len(taken)


async def test_a_reader_that_leaves_is_forgotten() -> None:
    log = EventLog()
    reader = asyncio.create_task(log.push(lambda raw, count: True))
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    log.append(b"x")
    assert log.since(0) == (b"x", 1)
