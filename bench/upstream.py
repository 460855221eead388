"""A LibreChat-shaped upstream that does as little work as an asyncio protocol can: `python -m bench.upstream PORT`.

A chat message says in its text how many words the answer has and how far apart they come ("n=200 ms=20"); a stream
can also be asked for directly with ?n=&ms=. It is a model provider, too: POST /v1/chat/completions.
`POST /bench/stop` ends all running answers at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple, cast
from urllib.parse import parse_qs

import uvloop

from bench import completions, events
from bench.events import conversations, json_reply

PLAN = re.compile(rb"n=(\d+) ms=(\d+)")
STREAMS = re.compile(rb'"stream": ?true')
WITH_USAGE = re.compile(rb'"include_usage": ?true')
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
STREAM = "/api/agents/chat/stream/"
CALLS = "/v1/chat/completions"
AT_ONCE = 32  # words written without a pause when they have no distance
# a login answer carries a token; with identity "mint" nobody looks into it
TOKEN = "e30.eyJleHAiOjQxMDI0NDQ4MDB9.c2ln"  # {"exp": 4102444800}, unsigned

FIXED = {
    "GET /api/convos": json_reply(conversations()),
    "GET /api/models": json_reply({"Mock": ["gpt-4o", "gpt-4o-mini"]}),
    "GET /api/config": json_reply({"appTitle": "LibreChat", "modelSpecs": {"list": []}}),
    "GET /api/endpoints": json_reply({"Mock": {"type": "custom", "userProvide": False, "order": 0}}),
    "GET /readyz": json_reply({"status": "ok"}),
    "GET /health": json_reply({"status": "ok"}),
}
NOT_FOUND = json_reply({"message": "Endpoint not found"}, b"404 Not Found")


class Voice(NamedTuple):
    """How an answer is told. delta: of a word's number and the time in ns; closing: of its id and number of words."""

    head: bytes
    opening: Callable[[str], bytes]
    delta: Callable[[int, int], bytes]
    closing: Callable[[str, int], bytes]


CHAT = Voice(events.STREAM_HEAD, events.opening, events.delta, events.closing)
CALL = Voice(completions.STREAM_HEAD, completions.opening, completions.delta, completions.closing)
METERED_CALL = CALL._replace(closing=completions.closing_with_usage)


class Answers:
    """The answers that were asked for, those that are running, and how many words were sent."""

    def __init__(self) -> None:
        self.asked: dict[str, tuple[int, float]] = {}
        self.running: set[Answer] = set()
        self.sent = 0

    def ask(self, body: bytes) -> bytes:
        """Take a chat message; the reply names the stream of its answer."""
        stream_id = str(uuid.uuid4())
        self.asked[stream_id] = planned(body)
        return json_reply({"streamId": stream_id, "conversationId": stream_id, "status": "started"})

    def plan(self, stream_id: str, query: str) -> tuple[int, float] | None:
        """Words and seconds between them of a stream; None: nobody asked for it."""
        if "n=" in query:
            values = parse_qs(query)
            return int(values["n"][0]), float(values["ms"][0]) / 1000
        return self.asked.pop(stream_id, None)

    def stop(self) -> None:
        """End all running answers; what was asked for and not yet read comes without words."""
        self.asked = dict.fromkeys(self.asked, (0, 0.0))
        for answer in tuple(self.running):
            answer.end()


