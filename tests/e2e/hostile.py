"""A model provider that answers with whatever bytes a test orders. Not a test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Act = Callable[["Conversation"], Awaitable[None]]

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
DONE = b"data: [DONE]\n\n"


@dataclass
class Conversation:
    """One request and the connection to answer it on. left: GEKO has closed the connection."""

    body: dict[str, Any]
    head: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    left: threading.Event = field(default_factory=threading.Event)

    async def say(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def wait_until_left(self) -> None:
        """Wait until GEKO closes the connection, 20 s at most."""
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                while await self.reader.read(4096):
                    pass
        self.left.set()


@dataclass
class Hostile:
    """A running server. acts: by the name of the model; talks: all requests so far."""

    url: str
    acts: dict[str, Act] = field(default_factory=dict)
    talks: list[Conversation] = field(default_factory=list)

    def answers(self, model: str, *data: bytes) -> str:
        """Order bytes for a model; the connection is closed after them. Returns the model."""

        async def act(talk: Conversation) -> None:
            for each in data:
                await talk.say(each)

        self.acts[model] = act
        return model

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            raw = await reader.readexactly(int(lengths[0].split(b":")[1]) if lengths else 0)
            talk = Conversation(json.loads(raw or b"{}"), head, reader, writer)
            self.talks.append(talk)
            act = self.acts.get(talk.body.get("model", ""))
            try:
                if act is not None:
                    await act(talk)
            finally:
                writer.close()


@contextlib.contextmanager
def hostile() -> Iterator[Hostile]:
    """Run one on a free port, in a thread of its own."""
    found = Hostile("")
    loop = asyncio.new_event_loop()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(found.serve, "127.0.0.1", 0, limit=2**20)

    server = loop.run_until_complete(start())
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        asyncio.run_coroutine_threadsafe(end(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def end(server: asyncio.Server) -> None:
    """Close the server and all connections."""
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0.1)  # the connections' own callbacks


def event(value: Any) -> bytes:
    """One event of a stream, with JSON."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def delta(text: str, **more: Any) -> bytes:
    """A chunk of a chat completion that says something."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return event({"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **more})


def finish(**more: Any) -> bytes:
    """The last chunk with a choice."""
    choice = {"index": 0, "delta": {}, "finish_reason": "stop"}
    return event({"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **more})


def usage(prompt: int, output: int, **more: Any) -> bytes:
    """The chunk that reports usage."""
    report = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    return event({"id": "c1", "choices": [], "usage": {**report, **more}})


def whole(kind: str, body: bytes, *, status: bytes = b"200 OK", more: bytes = b"") -> bytes:
    """A reply in one piece. more: headers, each with its line end."""
    return b"HTTP/1.1 %b\r\nContent-Type: %b\r\n%bContent-Length: %d\r\n\r\n%b" % (
        status,
        kind.encode(),
        more,
        len(body),
        body,
    )
