"""Whether a flood of wrong passwords delays answers: a few paced streams through one GEKO on one core, and 1,000
guesses over 100 accounts and addresses meanwhile. `python -m bench --measure logins`."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cores import Cores, pin
from bench.processes import ROOT, BenchError, environment, python
from bench.streams import ENDLESS, Answers, Starter, Stream
from bench.subjects import Stage, Subject, geko, upstream
from bench.window import Window
from geko_proxy.accounts.hashing_pool import NICENESS

STREAMS = 8
GAP_MS = 20
QUIET_S = 5.0
FLOOD_S = 20.0
SETTLE_S = 1.0
ALLOWED_MS = 50.0  # extra delay of any event
CLOCK_TICKS = 100  # of /proc, on every Linux that matters

Figures = dict[str, Any]


@dataclass(slots=True)
class Phase:
    """Delays in ms, upstream's write to client's read, of all events in some time."""

    delays_ms: list[float]

    def at(self, part: float) -> float:
        """A percentile; 1.0: the largest."""
        if not self.delays_ms:
            raise BenchError("no events came")
        ordered = sorted(self.delays_ms)
        return round(ordered[min(len(ordered) - 1, int(part * len(ordered)))], 2)

    def figures(self) -> Figures:
        """What is printed of it."""
        return {
            "events": len(self.delays_ms),
            "p50_ms": self.at(0.5),
            "p99_ms": self.at(0.99),
            "max_ms": self.at(1.0),
        }


async def measure_logins(cores: Cores) -> tuple[Figures, list[str]]:
    """The figures, and what is not as it must be. Raises BenchError."""
    settings = {"GEKO_SERVER_TRUSTED_PROXIES": "127.0.0.0/8"}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="geko-bench-")))
        stage = Stage(await stack.enter_async_context(upstream(cores, folder)), cores, folder)
        subject = await stack.enter_async_context(geko(stage, settings))
        window, streams = Window(), await _listen(subject)
        for stream in streams:
            stream.measure_with(window)
        await asyncio.sleep(SETTLE_S)
        quiet = await _phase(window, QUIET_S)
        before = hashing_cpu_s(subject.pid)
        flood = asyncio.create_task(_flood(subject, cores))
        half, middle = await _phase(window, FLOOD_S / 2), hashing_cpu_s(subject.pid)
        rest = await _phase(window, FLOOD_S / 2)
        after = hashing_cpu_s(subject.pid)
        statuses = await flood
        for stream in streams:
            stream.close()
    during = Phase(half.delays_ms + rest.delays_ms)
    extra_ms = round(during.at(1.0) - quiet.at(0.5), 2)
    found = {
        "streams": STREAMS,
        "quiet": quiet.figures(),
        "flood": during.figures(),
        "extra_max_ms": extra_ms,
        "extra_p99_ms": round(during.at(0.99) - quiet.at(0.99), 2),
        "hashing_cores": round((after - before) / FLOOD_S, 3),
        "hashing_cores_after_the_burst": round((after - middle) / (FLOOD_S / 2), 3),
        "answers": statuses,
    }
    problems = (
        [f"an event came {extra_ms} ms late, allowed are {ALLOWED_MS}"] if extra_ms > ALLOWED_MS else []
    )
    if window.bad:
        problems.append(f"streams failed: {window.reasons}")
    return found, problems


async def _listen(subject: Subject) -> Sequence[Stream]:
    starter = Starter(Answers(subject.port, subject.headers, subject.chats, ENDLESS, GAP_MS), Window())
    streams = [await starter.start() for _ in range(STREAMS)]
    starter.close()
    found = [stream for stream in streams if stream is not None]
    if len(found) < STREAMS:
        raise BenchError("not all streams began")
    for stream in found:
        await asyncio.wait_for(stream.begun.wait(), 10)
    return found


async def _phase(window: Window, seconds: float) -> Phase:
    window.latencies_ns = []
    window.start_ns = time.monotonic_ns()
    window.end_ns = window.start_ns + int(seconds * 1e9)
    await asyncio.sleep(seconds)
    return Phase([each / 1e6 for each in window.latencies_ns])


async def _flood(subject: Subject, cores: Cores) -> dict[str, int]:
    process = await asyncio.create_subprocess_exec(
        *python("bench.guesses", str(subject.port), str(FLOOD_S)),
        cwd=ROOT,
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
    )
    pin(process.pid, [cores.upstream])  # this process, which takes the times, has the others
    out, _ = await process.communicate()
    found: dict[str, int] = json.loads(out or b"null") or {}
    if not found:
        raise BenchError("the guessing process gave no figures")
    return found


def hashing_cpu_s(pid: int) -> float:
    """Processor time of the threads with the hashing threads' niceness (proc(5): fields 14, 15 and 19)."""
    total = 0
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        fields = stat.read_text().rpartition(")")[2].split()
        if int(fields[16]) == NICENESS:
            total += int(fields[11]) + int(fields[12])
    return total / CLOCK_TICKS
