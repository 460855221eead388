"""`python -m bench`: starts everything, measures in interleaved rounds, prints a table and, last, one JSON object."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from bench import llm_report, report
from bench.cores import Cores, available_cores, machine, pin, share_out
from bench.llm_subjects import LLM_SUBJECTS
from bench.logins import measure_logins
from bench.measure import LLM_MEASUREMENTS, MEASUREMENTS, Figures, Measurement, measure
from bench.processes import BenchError
from bench.subjects import SUBJECTS, Stage, Subject, upstream

LIMIT_S = 170.0  # of one side: no further round is begun when it would end later than this
LLM_LIMIT_S = 330.0  # LiteLLM takes its time
FILE = Path(__file__).parent / "results" / "latest.md"
LOCK = Path(tempfile.gettempdir(), f"geko-bench-{os.getuid()}.lock")
OTHERS = ("nginx", "llm-litellm")  # what may be missing
LOGINS = "logins"  # stands alone, and is not part of the comparison
ALL = {**SUBJECTS, **LLM_SUBJECTS}
SIDES = (
    (tuple(SUBJECTS), MEASUREMENTS, LIMIT_S),
    (tuple(LLM_SUBJECTS), LLM_MEASUREMENTS, LLM_LIMIT_S),
)
HEADROOM = 2.0  # a load generator that is not this much faster than GEKO measures itself

Rounds = dict[str, dict[str, list[Figures]]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bench; 0 if everything that is installed was measured."""
    arguments = _arguments(argv)
    lock = LOCK.open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("another bench is running on this machine; both would use the same cores", file=sys.stderr)
        return 1
    with lock:
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))
    cores = share_out(available_cores())
    this_machine = machine()
    pin(0, sorted({cores.upstream, *cores.load}))  # inherited by the database
    for note in cores.notes:
        print(note)
    if LOGINS in arguments.measure:
        return _run_logins(cores)
    rounds: Rounds = {}
    problems: list[str] = []
    for names, measurements, limit_s in SIDES:
        if only := [name for name in arguments.only if name in names]:
            found = uvloop.run(_bench(arguments, only, measurements, limit_s, cores))
            rounds |= found[0]
            problems += found[1]
    summary = report.summary(rounds, this_machine, cores, problems)
    problems += _too_slow(summary["direct_to_geko"])
    summary["llm"] = llm_report.ratios(rounds)
    tables = (
        report.table(summary["results"], this_machine, [*cores.notes, *problems]),
        llm_report.table(summary["results"]),
    )
    text = "\n\n".join(filter(None, tables))
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text + "\n")
    print(f"\n{text}\n")
    print(json.dumps({**summary, "problems": [*cores.notes, *problems]}, separators=(",", ":")))
    return 1 if any(not rounds[name] for name in rounds if name not in OTHERS) else 0


def _run_logins(cores: Cores) -> int:
    """The measurement that compares nothing: what wrong passwords do to streams."""
    found, problems = uvloop.run(measure_logins(cores))
    for name, value in found.items():
        print(f"{name:<30} {value}")
    print(json.dumps({"machine": machine(), "logins": found, "problems": problems}, separators=(",", ":")))
    return 1 if problems else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench", description="Compare GEKO with nginx, a naive proxy, and LiteLLM."
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=ALL, default=list(ALL), metavar="SUBJECT")
    names = [each.name for _, measurements, _ in SIDES for each in measurements]
    parser.add_argument(
        "--measure", nargs="+", choices=[*names, LOGINS], default=names, metavar="MEASUREMENT"
    )
    return parser.parse_args(argv)


async def _bench(
    arguments: argparse.Namespace,
    names: Sequence[str],
    measurements: Sequence[Measurement],
    limit_s: float,
    cores: Cores,
) -> tuple[Rounds, list[str]]:
    """Measure one side of GEKO, and what it is compared with."""
    begun = time.monotonic()
    rounds: Rounds = {name: {} for name in names}
    problems: list[str] = []
    wanted = [each for each in measurements if each.name in arguments.measure]
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="geko-bench-")))
        stage = Stage(await stack.enter_async_context(upstream(cores, folder)), cores, folder)
        subjects = await _start(names, stage, stack, problems)
        last = 0.0
        for number in range(1, arguments.rounds + 1):
            at = time.monotonic()
            if at - begun + last > limit_s:
                problems.append(f"only {number - 1} rounds: the time was up")
                break
            for what in [each for each in wanted if number == 1 or not each.extra]:
                await _compare(stage, subjects, what, number, rounds, problems)
            last = time.monotonic() - at
    return rounds, problems


async def _start(
    names: Sequence[str], stage: Stage, stack: AsyncExitStack, problems: list[str]
) -> list[Subject]:
    subjects = []
    for name in names:
        try:
            subject = await stack.enter_async_context(ALL[name](stage))
        except BenchError as error:
            problems.append(str(error))
            print(error, file=sys.stderr)
            continue
        if subject is None:
            print(f"{name} is not installed")
        else:
            subjects.append(subject)
    return subjects


async def _compare(
    stage: Stage,
    subjects: Sequence[Subject],
    what: Measurement,
    number: int,
    rounds: Rounds,
    problems: list[str],
) -> None:
    """Measure all subjects one after the other, so that a disturbance does not hit always the same one."""
    for subject in subjects:
        try:
            figures = await measure(stage, subject, what)
        except BenchError as error:
            problems.append(f"{subject.name}, {what.name}: {error}")
            print(problems[-1], file=sys.stderr)
            continue
        rounds[subject.name].setdefault(what.name, []).append(figures)
        shown = "  ".join(f"{key}={value}" for key, value in figures.items())
        print(f"round {number}  {what.name:<13} {subject.name:<11} {shown}", flush=True)


def _too_slow(headroom: dict[str, float] | None) -> list[str]:
    """Measurements in which the generator and the upstream were hardly faster than GEKO (paced ones never are)."""
    slow = [name for name, times in (headroom or {}).items() if name != "paced" and times < HEADROOM]
    return [f"the load generator may have been the limit of: {', '.join(slow)}"] if slow else []


if __name__ == "__main__":
    sys.exit(main())
