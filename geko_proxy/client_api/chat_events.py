"""Translates the events of LibreChat's answer into those of POST /v1/chat/send. Pure.

What clients get, each as one SSE event with one line of JSON:

    token      {"text"}                      the next piece of the answer
    reasoning  {"text"}                      the next piece of what the model thinks aloud
    usage      {"promptTokens", "completionTokens", "totalTokens", "estimated"}
                                             the answer's total so far: at each report of the provider, or once at the
                                             end, estimated, where it reports nothing
    quota      {"threshold", "usedPercent", …}  a threshold of a limit is passed (`quota_warning`): at the start, before
                                             the end
    final      {"conversationId", "messageId", "model", "text", "finishReason", "usage", "error"?}
                                             finishReason: stop | aborted | error | what cut it (quota_exceeded);
                                             with the last two, error is {"code", "message", "requestId"}
    error      {"code", "message", "requestId"}  there is no answer

The last event is always either `final` or `error`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from geko_proxy.librechat import CUT_CODE
from geko_proxy.metering.ledger import Charge
from geko_proxy.metering.meter import TurnMeter
from geko_proxy.metering.usage_events import (
    MESSAGE_DELTA,
    REASONING_DELTA,
    TOKEN_USAGE,
    content_text,
    dicts_in,
)
from geko_proxy.sse import SseEvent, SseFormatError

MAX_ERROR_LENGTH: Final = 2000
BROKEN_OFF: Final = "The answer broke off."


@dataclass(frozen=True, slots=True)
class ClientEvent:
    """One event for the client."""

    name: str
    data: dict[str, Any]

    @property
    def raw(self) -> bytes:
        """The event as it goes on the wire."""
        return SseEvent.message(self.data, self.name).raw


class Answer:
    """One answer on its way from LibreChat's events to the client's.

    meter: a meter of its own for this answer, fed here. model: "Endpoint/model" that was asked for.
    """

    def __init__(self, conversation_id: str, model: str, request_id: str, meter: TurnMeter) -> None:
        self._conversation_id = conversation_id
        self._model = model
        self._request_id = request_id
        self._meter = meter
        self._text: list[str] = []
        self._usage: dict[str, Any] | None = None
        self.ended = False

    def read(self, event: SseEvent) -> list[ClientEvent]:
        """Take the next event; return what the client gets for it."""
        try:
            data = event.json
        except SseFormatError:
            return []
        if self.ended or not isinstance(data, dict):
            return []
        if event.name == "error":
            return [self.fail(data.get("error"))]
        self._meter.on_event(data)
        if data.get("final"):
            return self._final(data)
        if data.get("sync"):
            return self._caught_up(data)
        payload = data.get("data")
        return self._event(data.get("event"), payload) if isinstance(payload, dict) else []

    def fail(self, reason: Any = BROKEN_OFF) -> ClientEvent:
        """The end of an answer without a final. reason: LibreChat's text, often JSON."""
        self.ended = True
        return ClientEvent("error", self._error(reason))

    def _event(self, name: Any, payload: dict[str, Any]) -> list[ClientEvent]:
        if name in (MESSAGE_DELTA, REASONING_DELTA):
            delta = payload.get("delta")
            return self._deltas(delta.get("content")) if isinstance(delta, dict) else []
        if name == TOKEN_USAGE:
            return self._usage_event(self._meter.charges)
        return []

    def _deltas(self, content: Any) -> list[ClientEvent]:
        events = []
        for part in dicts_in(content if isinstance(content, list) else [content]):
            text = content_text(part)
            if text and part.get("type") == "text":
                self._text.append(text)
                events.append(ClientEvent("token", {"text": text}))
            elif text and part.get("type") == "think":
                events.append(ClientEvent("reasoning", {"text": text}))
        return events

    def _caught_up(self, data: dict[str, Any]) -> list[ClientEvent]:
        """After a lost connection LibreChat sends the whole text so far: what is new of it goes on."""
        state = data.get("resumeState")
        whole = text_of_answer(state.get("aggregatedContent")) if isinstance(state, dict) else ""
        known = "".join(self._text)
        if len(whole) <= len(known) or not whole.startswith(known):
            return []
        return self._deltas([{"type": "text", "text": whole[len(known) :]}])

    def _usage_event(self, charges: Sequence[Charge]) -> list[ClientEvent]:
        usage = usage_of(charges)
        if usage == self._usage:
            return []
        self._usage = usage
        return [ClientEvent("usage", usage)]

    def _final(self, data: dict[str, Any]) -> list[ClientEvent]:
        self.ended = True
        events = self._usage_event(self._meter.finish(data))
        message = data.get("responseMessage")
        message = message if isinstance(message, dict) else {}
        parts = dicts_in(message.get("content"))
        text = text_of_answer(parts) or (message.get("text") or "") or "".join(self._text)
        errors = [part for part in parts if part.get("type") == "error"]
        final: dict[str, Any] = {
            "conversationId": self._conversation_id,
            "messageId": message.get("messageId"),
            "model": model_of(message) or self._model,
            "text": text,
            "finishReason": "stop",
            "usage": self._usage,
        }
        if errors:
            final["error"] = self._error(errors[-1].get("error"))
        aborted, code = bool(data.get("aborted")), final.get("error", {}).get("code")
        final["finishReason"] = finish_reason(aborted=aborted, code=code)
        return [*events, ClientEvent("final", final)]

    def _error(self, reason: Any) -> dict[str, Any]:
        code, message = explain(reason)
        return {"code": code, "message": message, "requestId": self._request_id}


