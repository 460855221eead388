"""One answer for many that wait."""

from __future__ import annotations

import asyncio

from geko_proxy.oauth.single_flight import SingleFlight


class Work:
    def __init__(self) -> None:
        self.count = 0
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def run(self) -> int:
        self.count += 1
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return self.count


async def test_those_who_wait_share_and_the_next_asks_anew() -> None:
    work = Work()
    flight = SingleFlight(work.run)
    waiting = [asyncio.create_task(flight.run()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # one that leaves does not end it for the others
    work.go.set()
    assert await asyncio.gather(*waiting[1:]) == [1, 1]
    assert await flight.run() == 2


async def test_an_error_is_shared_and_not_kept() -> None:
    work = Work()
    work.error = ValueError("down")
    flight = SingleFlight(work.run)
    waiting = [asyncio.create_task(flight.run()) for _ in range(2)]
    work.go.set()
    assert [type(each) for each in await asyncio.gather(*waiting, return_exceptions=True)] == [ValueError] * 2
    work.error = None
    assert await flight.run() == 2
