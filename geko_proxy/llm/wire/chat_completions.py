"""OpenAI's chat/completions (API reference: Chat Completions, Streaming)."""

from __future__ import annotations

from collections.abc import Sequence
from time import time
from typing import Any, ClassVar, Final

import msgspec

from geko_proxy.llm.wire.base import Count, ModelCall, Read, Usage, invalid
from geko_proxy.llm.wire.collected import CollectedCompletion, can_be_collected, parts_text
from geko_proxy.llm.wire.prompts import messages_tokens
from geko_proxy.metering.usage_events import dicts_in, tokens_of
from geko_proxy.sse import SseEvent

DONE: Final = b"[DONE]"
TEXTS: Final = ("content", "reasoning_content", "reasoning", "refusal")
NOTHING: Final = Read("", None)
MESSAGE_TOKENS: Final = (
    3  # of each message's frame, and of the answer's beginning (OpenAI cookbook, counting tokens)
)


class ChatCompletions(ModelCall):
    """One call of POST /chat/completions."""

    api: ClassVar[str] = "chat_completions"

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(body)
        if not isinstance(body.get("messages"), list):
            raise invalid("messages", "expected a list")
        options = body.get("stream_options")
        if options is not None and not isinstance(options, dict):
            raise invalid("stream_options", "expected an object")
        self._options: dict[str, Any] = options or {}
        self._head: dict[str, Any] = {}
        self.is_collected = not self.streams and can_be_collected(body)
        self._asked = self.is_collected or self._options.get("include_usage") is True
        self._collected = CollectedCompletion(self.model)

    def prompt_tokens(self, count: Count) -> int:
        """By OpenAI's rule (Cookbook, "How to count tokens with tiktoken"); tools as their JSON."""
        return messages_tokens(self._body, self.model, count)

    def body_for(self, model: str) -> bytes:
        body = {**self._body, "model": model}
        if self.streams or self.is_collected:
            body["stream"] = True
            body["stream_options"] = {**self._options, "include_usage": True}
        return msgspec.json.encode(body)

    def read(self, event: SseEvent) -> Read:
        if event.data.startswith(DONE):
            self.over = True
            return NOTHING
        data = event.json
        if not isinstance(data, dict):
            return NOTHING
        if data.get("error"):
            self.failed = True
            return NOTHING
        self._head = self._head or {name: data.get(name) for name in ("id", "created", "model")}
        usage = data.get("usage")
        if isinstance(usage, dict):
            self.usage = usage_of(usage)
        text = "".join(
            text for choice in dicts_in(data.get("choices")) for text in texts_of(choice.get("delta"))
        )
        if self._asked or "usage" not in data:
            return Read(text, None)
        if isinstance(usage, dict) and not data.get("choices"):
            return Read(text, ())
        return Read(text, (SseEvent.message({**_without_usage(data)}, None),))

    def read_reply(self, value: Any) -> str:
        if not isinstance(value, dict):
            self.failed = True
            return ""
        self.over = True
        if isinstance(value.get("usage"), dict):
            self.usage = usage_of(value["usage"])
        return "".join(
            text for choice in dicts_in(value.get("choices")) for text in texts_of(choice.get("message"))
        )

    def collect(self, event: SseEvent) -> None:
        if not event.data.startswith(DONE):
            self._collected.take(event.json)

    @property
    def is_whole(self) -> bool:
        return self._collected.is_whole

    def collected(self) -> Any:
        return self._collected.whole()

    def closing(self, notice: str, code: str, counted: Usage) -> Sequence[SseEvent]:
        head = {"object": "chat.completion.chunk", "id": "chatcmpl-cut", "created": int(time())}
        head |= {name: value for name, value in self._head.items() if value is not None}
        head.setdefault("model", self.model)
        choice = {"index": 0, "delta": {}, "finish_reason": "length"}
        events = [SseEvent.message({**head, "choices": [choice]}, None)]
        if self._asked:
            usage = {
                "prompt_tokens": counted.input_tokens,
                "completion_tokens": counted.output_tokens,
                "total_tokens": counted.input_tokens + counted.output_tokens,
            }
            events.append(SseEvent.message({**head, "choices": [], "usage": usage}, None))
        return (*events, SseEvent.text(DONE))


def texts_of(message: Any) -> list[str]:
    """What a delta or a message says, and the arguments of the tools that it calls."""
    if not isinstance(message, dict):
        return []
    found = [message[name] for name in TEXTS if isinstance(message.get(name), str)]
    if isinstance(message.get("content"), list):
        found.append(parts_text(message["content"]))
    functions = [
        message.get("function_call"),
        *(call.get("function") for call in dicts_in(message.get("tool_calls"))),
    ]
    for function in functions:
        if isinstance(function, dict):
            found += [function[name] for name in ("name", "arguments") if isinstance(function.get(name), str)]
    return found


def usage_of(usage: dict[str, Any]) -> Usage:
    """CompletionUsage; what total_tokens has more than prompt and completion is hidden reasoning (contract §4.6)."""
    prompt, output = tokens_of(usage.get("prompt_tokens")), tokens_of(usage.get("completion_tokens"))
    details = usage.get("prompt_tokens_details")
    cached = tokens_of(details.get("cached_tokens")) if isinstance(details, dict) else 0
    hidden = max(0, tokens_of(usage.get("total_tokens")) - prompt - output)
    return Usage(prompt, output, min(cached, prompt), hidden)


def _without_usage(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != "usage"}
