"""The Agents API under the quota: one answer of chat/completions or responses, read for the meter as it streams.

LibreChat is always asked for a stream, also when the client wants one JSON object: what does not stream can be neither
topped up nor cut, and a client that hangs up would leave no trace of what was used. `quota` leases and charges.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from geko_proxy.errors import UpstreamError
from geko_proxy.filters.agents_shapes import Completion, Response
from geko_proxy.filters.base import EndStream, EventHook, Exchange, Reply, Route, SseEvent
from geko_proxy.filters.metered_answers import Look, MeteredAnswer
from geko_proxy.metering.agents_api import AgentsApiReader
from geko_proxy.metering.grants import MeteredTurn
from geko_proxy.metering.ledger import Charge
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.metering.meter import TurnMeter
from geko_proxy.metering.prompt_estimate import agents_api_prompt
from geko_proxy.metering.tokens import TokenCounter
from geko_proxy.sse import SseFormatError, SseParser

COMPLETIONS: Final = "chat/completions"
RESPONSES: Final = "responses"
DONE: Final = b"[DONE]"


class _Shape(Protocol):
    """What an API's stream says, collected."""

    def take(self, data: dict[str, Any]) -> None: ...

    def closing(self, notice: str, code: str) -> tuple[SseEvent, ...]: ...

    def whole(self, cut: EndStream | None) -> Reply: ...


def is_answer(exchange: Exchange) -> bool:
    """Whether this request of the Agents API makes a model work; the others only read."""
    return (
        exchange.route is Route.AGENTS_API
        and exchange.request.method == "POST"
        and exchange.params["rest"].lower().rstrip("/") in (COMPLETIONS, RESPONSES)
    )


class AgentsAnswer:
    """One answer; a `MeteredAnswer`."""

    def __init__(self, exchange: Exchange, body: dict[str, Any], counter: TokenCounter, prompt: int) -> None:
        self._of_completions = exchange.params["rest"].lower().rstrip("/") == COMPLETIONS
        self._wants_json = body.get("stream") is not True
        self._begun = False
        self._shape: _Shape = Completion() if self._of_completions else Response()
        endpoint, _, model = (exchange.model or "").partition("/")
        self.meter = TurnMeter(counter, model)
        self._reader = AgentsApiReader(self.meter, counter, prompt=prompt, provider=endpoint, model=model)
        if self._wants_json:
            exchange.request.set_json({**body, "stream": True})
        exchange.state[MeteredAnswer] = self

    @property
    def final(self) -> dict[str, Any] | None:
        """The end of the answer, as `TurnMeter.finish` wants it; None while it has none."""
        if not self._reader.over:
            return None
        content = [{"type": "error"}] if self._reader.failed else []
        return {"final": True, "responseMessage": {"content": content}}

    def charges(self, turn: MeteredTurn) -> Sequence[Charge]:
        """As the meter says; what was counted of a cut answer but not passed on is left out."""
        charges = self.meter.finish(self.final)
        return turn.within(charges) if turn.outcome is Outcome.CUT and not turn.by_calls else charges

    def take(self, event: SseEvent) -> None:
        """Read the next event. Raises SseFormatError."""
        if event.data == DONE:
            return
        data = event.json
        if not isinstance(data, dict):
            return
        if event.name.startswith("on_summarize"):
            self._reader.read_summary(event.name, data)
            return
        if self._of_completions:
            self._reader.read_chunk(data)
        else:
            self._reader.read_event(data)
        if self._wants_json or not self._begun:  # a stream needs only its head, for the case that it is cut
            self._shape.take(data)
            self._begun = True

    def hook(self, look: Look) -> EventHook:
        """The event hook of a stream. A cut ends with events that a client of this API understands."""

        async def count(event: SseEvent) -> None:
            self.take(event)
            waiting = look()  # also at the end: a call on the LLM side may have been cut
            try:
                if waiting is not None:
                    await waiting
            except EndStream as end:
                last = self._shape.closing(end.notice or "The answer was ended.", end.code)
                raise EndStream(last, end.notice, end.code) from None

        return count

    async def take_reply(self, reply: Reply, look: Look) -> Reply | None:
        """Read LibreChat's reply as far as it is no stream for the client; returns what the client gets instead."""
        if reply.is_event_stream:
            return await self._collect(reply, look) if self._wants_json else None
        value = await reply.json()  # an agent with disableStreaming answers in one piece
        if not isinstance(value, dict):
            raise UpstreamError("LibreChat's reply is not a JSON object")
        if self._of_completions:
            self._reader.read_completion(value)
        else:
            self._reader.read_response(value)
        return None

    async def _collect(self, reply: Reply, look: Look) -> Reply:
        source, parser = reply.source, SseParser()
        end: EndStream | None = None
        assert source is not None
        try:
            while chunk := await source.read_chunk():
                for event in parser.feed(chunk):
                    self.take(event)
                    waiting = look()
                    if waiting is not None:
                        await waiting
        except EndStream as cut:
            end = cut
        except SseFormatError as error:
            raise UpstreamError(f"LibreChat's stream was not understood: {error}") from None
        finally:
            reply.close()  # after a cut LibreChat takes this for a client that left, and stops the model
        if end is None and not self._reader.over:
            raise UpstreamError("LibreChat broke off an answer")
        return self._shape.whole(end)


async def estimate(body: dict[str, Any], model: str, count: Callable[[str], Awaitable[int]]) -> int:
    """Tokens of a request's prompt, before anybody says so."""
    texts, tokens = agents_api_prompt(body, model)
    return tokens + await count("\n".join(texts))