class Answer:
    """One stream of events to one connection. Paced by absolute times, so that delays do not add up."""

    def __init__(
        self,
        answers: Answers,
        connection: Connection,
        stream_id: str,
        words: int,
        gap_s: float,
        voice: Voice = CHAT,
    ) -> None:
        self._voice = voice
        self._answers = answers
        self._connection = connection
        self._write = connection.transport.write
        self._stream_id = stream_id
        self._words = words
        self._gap_s = gap_s
        self._number = 0
        self._loop = asyncio.get_running_loop()
        self._next_at = self._loop.time()
        self._timer: asyncio.Handle | None = None
        answers.running.add(self)
        self._write(voice.head + voice.opening(stream_id))
        self.step()

    def step(self) -> None:
        """Write the next word, or the next few, and come back later."""
        self._timer = None
        if self._connection.paused and not self._gap_s:
            return  # goes on in resume_writing
        upto = min(self._words, self._number + (1 if self._gap_s else AT_ONCE))
        now_ns, delta = time.monotonic_ns(), self._voice.delta
        self._write(b"".join([delta(number, now_ns) for number in range(self._number, upto)]))
        self._answers.sent += upto - self._number
        self._number = upto
        if upto == self._words:
            self.end()
        elif self._gap_s:
            self._next_at += self._gap_s
            self._timer = self._loop.call_at(self._next_at, self.step)
        else:
            self._timer = self._loop.call_soon(self.step)

    def end(self) -> None:
        """Write the last events."""
        self.drop()
        self._write(self._voice.closing(self._stream_id, self._number))
        self._connection.answer = None

    def drop(self) -> None:
        """Nobody listens any more."""
        self._answers.running.discard(self)
        if self._timer is not None:
            self._timer.cancel()


class Connection(asyncio.Protocol):
    """One connection from a proxy or from the load generator."""

    transport: asyncio.Transport

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._rest = b""
        self.answer: Answer | None = None
        self.paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self.answer is not None:
            self.answer.drop()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self.answer is not None and self.answer._timer is None:
            self.answer.step()

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(data, 0, end + 2)
            after = end + 4 + (int(length[1]) if length else 0)
            if len(data) < after:
                break
            method, target, _ = data[: data.find(b"\r\n")].decode("latin-1").split(" ", 2)
            self._serve(method, target, data[end + 4 : after])
            data = data[after:]
        self._rest = data

    def _serve(self, method: str, target: str, body: bytes) -> None:
        path, _, query = target.partition("?")
        if path.endswith(CALLS):
            self._call(body)
            return
        if path.startswith(STREAM):
            stream_id = path[len(STREAM) :]
            plan = self._answers.plan(stream_id, query)
            if plan is not None:
                self.answer = Answer(self._answers, self, stream_id, *plan)
                return
        self.transport.write(FIXED.get(f"{method} {path}") or self._reply(method, path, body))

    def _call(self, body: bytes) -> None:
        if STREAMS.search(body):
            voice = METERED_CALL if WITH_USAGE.search(body) else CALL
            self.answer = Answer(self._answers, self, "", *planned(body), voice)
        else:
            self.transport.write(completions.REPLY)

    def _reply(self, method: str, path: str, body: bytes) -> bytes:
        if path.startswith("/api/agents/chat/status/"):
            return json_reply({"active": True})
        if path.startswith("/api/messages/"):
            return json_reply({}, b"201 Created") if method == "POST" else json_reply([])
        if method == "POST" and path.startswith("/api/agents/chat"):
            return self._answers.ask(body)
        if path == "/api/auth/login":
            return json_reply({"token": TOKEN, "user": account(json.loads(body))})
        if path == "/api/auth/register":
            return json_reply({"message": "Please check your email to verify your email address."})
        if path == "/bench/stop":
            self._answers.stop()
        if path.startswith("/bench/"):
            return json_reply({"sent": self._answers.sent, "running": len(self._answers.running)})
        return NOT_FOUND


def planned(body: bytes) -> tuple[int, float]:
    """Words, and seconds between them, that a message asks for."""
    plan = PLAN.search(body)
    return (int(plan[1]), int(plan[2]) / 1000) if plan else (10, 0.0)


def account(login: dict[str, Any]) -> dict[str, Any]:
    """An account of LibreChat for an e-mail address, always the same one."""
    user_id = hashlib.sha256(str(login.get("email")).encode()).hexdigest()[:24]
    return {"id": user_id, "_id": user_id, "email": login.get("email"), "role": "USER", "provider": "local"}


async def main(port: int) -> None:
    """Serve on loopback until killed."""
    answers = Answers()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(answers), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