def usage_of(charges: Sequence[Charge]) -> dict[str, Any]:
    """The sum of charges; hidden reasoning counts as completion."""
    return {
        "promptTokens": sum(charge.input_tokens for charge in charges),
        "completionTokens": sum(charge.output_tokens + charge.reasoning_tokens for charge in charges),
        "totalTokens": sum(charge.tokens for charge in charges),
        "estimated": any(charge.estimated for charge in charges),
    }


def text_of_answer(content: Any) -> str:
    """The text parts of an answer, without its thoughts and tool calls."""
    return "".join(content_text(part) for part in dicts_in(content) if part.get("type") == "text")


def model_of(message: Mapping[str, Any]) -> str | None:
    """ "Endpoint/model" of a stored answer."""
    endpoint, model = message.get("endpoint"), message.get("model")
    return f"{endpoint}/{model}" if isinstance(endpoint, str) and isinstance(model, str) else None


def finish_reason(*, aborted: bool, code: str | None) -> str:
    """Why an answer ended. GEKO puts the reason into the answers that it cuts (contract §4.8).

    code: of the error in the answer, None without one.
    """
    if aborted:
        return code or "aborted"
    return "error" if code else "stop"


def explain(reason: Any) -> tuple[str, str]:
    """Code and sentence for an error text of LibreChat, which may hold JSON (contract §7.3)."""
    text = reason if isinstance(reason, str) and reason else BROKEN_OFF
    shown = decoded(text)
    info = shown.get("info")
    match shown.get("type"):
        case "illegal_model_request" if isinstance(info, str):
            return "model_not_available", f"The model {info.replace('|', '/', 1)} is not available."
        case "google_error" if isinstance(info, str):
            code = shown.get(CUT_CODE)
            return code if isinstance(code, str) else "answer_failed", info[:MAX_ERROR_LENGTH]
        case str() as kind if kind.replace("_", "").isalnum():
            message = info or shown.get("message") or kind.replace("_", " ")
            return kind[:60], str(message)[:MAX_ERROR_LENGTH]
    return "answer_failed", text[:MAX_ERROR_LENGTH]


def decoded(text: str) -> dict[str, Any]:
    """The JSON object that a text is; {} where it is none."""
    if not text.startswith("{"):
        return {}
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return {}
    return value if isinstance(value, dict) else {}
