"""The hashing threads: how many, how much, who goes first, and what happens to those who leave."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator

import pytest

from geko_proxy.accounts.hashing_pool import FIRST, NICENESS, Budget, HashingPool, default_workers
from geko_proxy.errors import Refused


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Gate:
    """Work that goes on until it is let go. most: how many were at it at the same time."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.done: list[str] = []
        self.running = self.most = 0
        self._lock = threading.Lock()

    def work(self, name: str) -> str:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.open.wait(20)
        with self._lock:
            self.running -= 1
            self.done.append(name)
        return name

    async def until_running(self, count: int) -> None:
        """Threads start when the system lets them."""
        while self.running != count:
            await asyncio.sleep(0.001)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_bounded_number_works_and_waits_and_the_rest_is_refused_at_once(gate: Gate) -> None:
    pool = HashingPool(workers=2, queue=3)
    tasks = [asyncio.create_task(pool.run(gate.work, str(n))) for n in range(5)]
    await settle()
    await gate.until_running(2)
    with pytest.raises(Refused) as refused:
        await pool.run(gate.work, "too many")
    assert (refused.value.status, refused.value.code) == (503, "sign_in_busy")
    assert (refused.value.retry_after_s or 0) >= 1
    gate.open.set()
    assert await asyncio.gather(*tasks) == list("01234")
    assert gate.most == 2
    pool.close()


async def test_known_devices_go_first_and_find_a_place(gate: Gate) -> None:
    pool = HashingPool(workers=1, queue=2)
    tasks = [asyncio.create_task(pool.run(gate.work, name)) for name in ("at work", "later", "last")]
    await settle()
    tasks.append(asyncio.create_task(pool.run(gate.work, "known", rank=FIRST)))
    await settle()
    gate.open.set()
    await asyncio.gather(*tasks)
    assert gate.done == ["at work", "known", "later", "last"]
    pool.close()


async def test_in_a_flood_somebody_new_takes_the_place_of_who_tried_often(gate: Gate) -> None:
    pool = HashingPool(workers=1, queue=3)
    flood = [asyncio.create_task(pool.run(gate.work, f"guess {n}", rank=n)) for n in range(4)]
    await settle()
    honest = asyncio.create_task(pool.run(gate.work, "honest", rank=0))
    await settle()
    with pytest.raises(Refused) as pushed_out:
        await flood[3]
    assert (pushed_out.value.status, pushed_out.value.code) == (503, "sign_in_busy")
    with pytest.raises(Refused):
        await pool.run(gate.work, "another guess", rank=9)
    flood[1].cancel()
    await settle()
    gate.open.set()
    assert await honest == "honest"
    await asyncio.gather(*flood, return_exceptions=True)
    assert gate.done == ["guess 0", "honest", "guess 2"]
    assert await pool.run(gate.work, "next") == "next"
    pool.close()


async def test_who_leaves_gives_the_place_back_when_the_work_is_done(gate: Gate) -> None:
    pool = HashingPool(workers=1, queue=2)
    tasks = [asyncio.create_task(pool.run(gate.work, name)) for name in ("left", "also left", "stays")]
    await settle()
    tasks[0].cancel()
    tasks[1].cancel()
    await settle()
    await gate.until_running(1)  # a thread can't be stopped
    gate.open.set()
    assert await tasks[2] == "stays"
    assert gate.done == ["left", "stays"]
    assert await pool.run(gate.work, "next") == "next"
    pool.close()


async def test_a_failure_is_the_callers_and_frees_the_place() -> None:
    pool = HashingPool(workers=1, queue=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await pool.run(divmod, 1, 0)
    assert await pool.run(divmod, 7, 2) == (3, 1)
    pool.close()


def test_the_budget_is_a_share_of_the_time() -> None:
    clock = Clock()
    budget = Budget(0.25, 2.0, clock)
    assert budget.wait_s() == 0
    budget.spend(3.0)
    assert budget.wait_s() == 4.0  # one second of debt at a quarter a second
    clock.now += 3
    assert budget.wait_s() == 1.0
    clock.now += 1000
    budget.spend(2.5)  # no more than the burst was saved up
    assert budget.wait_s() == 2.0


async def test_work_waits_for_the_budget() -> None:
    clock = Clock()
    pool = HashingPool(workers=1, queue=4, cpu_share=0.5, burst_s=0.0, clock=clock)
    await pool.run(burn, 0.05)
    await settle()
    task = asyncio.create_task(pool.run(burn, 0.0))
    await asyncio.sleep(0.2)  # the clock stands still
    assert not task.done()
    clock.now += 10
    await asyncio.wait_for(task, 20)
    assert pool.cpu_s >= 0.05
    pool.close()


def burn(cpu_s: float) -> None:
    import time

    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="a thread's own priority is Linux' own")
async def test_the_threads_give_way() -> None:
    pool = HashingPool(workers=1)
    inside = await pool.run(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    mine = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert inside == max(mine, NICENESS)
    assert mine < NICENESS
    pool.close()


def test_half_of_the_cores_at_least_one() -> None:
    assert 1 <= default_workers() <= max(1, (os.cpu_count() or 1) // 2)
