"""The few threads in which passwords are hashed: bounded in number, queue and processor time, and at a low priority."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
import time
from bisect import insort
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Final, NamedTuple, TypeVar

from geko_proxy.errors import Refused

T = TypeVar("T")

NICENESS: Final = 10  # a flood of sign-ins must not keep the event loop's thread from its core
BURST_S: Final = 4.0  # processor time that may be spent at once after a quiet time
GUESS_S: Final = 0.3  # of one hash, until the first was timed

FIRST: Final = -1  # the rank of somebody known


class Waiting(NamedTuple):
    """Somebody who waits for a thread. number: the order in which they came."""

    rank: int
    number: int
    turn: asyncio.Future[None]


class Budget:
    """A token bucket of processor time. share: cores that may be used on average. clock: seconds, monotonic."""

    def __init__(self, share: float, burst_s: float, clock: Callable[[], float]) -> None:
        self._share = share
        self._burst_s = burst_s
        self._clock = clock
        self._left_s = burst_s
        self._at = clock()

    def wait_s(self) -> float:
        """Seconds until more may be spent; 0: now."""
        now = self._clock()
        self._left_s = min(self._burst_s, self._left_s + (now - self._at) * self._share)
        self._at = now
        return max(0.0, -self._left_s / self._share)

    def spend(self, cpu_s: float) -> None:
        """Count processor time, negative to give some back; a debt is paid off before the next hash begins."""
        self.wait_s()
        self._left_s -= cpu_s


class HashingPool:
    """Runs slow functions in threads.

    workers: threads. queue: who may wait, and once more as many who come first; all go by rank, then by time. Is it
    full, the last of them is refused for somebody of a better rank, else whoever comes. cpu_share: cores that may be
    used on average, None for no limit.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        queue: int = 16,
        cpu_share: float | None = None,
        burst_s: float = BURST_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workers = self._free = workers or default_workers()
        self._queue = queue
        self._budget = Budget(cpu_share or float(os.cpu_count() or 1) * 64, burst_s, clock)
        self._share = cpu_share
        self._threads = ThreadPoolExecutor(self._workers, "scrypt", initializer=lower_priority)
        self._waiting: list[Waiting] = []  # sorted
        self._numbers = itertools.count()
        self._cost_s = GUESS_S
        self._timer: asyncio.TimerHandle | None = None
        self.cpu_s = 0.0  # spent so far

    async def run(self, function: Callable[..., T], *args: object, rank: int = 0) -> T:
        """The function's result. rank: FIRST for somebody known, else the more the less urgent.

        Raises Refused 503 when it is full, also while waiting.
        """
        await self._enter(rank)
        loop = asyncio.get_running_loop()
        expected_s = self._cost_s
        self._budget.spend(expected_s)
        job = self._threads.submit(timed, partial(function, *args))
        job.add_done_callback(partial(self._leave, loop, expected_s))
        # the thread goes on when the client leaves, so its end is what frees the place
        result, _ = await asyncio.shield(asyncio.wrap_future(job))
        return result

    def close(self) -> None:
        """End the threads, after what they are doing."""
        if self._timer is not None:
            self._timer.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _enter(self, rank: int) -> None:
        ahead = sum(each.rank <= rank for each in self._waiting)
        if self._free and not ahead and not self._budget.wait_s():
            self._free -= 1
            return
        self._make_room(rank, ahead)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = Waiting(rank, next(self._numbers), turn)
        insort(self._waiting, waiting)
        self._wake()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._free += 1  # the place was given, but nobody is there to take it
                self._wake()
            with contextlib.suppress(ValueError):
                self._waiting.remove(waiting)
            raise

    def _make_room(self, rank: int, ahead: int) -> None:
        """Refuse the last one who waits for one who should come before. Raises Refused 503 where there is none."""
        alike = [each for each in self._waiting if (each.rank <= FIRST) == (rank <= FIRST)]
        if len(alike) < self._queue:
            return
        last = alike[-1]
        if last.rank <= rank:
            raise self._busy(ahead)
        self._waiting.remove(last)
        if not last.turn.done():
            last.turn.set_exception(self._busy(len(self._waiting)))

    def _busy(self, ahead: int) -> Refused:
        text = "Too many people are signing in at this moment. Try again shortly."
        return Refused(503, "sign_in_busy", text, retry_after_s=self._retry_after_s(ahead))

    def _wake(self) -> None:
        """Let those in who may go on; look again when the budget allows it."""
        while self._free and self._waiting:
            wait_s = self._budget.wait_s()
            if wait_s:
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(wait_s, self._on_timer)
                return
            turn = self._waiting.pop(0).turn
            if not turn.done():
                self._free -= 1
                turn.set_result(None)

    def _on_timer(self) -> None:
        self._timer = None
        self._wake()

    def _leave(
        self, loop: asyncio.AbstractEventLoop, expected_s: float, job: Future[tuple[object, float]]
    ) -> None:
        """In the worker's thread."""
        cpu_s = job.result()[1] if not job.cancelled() and job.exception() is None else expected_s
        try:
            loop.call_soon_threadsafe(self._left, cpu_s, expected_s)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self._free += 1

    def _left(self, cpu_s: float, expected_s: float) -> None:
        self.cpu_s += cpu_s
        self._budget.spend(cpu_s - expected_s)
        self._cost_s += (cpu_s - self._cost_s) / 8
        self._free += 1
        self._wake()

    def _retry_after_s(self, ahead: int) -> int:
        cores = min(self._workers, self._share or self._workers)
        return min(60, 1 + int(self._budget.wait_s() + ahead * self._cost_s / cores))


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """A function's result and the processor time that its thread took for it."""
    before = time.thread_time()
    result = work()
    return result, time.thread_time() - before


def lower_priority() -> None:
    """Make this thread give way to the others (Linux: niceness is a thread's own there)."""
    if hasattr(os, "setpriority") and os.uname().sysname == "Linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def default_workers() -> int:
    """Half of the cores that this process may use, at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // 2)
