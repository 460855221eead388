"""A turn: a chat message and its answer. It is owned by a task, not by a client's connection.

It reads LibreChat's stream exactly once, passes each event through the filters once, and keeps the result in an
ordered log from which any number of browsers is served (design §2; contract §4.7, traps 6, 14, 15, 17).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from geko_proxy.errors import EndStream, FilterError, UpstreamError
from geko_proxy.event_log import EventLog
from geko_proxy.exchange import Exchange
from geko_proxy.librechat import error_part
from geko_proxy.librechat_client import LibreChatClient
from geko_proxy.sse import SseEvent, SseFormatError, SseParser
from geko_proxy.turn_finals import TEXT, only_passed_on, own_final, passed_text

if TYPE_CHECKING:
    from geko_proxy.filters.chain import EventHooks
    from geko_proxy.upstream_connection import UpstreamReply

log = logging.getLogger("geko.turns")

FINAL_WAIT_S = 5.0  # for the aborted final after a cut
LATE_SAVE_S = 0.15  # LibreChat saves once more after an abort (contract §4.8)
RECONNECTS = 3

_USUAL_TEXT = b"event: message\ndata: " + TEXT  # as most events of an answer begin

Bearer = Callable[[], Awaitable[str]]


class _Begun(NamedTuple):
    """An event that the filters have seen, and what is left to do: to wait for one of them, or to raise."""

    event: SseEvent
    waiting: Awaitable[Sequence[SseEvent]] | None
    error: Exception | None


class Turn:
    """One answer that is being read, or was until a moment ago."""

    def __init__(
        self,
        exchange: Exchange,
        stream_id: str,
        client: LibreChatClient,
        bearer: Bearer,
        hooks: EventHooks | None,
        *,
        taken_over: bool = False,
    ) -> None:
        identity = exchange.signed_in()
        self.exchange = exchange
        self.stream_id = stream_id  # equals the conversation id (contract §0.2)
        self.user_id: UUID = identity.user_id
        self.workspace_id: UUID = identity.workspace_id
        self.turn_id: UUID | None = exchange.turn_id  # None: no filter meters it
        self.log = EventLog()
        self.final: dict[str, Any] | None = None  # the final event's JSON
        self.created: dict[str, Any] | None = None
        self.run_id: str | None = None
        self.notice: str | None = None  # why the answer was cut
        self._code = "ended_by_filter"  # the same for programs
        self.over = asyncio.Event()  # the last event is in the log
        self._client = client
        self._bearer = bearer
        self._hooks = hooks
        self._taken_over = taken_over  # from an instance that has vanished: its stream begins in the middle
        self._before: dict[str, str] = {}  # text that was made before a stream that begins in the middle
        self._parser = SseParser()
        self._begun: _Begun | None = None
        self._passed: list[bytes] = []
        self._ended = False
        self._last = b""

    async def run(self, finished: Callable[[], Awaitable[None]]) -> None:
        """Read the answer to its end. Never leaves a reader of the log without a final or an error event.

        `finished` is awaited before the last event is passed on: who sees the end of an answer sees it charged.
        """
        try:
            await self._read_to_the_end()
        except Exception:
            log.exception("%s: reading the answer failed", self.exchange.id)
        finally:
            if not self._ended:
                await self._give_up()
            try:
                await finished()
            finally:
                self.log.append(self._last)
                self.log.close()
                self.over.set()

    async def _give_up(self) -> None:
        self._end_with_error("The answer broke off. Reload the page to see what was stored.")
        try:
            await self.abort()  # what can't be read can't be metered
        except UpstreamError as error:
            log.warning("%s: an answer that can't be read could not be stopped: %s", self.exchange.id, error)

    async def abort(self) -> bool:
        """Ask LibreChat to stop this answer; its final then comes through the stream."""
        return await self._client.abort(await self._bearer(), self.stream_id)

    async def resume(self) -> tuple[bytes, int]:
        """For a browser that comes back: a `sync` event, and the number of the event to go on with.

        The sync is empty and every event but `created` follows: LibreChat's client rebuilds the answer from them, and
        sees exactly what the filters let through. The log of an answer that was taken over begins with LibreChat's own.
        """
        if self._taken_over:
            return b"", 0
        question = (self.created or {}).get("message") or {}
        state: dict[str, Any] = {
            "runSteps": [],
            "aggregatedContent": [],
            "userMessage": question,
            "responseMessageId": self.run_id,
            "conversationId": self.stream_id,
            "model": (self.exchange.model or "").partition("/")[2] or None,
        }
        start = 1 if self.created is not None else 0
        return SseEvent.message({"sync": True, "resumeState": state, "pendingEvents": []}).raw, start

    async def _read_to_the_end(self) -> None:
        for attempt in range(RECONNECTS + 1):
            try:
                reply = await self._client.open_stream(
                    await self._bearer(), self.stream_id, resume=attempt > 0 or self._taken_over
                )
                if reply.status == 200:
                    await self._read(reply)
                else:
                    reply.close()
                    if reply.status == 404:  # it has ended meanwhile
                        await self._take_stored_answer()
                if self._ended:
                    return
            except (UpstreamError, SseFormatError) as error:
                log.warning("%s: stream lost (%s), attempt %d", self.exchange.id, error, attempt + 1)
            await asyncio.sleep(0.2 * 2**attempt)

    async def _read(self, reply: UpstreamReply) -> None:
        parser = self._parser = SseParser()
        reply.tap = self
        try:
            while chunk := await reply.read_chunk():
                events = iter(parser.feed(chunk))
                for event in events:
                    await self._take(event)
                    if self._ended:
                        return
                    if self.notice is not None:
                        reply.tap = None
                        await self._cut(reply, parser, list(events))
                        return
                self.flush()
        finally:
            reply.tap = None
            reply.close()
            self.flush()

    def take(self, data: bytes) -> bool:
        """Take a piece of the stream at once, if it is one whole event of text and no filter has to wait for it.

        False: it is left to `_take`, with what the filters have begun.
        """
        if not data.startswith(_USUAL_TEXT):
            return False
        event = self._parser.whole(data)
        if event is None:
            return False
        if self._hooks is not None:
            try:
                waiting = self._hooks.start(event)
            except Exception as error:  # noqa: BLE001  # raised again in _take
                self._begun = _Begun(event, None, error)
                return False
            if waiting is not None:
                self._begun = _Begun(event, waiting, None)
                return False
        self._passed.append(event.raw)
        return True

    async def _filtered(self, event: SseEvent) -> Sequence[SseEvent]:
        if self._hooks is None:
            return (event,)
        begun, self._begun = self._begun, None
        if begun is None:
            begun = _Begun(event, self._hooks.start(event), None)
        if begun.error is not None:
            raise begun.error
        if begun.waiting is None:
            return (event,)
        self.flush()  # what has come meanwhile does not wait
        return await begun.waiting

    def flush(self) -> None:
        """Put what has been passed on into the log: events that came together stay together."""
        passed = self._passed
        if passed:
            self._passed = []
            self.log.extend(passed)

    async def _take(self, event: SseEvent) -> None:
        """Pass one event through the filters; `flush` puts it into the log."""
        kind = "event" if TEXT in event.raw[:48] else self._note(event)
        try:
            passed = await self._filtered(event)
        except EndStream as end:
            self._passed.extend([last.raw for last in end.last])
            self.notice = end.notice or "The answer was ended by a rule of this workspace."
            self._code = end.code
            passed = (event,) if kind == "final" else ()
        except FilterError:
            self.notice = "The answer was ended because a check of it failed."
            self._code = "filter_failed"
            passed = (event,) if kind == "final" else ()
        if kind == "event":
            self._passed.extend([each.raw for each in passed])
            return
        self.flush()
        if kind == "final" and self.notice is not None:
            await self._end_with_notice(event.json, saved_again=True)
        else:
            self._last = b"".join(each.raw for each in passed)
            self._ended = True

    def _note(self, event: SseEvent) -> str:
        """Remember what later steps need; say whether this is the last event."""
        if event.name == "error":
            return "error"
        data = event.json
        if not isinstance(data, dict):
            return "event"
        if data.get("final"):
            self.final = data
            return "final"
        if data.get("created"):
            self.created = data
        elif data.get("sync") and self._taken_over and self.created is None:
            self._note_state(data.get("resumeState"))
        elif self.run_id is None and isinstance(data.get("data"), dict):
            run_id = data["data"].get("runId")
            self.run_id = run_id if isinstance(run_id, str) else None
        return "event"

    def _note_state(self, state: Any) -> None:
        """Remember what an answer that was taken over has been so far."""
        if not isinstance(state, dict):
            return
        run_id = state.get("responseMessageId")
        self.run_id = run_id if isinstance(run_id, str) else None
        self.created = {"created": True, "message": state.get("userMessage"), "streamId": self.stream_id}
        for kind in ("text", "think"):
            parts = [part for part in state.get("aggregatedContent") or () if isinstance(part, dict)]
            self._before[kind] = "".join([str(part.get(kind) or "") for part in parts])

    async def _cut(self, reply: UpstreamReply, parser: SseParser, left: list[SseEvent]) -> None:
        """End a running answer the one way that LibreChat's client shows and keeps (contract §4.8)."""
        assert self.notice is not None
        self.flush()
        aborting = asyncio.create_task(self.abort())
        try:
            async with asyncio.timeout(FINAL_WAIT_S):
                event = await self._aborted_final(reply, parser, left)
                stopped = await aborting
        except (TimeoutError, UpstreamError, SseFormatError) as error:
            log.warning("%s: no final after a cut (%s)", self.exchange.id, type(error).__name__)
            event, stopped = None, False
        finally:
            aborting.cancel()
        final = event.json if event is not None else self._own_final()
        message = final.get("responseMessage")
        if isinstance(message, dict):
            message["content"] = only_passed_on(message.get("content"), self.log, self._before)
        await self._end_with_notice(final, saved_again=stopped)

    async def _end_with_notice(self, final: dict[str, Any], *, saved_again: bool) -> None:
        """Make the last event of a final, with the reason in it. saved_again: LibreChat is still storing the answer."""
        assert self.notice is not None
        message = final.get("responseMessage")
        if isinstance(message, dict):
            content = message.get("content")
            kept = content if isinstance(content, list) else []
            message["content"] = [*kept, error_part(self.notice, self._code)]
            message["text"] = ""
            await self._save(message, saved_again)
        self.final = final
        self._last = SseEvent.message(final).raw
        self._ended = True

    async def _aborted_final(
        self, reply: UpstreamReply, parser: SseParser, left: list[SseEvent]
    ) -> SseEvent | None:
        """Read on to the final. The filters see every event, for the meter; nothing but the final is passed on."""
        events = left
        while True:
            for event in events:
                is_final = self._note(event) == "final"
                try:
                    passed = (event,) if self._hooks is None else await self._hooks.run(event)
                except (EndStream, FilterError):
                    passed = (event,)
                if is_final:
                    return passed[-1] if passed else event
            chunk = await reply.read_chunk()
            if not chunk:
                return None
            events = parser.feed(chunk)

    async def _save(self, message: dict[str, Any], stopped: bool) -> None:
        if stopped:
            await asyncio.sleep(LATE_SAVE_S)
        try:
            if not await self._client.save_message(await self._bearer(), self.stream_id, message):
                log.warning("%s: LibreChat did not store the reason of a cut", self.exchange.id)
        except UpstreamError as error:
            log.warning("%s: the reason of a cut could not be stored: %s", self.exchange.id, error)

    def _own_final(self) -> dict[str, Any]:
        question = (self.created or {}).get("message") or {}
        message_id = self.run_id or f"{question.get('messageId', '')}_"
        model = (self.exchange.model or "").partition("/")[2]
        return own_final(
            self.stream_id, question, message_id, model, passed_text(self.log, TEXT, self._before)
        )

    async def _take_stored_answer(self) -> None:
        """The answer ended before it could be listened to: take it from the stored messages."""
        messages = await self._client.messages(await self._bearer(), self.stream_id)
        answers = [each for each in messages if not each.get("isCreatedByUser")]
        if not answers:
            self._end_with_error("The answer could not be read.")
            return
        answer = answers[-1]
        question = next((m for m in messages if m.get("messageId") == answer.get("parentMessageId")), {})
        created = {"created": True, "message": question, "streamId": self.stream_id}
        await self._take(SseEvent.message(created))
        final = {
            "final": True,
            "conversation": {"conversationId": self.stream_id},
            "title": None,
            "requestMessage": question,
            "responseMessage": answer,
        }
        await self._take(SseEvent.message(final))

    def _end_with_error(self, text: str) -> None:
        self._ended = True
        self._last = SseEvent.message({"error": error_part(text)["error"]}, "error").raw
