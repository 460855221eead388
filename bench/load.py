"""One process of the load generator: `python -m bench.load '<job as JSON>'`; prints "ready", then its figures."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import sys
from dataclasses import dataclass, field
from typing import Literal

import uvloop

from bench import calls, requests, streams
from bench.window import Window

STARTERS = 8
SHORT_ANSWER = 500  # words

Kind = Literal["json", "starts", "paced", "unpaced", "calls", "paced_calls", "unpaced_calls"]


@dataclass(frozen=True, slots=True)
class Job:
    """What to do. json: GET /api/convos; starts: chat messages with tiny answers; paced, unpaced: event streams.

    calls, paced_calls, unpaced_calls: the same of model calls at `target`.

    count: connections or streams of this process; gap_ms: between the words of a paced stream.
    """

    kind: Kind
    port: int
    count: int
    headers: dict[str, str] = field(default_factory=dict)
    chats: bool = False
    gap_ms: int = 20
    target: str = ""

    def text(self) -> str:
        """The job as an argument of the command line."""
        return json.dumps(dataclasses.asdict(self))


async def run(job: Job) -> Window:
    """Do a job."""
    window = Window()
    match job.kind:
        case "json":
            return await requests.run(
                job.port, job.count, requests.request_bytes("GET", "/api/convos", job.headers)
            )
        case "starts":
            body = streams.chat_message(1, 0)
            message = requests.request_bytes("POST", "/api/agents/chat/Mock", job.headers, body)
            return await requests.run(job.port, job.count, message)
        case "paced":
            answers = streams.Answers(job.port, job.headers, job.chats, streams.ENDLESS, job.gap_ms)
            await streams.run_paced(window, lambda: streams.Starter(answers, window), job.count, STARTERS)
        case "unpaced":
            answers = streams.Answers(job.port, job.headers, job.chats, SHORT_ANSWER, 0)
            await streams.run_unpaced(window, lambda: streams.Starter(answers, window), job.count)
        case "calls":
            return await requests.run(job.port, job.count, calls.call_bytes(job.target, job.headers))
        case "paced_calls":
            await _paced_calls(job, window)
        case "unpaced_calls":
            request = calls.call_bytes(job.target, job.headers, SHORT_ANSWER, 0)
            starter = calls.CallStarter(job.port, request, window)
            await streams.run_unpaced(window, lambda: starter, job.count)
    return window


async def _paced_calls(job: Job, window: Window) -> None:
    """Streams, and meanwhile the time to the first word of others."""
    request = calls.call_bytes(job.target, job.headers, streams.ENDLESS, job.gap_ms)
    starter = calls.CallStarter(job.port, request, window)
    short = calls.call_bytes(job.target, job.headers, calls.PROBE_WORDS, 0)
    probing = asyncio.create_task(calls.probe(job.port, short, window))
    await streams.run_paced(window, lambda: starter, job.count, STARTERS)
    probing.cancel()


if __name__ == "__main__":
    gc.disable()  # a short life; its pauses would be measured as the proxy's
    print(json.dumps(uvloop.run(run(Job(**json.loads(sys.argv[1])))).result()), flush=True)
