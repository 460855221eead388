"""Anthropic's Messages (API reference: Messages, Streaming messages)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

from geko_proxy.llm.wire.base import Count, ModelCall, Read, Usage, invalid
from geko_proxy.llm.wire.prompts import PER_MESSAGE, messages_tokens, value_tokens
from geko_proxy.metering.usage_events import dicts_in, tokens_of
from geko_proxy.sse import SseEvent

DELTAS: Final = ("text", "thinking", "partial_json")
BLOCK_TEXTS: Final = ("text", "thinking")


class Messages(ModelCall):
    """One call of POST /messages."""

    api: ClassVar[str] = "messages"

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(body)
        if not isinstance(body.get("messages"), list):
            raise invalid("messages", "expected a list")
        self._counts: dict[str, int] = {}
        self._begun = False
        self._open: int | None = None
        self._next = 0

    def prompt_tokens(self, count: Count) -> int:
        """By OpenAI's rule with its tokenizer: Anthropic publishes neither."""
        system = self._body.get("system")
        extra = PER_MESSAGE + value_tokens(system, self.model, count) if system else 0
        return extra + messages_tokens(self._body, self.model, count)

    def read(self, event: SseEvent) -> Read:
        data = event.json if event.data else None
        if not isinstance(data, dict):
            return Read("", None)
        text = ""
        match data.get("type"):
            case "content_block_delta":
                text = _delta_text(data.get("delta"))
            case "content_block_start":
                self._open = data["index"] if type(data.get("index")) is int else self._next
                self._next = self._open + 1
            case "content_block_stop":
                self._open = None
            case "message_start":
                self._begun = True
                message = data.get("message")
                self._take_usage(message.get("usage") if isinstance(message, dict) else None)
            case "message_delta":
                self._take_usage(data.get("usage"))
            case "message_stop":
                self.over = True
                self._set_usage()
            case "error":
                self.failed = True
        return Read(text, None)

    def read_reply(self, value: Any) -> str:
        if not isinstance(value, dict):
            self.failed = True
            return ""
        self.over = True
        self._take_usage(value.get("usage"))
        self._set_usage()
        blocks = dicts_in(value.get("content"))
        return "".join(
            block[name] for block in blocks for name in BLOCK_TEXTS if isinstance(block.get(name), str)
        )

    def closing(self, notice: str, code: str, counted: Usage) -> Sequence[SseEvent]:
        events: list[dict[str, Any]] = []
        if not self._begun:
            usage = {"input_tokens": counted.input_tokens, "output_tokens": 0}
            message: dict[str, Any] = {
                "id": "msg_cut",
                "type": "message",
                "role": "assistant",
                "model": self.model,
                "content": [],
            }
            message = {**message, "stop_reason": None, "stop_sequence": None, "usage": usage}
            events.append({"type": "message_start", "message": message})
        if self._open is not None:
            events.append({"type": "content_block_stop", "index": self._open})
        delta = {"stop_reason": "max_tokens", "stop_sequence": None}
        usage = {"output_tokens": counted.output_tokens}
        events += [{"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]
        return tuple(SseEvent.message(event, str(event["type"])) for event in events)

    def _take_usage(self, usage: Any) -> None:
        """The numbers are cumulative: the last of each counts."""
        if isinstance(usage, dict):
            self._counts |= {name: tokens_of(value) for name, value in usage.items() if type(value) is int}

    def _set_usage(self) -> None:
        if "input_tokens" in self._counts or "output_tokens" in self._counts:
            cached = self._counts.get("cache_read_input_tokens", 0)
            written = self._counts.get("cache_creation_input_tokens", 0)
            prompt = self._counts.get("input_tokens", 0) + cached + written
            self.usage = Usage(prompt, self._counts.get("output_tokens", 0), cached)


def _delta_text(delta: Any) -> str:
    if not isinstance(delta, dict):
        return ""
    return "".join(delta[name] for name in DELTAS if isinstance(delta.get(name), str))
