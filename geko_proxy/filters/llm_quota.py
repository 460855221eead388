"""A model call on the LLM side under the quota: read for the meter as it streams, charged what the provider reports.

`quota` leases and charges. What a provider has made is charged in full, also what a cut kept from LibreChat.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from geko_proxy.errors import UpstreamError
from geko_proxy.filters.base import EndStream, EventHook, Exchange, Passed, Reply, SseEvent
from geko_proxy.filters.metered_answers import Look, MeteredAnswer
from geko_proxy.llm.call import LlmCall
from geko_proxy.llm.wire.base import Usage
from geko_proxy.metering.grants import MeteredTurn
from geko_proxy.metering.ledger import Charge, Source
from geko_proxy.metering.meter import TurnMeter
from geko_proxy.metering.tokens import TokenCounter
from geko_proxy.metering.usage_events import CONTEXT_USAGE
from geko_proxy.sse import SseFormatError

STEP: Final = "call"
JSON: Final = "application/json"
MOST_TOKENS: Final = 100_000_000  # of one call; no model reads or writes as many


async def nothing() -> None:
    """The default of `settle`: it is charged when the exchange is finished."""


class CallAnswer:
    """The answer of one call; a `MeteredAnswer`. need: its prompt's estimate, in tokens.

    settle: charges the call; awaited before its last event is passed on.
    """

    def __init__(self, exchange: Exchange, call: LlmCall, counter: TokenCounter, need: int) -> None:
        self._call = call
        self._need = need
        self._is_stale = False  # more was said after the last report
        self.settle: Callable[[], Awaitable[None]] = nothing
        self.meter = TurnMeter(counter, call.shape.model)
        self.meter.on_event({"event": CONTEXT_USAGE, "data": {"breakdown": {"messageTokens": need}}})
        exchange.state[MeteredAnswer] = self

    @property
    def final(self) -> dict[str, Any] | None:
        """Not None when the provider has come to its end."""
        return {"final": True} if self._call.shape.over else None

    def hook(self, look: Look) -> EventHook:
        """The event hook of a stream. A cut ends with events that make LibreChat keep what it has."""
        shape, meter = self._call.shape, self.meter

        def take(event: SseEvent) -> Passed | Awaitable[Passed]:
            if self.final is not None:
                return ()  # it is charged: nothing more is for LibreChat
            if not event.data:
                return None  # a comment that keeps the connection alive (WHATWG HTML section 9.2.6)
            before = shape.usage
            try:
                text, passed = shape.read(event)
            except SseFormatError as error:
                raise UpstreamError(f"the provider's stream was not understood: {error}") from None
            if text:
                meter.on_text(STEP, text)
                self._is_stale = shape.usage is before
            elif shape.usage is not before:
                self._is_stale = False
            if shape.over:
                return self._settled(passed)
            waiting = look()
            return passed if waiting is None else self._wait(waiting, passed)

        return take

    async def _settled(self, passed: Sequence[SseEvent] | None) -> Passed:
        """Who sees the end of a call sees it charged (decision 0011)."""
        await self.settle()
        return passed

    async def _wait(self, waiting: Awaitable[None], passed: Sequence[SseEvent] | None) -> Passed:
        try:
            await waiting
        except EndStream as end:
            counted = Usage(self._need, max(0, self.meter.consumed - self._need))
            last = self._call.shape.closing(end.notice or "", end.code, counted)
            raise EndStream(tuple(last), end.notice, end.code) from None
        return passed

    async def take_reply(self, reply: Reply, look: Look) -> Reply | None:
        """Read a reply that comes in one piece; one that is no JSON (speech) is passed on as it comes."""
        if not reply.is_event_stream and reply.headers.get("Content-Type", "").lower().startswith(JSON):
            self.meter.on_text(STEP, self._call.shape.read_reply(await reply.json()))
            await self.settle()
        return None

    def charges(self, turn: MeteredTurn) -> Sequence[Charge]:
        """One charge: what the provider reported, else the estimate of the prompt and of the text that came.

        A report that says nothing (0 tokens), or nonsense, is none. After one that came in the middle, as the Messages
        API's and some others do, what was counted is charged if it is more.
        """
        shape, usage = self._call.shape, self._call.shape.usage
        if usage is not None and not 0 < _sum(usage) <= MOST_TOKENS:
            usage = None
        if usage is not None and not self._is_stale:
            return [self._charge(usage, Source.PROVIDER)]
        output = max(0, sum(charge.tokens for charge in self.meter.finish(None)) - self._need)
        if usage is not None and output <= usage.output_tokens + usage.reasoning_tokens:
            return [self._charge(usage, Source.PROVIDER)]
        if shape.failed and not output:
            return []  # no provider bills a call that failed before its first word
        counted = (
            Usage(self._need, output)
            if usage is None
            else replace(usage, output_tokens=output, reasoning_tokens=0)
        )
        return [self._charge(counted, Source.ESTIMATE)]

    def _charge(self, usage: Usage, source: Source) -> Charge:
        call = self._call
        provider, model = call.answered or (call.provider, call.shape.model)
        return Charge(
            run_id=call.origin.message_id or "",
            seq=1,
            kind=call.origin.kind,
            model=model,
            provider=provider,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cached_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            estimated=source is Source.ESTIMATE,
            source=source,
            endpoint=provider,
        )


def _sum(usage: Usage) -> int:
    return usage.input_tokens + usage.output_tokens + usage.reasoning_tokens
