"""One process of the load generator: `python -m bench.load '<job as JSON>'`; prints "ready", then its figures."""

from __future__ import annotations

import dataclasses
import gc
import json
import sys
from dataclasses import dataclass, field
from typing import Literal

import uvloop

from bench import requests, streams
from bench.window import Window

STARTERS = 8
SHORT_ANSWER = 500  # words


@dataclass(frozen=True, slots=True)
class Job:
    """What to do. json: GET /api/convos; starts: chat messages with tiny answers; paced, unpaced: event streams.

    count: connections or streams of this process; gap_ms: between the words of a paced stream.
    """

    kind: Literal["json", "starts", "paced", "unpaced"]
    port: int
    count: int
    headers: dict[str, str] = field(default_factory=dict)
    chats: bool = False
    gap_ms: int = 20

    def text(self) -> str:
        """The job as an argument of the command line."""
        return json.dumps(dataclasses.asdict(self))


async def run(job: Job) -> Window:
    """Do a job."""
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
            return await streams.run_paced(answers, job.count, STARTERS)
        case "unpaced":
            answers = streams.Answers(job.port, job.headers, job.chats, SHORT_ANSWER, 0)
            return await streams.run_unpaced(answers, job.count)


if __name__ == "__main__":
    gc.disable()  # a short life; its pauses would be measured as the proxy's
    print(json.dumps(uvloop.run(run(Job(**json.loads(sys.argv[1])))).result()), flush=True)
