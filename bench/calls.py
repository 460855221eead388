"""Load of model calls, as LibreChat makes them: streams that a POST asks for, and the time to their first word."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass

from bench.requests import request_bytes
from bench.streams import Form, Stream
from bench.window import Window

# every word's number and time, wherever a proxy has put the field
FORM = Form(re.compile(rb'"system_fingerprint":\s?"fp_(\d{1,8})_(\d+)"'), b"data: [DONE]")
PROBE_WORDS = 3
PROBE_PAUSE_S = 0.02


def call_bytes(target: str, headers: dict[str, str], words: int = 0, gap_ms: int | None = None) -> bytes:
    """A call of a model; gap_ms: between the words of a stream, None: the answer in one piece."""
    text = "Tell me about foxes" + (f" n={words} ms={gap_ms}" if gap_ms is not None else "")
    messages = [
        {"role": "system", "content": "You are a helpful assistant. Answer in one paragraph."},
        {"role": "user", "content": text},
    ]
    body = {"model": "gpt-4o", "messages": messages, "stream": gap_ms is not None}
    return request_bytes("POST", target, headers, json.dumps(body).encode())


@dataclass(frozen=True, slots=True)
class CallStarter:
    """Starts streams of calls, each over a connection of its own."""

    port: int
    request: bytes
    window: Window

    async def start(self) -> Stream | None:
        """Begin a call and listen to it."""
        loop = asyncio.get_running_loop()
        _, stream = await loop.create_connection(
            lambda: Stream(self.request, self.window, FORM), "127.0.0.1", self.port
        )
        return stream

    def close(self) -> None:
        """There is nothing to close."""


async def probe(port: int, request: bytes, window: Window) -> None:
    """While the measurement lasts, make one short call after the other and note the time to its first word."""
    aside = Window()
    starter = CallStarter(port, request, aside)
    while not window.over:
        if time.monotonic_ns() < window.start_ns:
            await asyncio.sleep(PROBE_PAUSE_S)
            continue
        stream = await starter.start()
        assert stream is not None
        await stream.ended.wait()
        if stream.first_after_ns:
            window.firsts_ns.append(stream.first_after_ns)
        await asyncio.sleep(PROBE_PAUSE_S)
    for reason in aside.reasons:
        window.fail(f"probe: {reason}")
