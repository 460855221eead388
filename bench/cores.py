"""Who runs on which processor core, and what machine this is."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cores:
    """The measured proxy alone on one core; upstream and load (with the database) on others.

    load: each core carries one process of the generator. notes: what the reader of the figures must know.
    """

    measured: int
    upstream: int
    load: tuple[int, ...]
    notes: tuple[str, ...] = ()


def share_out(available: Sequence[int]) -> Cores:
    """Share out the cores that this process may use; the last one is measured, as the first serves interrupts."""
    first, last = available[0], available[-1]
    if len(available) == 1:
        note = "one core: proxy, upstream, load and database share it; the figures say little"
        return Cores(last, last, (last,), (note,))
    if len(available) == 2:
        return Cores(last, first, (first,), ("two cores: upstream, load and database share the other one",))
    load = tuple(available[1:-1][:3])
    return Cores(last, first, load)


def available_cores() -> list[int]:
    """The cores that this process may use, in order."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pin(pid: int, cores: Sequence[int]) -> None:
    """Keep a process (0: this one) on these cores; only Linux can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(pid, cores)


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    return {
        "cpu": _cpu_model(),
        "cores": len(available_cores()),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
