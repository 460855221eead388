"""One measurement: load processes against one subject for some seconds, and the figures that come out."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from bench.cores import pin
from bench.load import Job, Kind
from bench.processes import ROOT, BenchError, end, environment, python
from bench.subjects import Stage, Subject

STREAMS = 400
GAP_MS = 20
OFFERED_PER_S = STREAMS * 1000 // GAP_MS
SETTLE_S = 0.15  # between "go" and the start of the measurement
READY_WITHIN_S = 20.0
DONE_WITHIN_S = 15.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """What is measured. name: key in the results; count: connections or streams, over all load processes.

    extra: of less interest, so measured in the first round only.
    """

    name: str
    kind: Kind
    count: int
    seconds: float
    extra: bool = False

    @property
    def is_paced(self) -> bool:
        """Whether its streams have a speed of their own, and run until they are stopped."""
        return self.kind in ("paced", "paced_calls")

    @property
    def offered_per_s(self) -> int:
        """Events a second that paced streams bring."""
        return self.count * 1000 // GAP_MS


MEASUREMENTS = (
    Measurement("json_32", "json", 32, 1.2),
    Measurement("json_128", "json", 128, 1.2),
    Measurement("paced", "paced", STREAMS, 4.0),
    Measurement("unpaced", "unpaced", 48, 1.5, extra=True),
    Measurement("starts", "starts", 32, 1.5, extra=True),
)
LLM_FEW, LLM_MANY = 10, 100
LLM_MEASUREMENTS = (
    Measurement("calls_32", "calls", 32, 3.0),
    Measurement("few", "paced_calls", LLM_FEW, 3.0),
    Measurement("many", "paced_calls", LLM_MANY, 4.0),
    Measurement("unpaced_calls", "unpaced_calls", 32, 4.0, extra=True),
)

Figures = dict[str, Any]


async def measure(stage: Stage, subject: Subject, what: Measurement) -> Figures:
    """Put one subject under one load. per_core_s: per second of the subject's processor time, which neighbours that
    take the core away change less. Raises BenchError when the load could not be brought up."""
    cores = stage.cores.load
    share = -(-what.count // len(cores))
    job = Job(what.kind, subject.port, share, subject.headers, subject.chats, GAP_MS, subject.target)
    processes = [await _start(job, core) for core in cores]
    try:
        await asyncio.gather(*(_ready(process) for process in processes))
        start = time.monotonic_ns() + int(SETTLE_S * 1e9)
        until = start + int(what.seconds * 1e9)
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(f"{start} {until}\n".encode())
        sent = await _watch(stage, subject, what, start, until)
        results = await asyncio.gather(*(_result(process) for process in processes))
    finally:
        await asyncio.gather(*(end(process) for process in processes))
        await _stop_answers(stage)
    found = {**figures(results, what.seconds), **sent}
    if sent.get("cpu"):
        found["per_core_s"] = round(found["per_s"] / sent["cpu"])
    if what.is_paced:
        found["share"] = min(1.0, round(found["per_s"] / what.offered_per_s, 4))
    return found


def figures(results: Sequence[Figures], seconds: float) -> Figures:
    """Sum up what the load processes counted; latencies in ms."""
    latencies = sorted(each for result in results for each in result["latencies_ns"])
    firsts = sorted(each for result in results for each in result.get("firsts_ns", ()))
    reasons: dict[str, int] = {}
    for result in results:
        for reason, count in result["reasons"].items():
            reasons[reason] = reasons.get(reason, 0) + count
    return {
        "per_s": round(sum(result["count"] for result in results) / seconds),
        "bad": sum(result["bad"] for result in results),
        "p50_ms": _percentile(latencies, 0.5),
        "p99_ms": _percentile(latencies, 0.99),
        **(
            {"first_p50_ms": _percentile(firsts, 0.5), "first_p99_ms": _percentile(firsts, 0.99)}
            if firsts
            else {}
        ),
        **({"reasons": reasons} if reasons else {}),
    }


def _percentile(ordered: Sequence[int], part: float) -> float | None:
    if not ordered:
        return None
    return round(ordered[min(len(ordered) - 1, int(part * len(ordered)))] / 1e6, 2)


async def _watch(stage: Stage, subject: Subject, what: Measurement, start: int, until: int) -> Figures:
    """Wait for the end of a measurement; tell what part of a core the subject used and what the upstream sent."""
    await asyncio.sleep(max(0, start - time.monotonic_ns()) / 1e9)
    before, cpu_before = await _control(stage, "sent"), _cpu_s(subject.pid)
    await asyncio.sleep(max(0, until - time.monotonic_ns()) / 1e9)
    after, cpu_after = await _control(stage, "sent"), _cpu_s(subject.pid)
    extra: Figures = {}
    if subject.pid:
        extra["cpu"] = round((cpu_after - cpu_before) / what.seconds, 2)
    if what.is_paced:
        extra["sent_per_s"] = round((after - before) / what.seconds)
        await _stop_answers(stage)
    return extra


async def _stop_answers(stage: Stage) -> None:
    await _control(stage, "stop")


async def _control(stage: Stage, command: str) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{stage.upstream}/bench/{command}") as reply,
    ):
        return int((await reply.json())["sent"])


async def _start(job: Job, core: int) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *python("bench.load", job.text()),
        cwd=ROOT,
        env=environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=16 * 1024 * 1024,
    )
    pin(process.pid, [core])
    return process


async def _ready(process: asyncio.subprocess.Process) -> None:
    if await _line(process, READY_WITHIN_S) != b"ready\n":
        raise BenchError("a load process did not get ready")


async def _result(process: asyncio.subprocess.Process) -> Figures:
    result: Figures = json.loads(await _line(process, DONE_WITHIN_S) or "null")
    if result is None:
        raise BenchError("a load process gave no figures")
    return result


async def _line(process: asyncio.subprocess.Process, within_s: float) -> bytes:
    assert process.stdout is not None
    try:
        return await asyncio.wait_for(process.stdout.readline(), within_s)
    except TimeoutError:
        return b""


def _cpu_s(pid: int) -> float:
    """Processor time of a process and its children (nginx's worker is one)."""
    import psutil  # comes with the embedded PostgreSQL

    if not pid:
        return 0.0
    process = psutil.Process(pid)
    times = [each.cpu_times() for each in (process, *process.children())]
    return float(sum(each.user + each.system for each in times))
