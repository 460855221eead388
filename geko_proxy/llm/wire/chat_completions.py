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
NULL: Final = msgspec.Raw(b"null")
NULLS: Final = (b',"usage":null', b', "usage": null')
MESSAGE_TOKENS: Final = (
    3  # of each message's frame, and of the answer's beginning (OpenAI cookbook, counting tokens)
)


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: msgspec.Raw | None = None
    function_call: msgspec.Raw | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Chunk(msgspec.Struct):
    """What nearly all chunks are: some text. Decoded so they cost a fifth."""

    choices: list[_Choice] = []
    usage: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    x_groq: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET

    @property
    def is_plain(self) -> bool:
        """Nothing but text of one choice."""
        if (
            self.usage not in (msgspec.UNSET, NULL)
            or self.error not in (msgspec.UNSET, NULL)
            or self.x_groq is not msgspec.UNSET
        ):
            return False
        return len(self.choices) == 1 and not (
            self.choices[0].delta.tool_calls or self.choices[0].delta.function_call
        )

    @property
    def text(self) -> str:
        """Of the choice."""
        delta = self.choices[0].delta
        if delta.content and not delta.reasoning_content and not delta.reasoning and not delta.refusal:
            return delta.content
        return (
            (delta.content or "")
            + (delta.refusal or "")
            + (delta.reasoning_content or "")
            + (delta.reasoning or "")
        )


_decode = msgspec.json.Decoder(_Chunk).decode


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
        raw = event.data
        if raw.startswith(DONE):
            self.over = True
            return NOTHING
        try:
            chunk = _decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._read_any(event)
        if self._head and chunk.is_plain:
            if chunk.usage is msgspec.UNSET or self._asked:
                return Read(chunk.text, None)
            for null in NULLS:  # many providers say on each chunk that there is no usage yet
                if event.raw.count(null) == 1:
                    return Read(chunk.text, (SseEvent(event.raw.replace(null, b"")),))
        return self._read_any(event)

    def _read_any(self, event: SseEvent) -> Read:
        """An event that is more than some text."""
        data = event.json if event.data else None
        if not isinstance(data, dict):
            return NOTHING
        if data.get("error"):
            self.failed = True
            return NOTHING
        self._head = self._head or {name: data.get(name) for name in ("id", "created", "model")}
        usage = data.get("usage")
        self._take_usage(usage if usage is not None else _groqs_usage(data))
        text = "".join(
            text for choice in dicts_in(data.get("choices")) for text in texts_of(choice.get("delta"))
        )
        if self._asked or "usage" not in data:
            return Read(text, None)
        if isinstance(usage, dict) and not data.get("choices"):
            return Read(text, ())
        kept = {name: value for name, value in data.items() if name != "usage"}
        return Read(text, (SseEvent.message(kept, None),))

    def _take_usage(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self.usage = usage_of(usage)

    def read_reply(self, value: Any) -> str:
        if not isinstance(value, dict):
            self.failed = True
            return ""
        self.over = True
        self._take_usage(value.get("usage"))
        return "".join(
            text for choice in dicts_in(value.get("choices")) for text in texts_of(choice.get("message"))
        )

    def collect(self, event: SseEvent) -> None:
        if not event.data.startswith(DONE):
            self._collected.take(event)

    @property
    def is_whole(self) -> bool:
        return self.over or self._collected.is_whole

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
    functions = [call.get("function") for call in dicts_in(message.get("tool_calls"))]
    for function in (*functions, message.get("function_call")):
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


def _groqs_usage(data: dict[str, Any]) -> Any:
    """Groq tells usage in its own field (API reference: Chat, streaming)."""
    own = data.get("x_groq")
    return own.get("usage") if isinstance(own, dict) else None
