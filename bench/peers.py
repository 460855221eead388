"""What it costs to listen at another instance than the one that reads the answer: `python -m bench.peers`.

Processor time of both instances per event, with listeners at none, at the owner and at the other one; and the time from
the request to the first event, and by how much later each event comes. The last line is one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from bench.processes import BenchError
from geko_proxy.sse import SseParser
from prove.load import listen, send
from prove.stage import Stage, User, open_stage

ANSWERS, WORDS, DELAY_MS = 60, 400, 20
PROBES = 200
TICKS = os.sysconf("SC_CLK_TCK")
NOBODY = -1


@dataclass(frozen=True)
class Cost:
    """Processor time of the owner and of the other instance, in µs per event; events: how many were heard."""

    owner_us: float
    other_us: float
    events: int


def cpu_s(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def cost(stage: Stage, user: User, listening_at: int) -> Cost:
    """Run answers at the first instance, with one listener each at an instance (NOBODY: with none)."""
    pids = [instance.pid for instance in stage.instances]
    before = [cpu_s(pid) for pid in pids]
    order = f"tokens={WORDS} delay_ms={DELAY_MS} word=river"
    attempts = await asyncio.gather(*(send(user.at[0], order) for _ in range(ANSWERS)))
    conversations = [str(each.conversation) for each in attempts]
    if listening_at == NOBODY:
        await asyncio.sleep(WORDS * DELAY_MS / 1000)
        events = 0
    else:
        heard = await asyncio.gather(*(listen(user.at[listening_at], each) for each in conversations))
        events = sum(each.events for each in heard)
    if await stage.books.settled(user.workspace_id, 60) is None:
        raise BenchError("answers did not end")
    used = [(cpu_s(pid) - at) * 1e6 / (ANSWERS * WORDS) for pid, at in zip(pids, before, strict=True)]
    return Cost(used[0], used[1], events)


async def first_event_ms(user: User, at: int, conversation: str) -> list[float]:
    """The time from a request to its first event, many times, one after the other."""
    found = []
    for _ in range(PROBES):
        begun = time.perf_counter()
        async with user.at[at].subscribed(conversation, "?resume=true") as reply:
            if reply.status != 200:
                raise BenchError(f"an instance answered {reply.status}")
            await reply.content.readany()
            found.append((time.perf_counter() - begun) * 1000)
    return sorted(found)


async def arrivals(user: User, at: int, conversation: str) -> list[float]:
    """When each event of an answer came."""
    parser, found = SseParser(), []
    async with user.at[at].subscribed(conversation) as reply:
        async for chunk in reply.content.iter_any():
            found.extend([time.perf_counter()] * len(parser.feed(chunk)))
    return found


async def later_ms(user: User) -> list[float]:
    """By how much later an event comes to a listener at the other instance than to one at the owner."""
    attempt = await send(user.at[0], f"tokens={WORDS} delay_ms={DELAY_MS}")
    here, there = await asyncio.gather(*(arrivals(user, at, str(attempt.conversation)) for at in (0, 1)))
    late = [(b - a) * 1000 for a, b in zip(here, there, strict=True)]
    return sorted(late[10:])  # the first ones were there before the listeners


async def measure() -> dict[str, object]:
    """All figures."""
    async with open_stage(ANSWERS, 1) as stage:
        user = await stage.user(None)
        await cost(stage, user, 1)  # warm
        alone, here, there = [await cost(stage, user, at) for at in (NOBODY, 0, 1)]
        attempt = await send(user.at[0], f"tokens=3000 delay_ms={DELAY_MS}")
        starts = [await first_event_ms(user, at, str(attempt.conversation)) for at in (0, 1)]
        later = await later_ms(user)
        await user.at[0].call("POST", "/api/agents/chat/abort", {"streamId": attempt.conversation})
    return {
        "events": there.events,
        "owner_alone_us": round(alone.owner_us, 1),
        "listener_at_owner_us": round(here.owner_us - alone.owner_us, 1),
        "forwarded_at_owner_us": round(there.owner_us - alone.owner_us, 1),
        "forwarded_at_other_us": round(there.other_us - alone.other_us, 1),
        "first_event_at_owner_ms": percentiles(starts[0]),
        "first_event_elsewhere_ms": percentiles(starts[1]),
        "event_later_ms": percentiles(later),
    }


def percentiles(ordered: Sequence[float]) -> dict[str, float]:
    """The median and the slow end."""
    return {
        "p50": round(statistics.median(ordered), 2),
        "p95": round(ordered[int(len(ordered) * 0.95)], 2),
    }


def main() -> int:
    """Measure and print."""
    try:
        figures = asyncio.run(measure())
    except (BenchError, aiohttp.ClientError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    for name, value in figures.items():
        print(f"{name:26} {value}")
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
