"""Load of event streams: paced ones that all run at the same time, or short ones one after the other at full speed."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

import httptools

from bench.requests import request_bytes
from bench.window import Window

SENT = re.compile(rb'"sent":\[(\d+),(\d+)\]')
PATH = "/api/agents/chat/stream/"
ENDLESS = 1_000_000
OPENS_WITHIN_S = 10.0
ENDS_WITHIN_S = 8.0


class Form(NamedTuple):
    """How the events of a stream look. sent: finds number and time of a word; final: stands in the last event."""

    sent: re.Pattern[bytes]
    final: bytes


CHAT = Form(SENT, b'data: {"final":true')


@dataclass(frozen=True, slots=True)
class Answers:
    """How answers are asked for. chats: by a chat message, else the stream is asked for directly."""

    port: int
    headers: dict[str, str]
    chats: bool
    words: int
    gap_ms: int


class Stream(asyncio.Protocol):
    """Somebody who listens to one answer; `begun` is set by the first word, `ended` at the end.

    first_after_ns: from the request to the first word; 0: there is none yet.
    """

    def __init__(self, request: bytes, window: Window, form: Form = CHAT) -> None:
        self.first_after_ns = 0
        self._form = form
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        self._request = request
        self._window = window
        self._parser = httptools.HttpResponseParser(self)
        self._next = 0
        self._rest = b""
        self._final = False
        self._complete = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._asked_ns = time.monotonic_ns()
        self._transport.write(self._request)

    def measure_with(self, window: Window) -> None:
        """Count events in another window from now on."""
        self._window = window

    def close(self) -> None:
        """Leave before the end, which is no failure."""
        self._complete = True
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._now = time.monotonic_ns()
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._complete:
            self._window.fail("stream broken off")
        self._leave()

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status != 200:
            self._window.fail(str(status))
            self._complete = True  # counted as bad already
            self._transport.close()

    def on_body(self, body: bytes) -> None:
        data = self._rest + body
        end = data.rfind(b"\n\n") + 2
        self._rest = data[end:] if end > 1 else data
        for number, sent_ns in self._form.sent.findall(data, 0, max(end, 0)) if end > 1 else ():
            if int(number) == self._next:
                self._next += 1
            else:
                self._next = -1  # every later number is wrong too
            self._window.add(self._now, self._now - int(sent_ns))
        self._final = self._final or self._form.final in data
        if self._next:
            self.first_after_ns = self.first_after_ns or self._now - self._asked_ns
            self.begun.set()

    def on_message_complete(self) -> None:
        self._complete = True
        if self._next < 0:
            self._window.fail("events lost")
        elif not self._final:
            self._window.fail("no final event")
        self._transport.close()

    def _leave(self) -> None:
        self.begun.set()
        self.ended.set()


class Starter:
    """Starts answers one after the other, over one connection."""

    def __init__(self, answers: Answers, window: Window) -> None:
        self._answers = answers
        self._window = window
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def start(self) -> Stream | None:
        """Begin to listen to a new answer; None if it could not be started."""
        given = self._answers
        target = f"{PATH}direct?n={given.words}&ms={given.gap_ms}"
        if given.chats:
            stream_id = await self._post()
            if stream_id is None:
                return None
            target = PATH + stream_id
        request = request_bytes("GET", target, {**given.headers, "Accept": "text/event-stream"})
        loop = asyncio.get_running_loop()
        _, stream = await loop.create_connection(
            lambda: Stream(request, self._window), "127.0.0.1", given.port
        )
        return stream

    async def _post(self) -> str | None:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._answers.port)
        reader, writer = self._streams
        body = chat_message(self._answers.words, self._answers.gap_ms)
        writer.write(request_bytes("POST", "/api/agents/chat/Mock", self._answers.headers, body))
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        reply = await reader.readexactly(int(head.partition("content-length:")[2].split("\r\n")[0]))
        if not head.startswith("http/1.1 200"):
            self._window.fail("start " + head[9:12])
            return None
        return str(json.loads(reply)["streamId"])

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()


def chat_message(words: int, gap_ms: int) -> bytes:
    """The body that LibreChat's client sends (contract §4.1); the upstream reads the plan in the text."""
    message = {
        "text": f"Tell me about foxes n={words} ms={gap_ms}",
        "sender": "User",
        "isCreatedByUser": True,
        "parentMessageId": "00000000-0000-0000-0000-000000000000",
        "messageId": "f212fb69-8b98-434e-bb7a-f0ac00b530a9",
        "conversationId": None,
        "error": False,
        "endpoint": "Mock",
        "endpointType": "custom",
        "model": "gpt-4o",
        "modelDisplayLabel": "Mock",
        "isTemporary": False,
        "isRegenerate": False,
        "isContinued": False,
        "ephemeralAgent": {"mcp": [], "web_search": False, "file_search": False, "execute_code": False},
        "timezone": "UTC",
    }
    return json.dumps(message).encode()


class Starts(Protocol):
    """Starts streams."""

    async def start(self) -> Stream | None:
        """Begin to listen to a new answer; None if it could not be started."""

    def close(self) -> None:
        """Close what starting needs."""


async def run_paced(window: Window, starter_of: Callable[[], Starts], count: int, starters: int) -> None:
    """Open so many streams, measure once all of them bring words, then wait for their ends (the bench stops them)."""
    streams: list[Stream] = []
    left = iter(range(count))

    async def open_some() -> None:
        starter = starter_of()
        for _ in left:
            stream = await starter.start()
            if stream is not None:
                streams.append(stream)
                await stream.begun.wait()
        starter.close()

    opening = [asyncio.create_task(open_some()) for _ in range(starters)]
    _, late = await asyncio.wait(opening, timeout=OPENS_WITHIN_S)
    for task in late:
        task.cancel()
    await asyncio.gather(*opening, return_exceptions=True)
    for _ in range(count - sum(stream.begun.is_set() for stream in streams)):
        window.fail("did not begin")
    await window.agree()
    await _until_ended(streams, window)


async def run_unpaced(window: Window, starter_of: Callable[[], Starts], at_once: int) -> None:
    """Keep so many short answers running, one after the other, until the measurement is over."""
    last: list[Stream] = []

    async def listen() -> None:
        starter = starter_of()
        while not window.over:
            stream = await starter.start()
            if stream is not None:
                last.append(stream)
                await stream.ended.wait()
                last.remove(stream)
        starter.close()

    listening = [asyncio.create_task(listen()) for _ in range(at_once)]
    await asyncio.sleep(0.3)
    await window.agree()
    await asyncio.wait(listening, timeout=ENDS_WITHIN_S)
    await _until_ended(last, window, 0.1)
    for task in listening:
        task.cancel()


async def _until_ended(streams: list[Stream], window: Window, within_s: float = ENDS_WITHIN_S) -> None:
    try:
        async with asyncio.timeout(within_s):
            for stream in tuple(streams):
                await stream.ended.wait()
    except TimeoutError:
        for stream in streams:
            if not stream.ended.is_set():
                window.fail("did not end")
