"""What a load process counts between two moments, and how the processes agree on these moments.

A process says "ready" when its load is running; the bench answers with the start and end of the measurement, in
nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, field

NEVER = 2**63
SAMPLES = 2000


@dataclass(slots=True)
class Window:
    """Counts what happens between start_ns and end_ns. bad: failures, whenever they happen.

    firsts_ns: from a request to the first word of its answer, where that is measured.
    """

    start_ns: int = NEVER
    end_ns: int = NEVER
    count: int = 0
    bad: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    latencies_ns: list[int] = field(default_factory=list)
    firsts_ns: list[int] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Whether the measurement has ended."""
        return time.monotonic_ns() >= self.end_ns

    def add(self, now_ns: int, latency_ns: int) -> None:
        """Count one thing, if it is time."""
        if self.start_ns <= now_ns < self.end_ns:
            self.count += 1
            self.latencies_ns.append(latency_ns)

    def fail(self, reason: str) -> None:
        """Count one failure."""
        self.bad += 1
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    async def agree(self) -> None:
        """Say that the load is running; take the times of the measurement from stdin; wait for its end."""
        print("ready", flush=True)
        line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        start, end = line.split()
        self.start_ns, self.end_ns = int(start), int(end)
        await asyncio.sleep(max(0, self.end_ns - time.monotonic_ns()) / 1e9)

    def result(self) -> dict[str, object]:
        """The figures of this process; of the latencies an even sample."""
        return {
            "count": self.count,
            "bad": self.bad,
            "reasons": self.reasons,
            "latencies_ns": _sample(self.latencies_ns),
            "firsts_ns": _sample(self.firsts_ns),
        }


def _sample(latencies_ns: list[int]) -> list[int]:
    ordered = sorted(latencies_ns)
    step = max(1, len(ordered) / SAMPLES)
    return [ordered[int(i * step)] for i in range(min(SAMPLES, len(ordered)))]
