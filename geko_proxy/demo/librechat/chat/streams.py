"""The jobs and their event streams: early buffer given away once, live subscribers, sync, replacement.

A stream lives as long as its job; connections come and go (contract §4.3).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from geko_proxy.demo.librechat.express import Json, encode

if TYPE_CHECKING:
    from geko_proxy.demo.librechat.chat.runs import Run


def frame(data: Json, event: str = "message") -> bytes:
    """One SSE event as LibreChat writes it."""
    return b"event: %s\ndata: %s\n\n" % (event.encode(), encode(data))


class Stream:
    """What subscribers of one conversation's job see. `run` is the job's newest run."""

    def __init__(self, stream_id: str) -> None:
        self.id = stream_id
        self.run: Run | None = None
        self.last: bytes | None = None
        self.last_until = 0.0
        self._early: list[bytes] | None = []
        self._subscribers: list[asyncio.Queue[bytes | None]] = []

    def publish(self, event: bytes) -> None:
        """Send to everybody; keep it for the first subscriber while there was none yet."""
        if self._early is not None:
            self._early.append(event)
        for queue in self._subscribers:
            queue.put_nowait(event)

    def end(self, last: bytes, keep_s: float) -> None:
        """Send the last event and end every subscription; late ones get it too for `keep_s` seconds."""
        self.publish(last)
        for queue in self._subscribers:
            queue.put_nowait(None)
        self.last, self.last_until = last, time.monotonic() + keep_s

    def restart(self) -> None:
        """A second POST took the job over: subscribers stay, without any a new early buffer begins."""
        self.last = None
        if not self._subscribers:
            self._early = []

    async def subscribe(self, first: bytes | None = None) -> AsyncIterator[bytes]:
        """Yield events from now on; `first` (a sync event) goes before, and drops the early buffer."""
        early, self._early = self._early or [], None
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        for known in [first] if first is not None else early:
            queue.put_nowait(known)
        if self.last is not None:
            if self.last not in early or first is not None:
                queue.put_nowait(self.last)
            queue.put_nowait(None)
        self._subscribers.append(queue)
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._subscribers.remove(queue)
            if not self._subscribers and self.run is not None and self.last is None:
                self.run.save_partial()


class Jobs:
    """All jobs by stream id, in the order of their starts."""

    def __init__(self, error_s: float, completed_s: float) -> None:
        self._error_s, self._completed_s = error_s, completed_s
        self._streams: dict[str, Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def find(self, stream_id: str) -> Stream | None:
        """The job's stream while it runs, or a while after it failed."""
        stream = self._streams.get(stream_id)
        if stream is not None and stream.last is not None and stream.last_until <= time.monotonic():
            del self._streams[stream_id]
            return None
        return stream

    def running(self, stream_id: str) -> Stream | None:
        """The job's stream, only while it runs."""
        stream = self.find(stream_id)
        return stream if stream is not None and stream.last is None else None

    def active(self, user_id: str) -> list[str]:
        """Ids of the user's running jobs, the newest last."""
        return [
            stream_id
            for stream_id, stream in self._streams.items()
            if stream.last is None and stream.run is not None and stream.run.user.id == user_id
        ]

    def start(self, run: Run) -> None:
        """Run it under its conversation's id; a running one there loses its job record (contract §4.3)."""
        stream = self.running(run.conversation_id)
        if stream is None:
            stream = Stream(run.conversation_id)
        else:
            stream.restart()
        self._streams.pop(stream.id, None)
        self._streams[stream.id] = stream
        stream.run = run
        run.stream = stream
        run.task = asyncio.get_running_loop().create_task(run.go())
        self._tasks.add(run.task)
        run.task.add_done_callback(self._tasks.discard)

    def finished(self, stream: Stream, last: bytes, *, failed: bool = False) -> None:
        """End a job with its last event."""
        keep_s = self._error_s if failed else self._completed_s
        stream.end(last, keep_s)
        if keep_s <= 0:
            self._streams.pop(stream.id, None)

    async def stop(self) -> None:
        """Cancel every run."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
