"""One chat completion made from its stream, for a caller that wants it in one piece (API reference: Chat Completions).

What is asked for as a stream can be cut, and a caller that leaves stops it; what comes in one piece can be neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import StringIO
from typing import Any, Final

import msgspec

from geko_proxy.metering.usage_events import dicts_in
from geko_proxy.sse import SseEvent, SseFormatError

Json = dict[str, Any]

HEAD: Final = ("id", "created", "model", "system_fingerprint", "service_tier")
# Asked for with these a reply holds what is spread over a stream in another form.
IN_ONE_PIECE: Final = frozenset({"audio", "modalities", "logprobs", "top_logprobs", "web_search_options"})
TEXTS: Final = ("content", "refusal", "reasoning_content", "reasoning")
MAX_INDEX: Final = 1024
MAX_BYTES: Final = 64 * 1024 * 1024
NOTHING: Final[Mapping[str, Any]] = {"role": "assistant", "content": None}


def can_be_collected(body: Mapping[str, Any]) -> bool:
    """Whether the reply to a request can be made from its stream."""
    return not any(body.get(name) for name in IN_ONE_PIECE)


class _Function:
    """The call of a function, piece by piece."""

    __slots__ = ("arguments", "head", "name")

    def __init__(self) -> None:
        self.head: Json = {}
        self.name, self.arguments = StringIO(), StringIO()

    def take(self, part: Json) -> None:
        for name, into in (("name", self.name), ("arguments", self.arguments)):
            if isinstance(part.get(name), str):
                into.write(part[name])

    def whole(self) -> Json:
        return {"name": self.name.getvalue(), "arguments": self.arguments.getvalue()}


class _Choice:
    """One answer, piece by piece. Texts are written on: adding to one again and again costs quadratic time."""

    __slots__ = ("finish_reason", "function", "texts", "tools")

    def __init__(self) -> None:
        self.finish_reason: Any = None
        self.texts: dict[str, StringIO] = {}
        self.tools: dict[int, _Function] = {}
        self.function: _Function | None = None

    def take(self, choice: Json) -> None:
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return
        for name in TEXTS:
            text = delta.get(name)
            if isinstance(text, list):
                text = parts_text(text, thoughts=False)
            if isinstance(text, str):
                self.texts.setdefault(name, StringIO()).write(text)
        for call in dicts_in(delta.get("tool_calls")):
            self._take_tool(call)
        if isinstance(delta.get("function_call"), dict):
            self.function = self.function or _Function()
            self.function.take(delta["function_call"])

    def _take_tool(self, call: Json) -> None:
        position = call.get("index", len(self.tools))
        if type(position) is not int or not 0 <= position < MAX_INDEX:
            return
        tool = self.tools.setdefault(position, _Function())
        tool.head |= {
            name: call[name] for name in ("id", "type") if isinstance(call.get(name), str) and call[name]
        }
        if isinstance(call.get("function"), dict):
            tool.take(call["function"])

    def whole(self, index: int) -> Json:
        """The choice. Calls of tools that end in the middle are left out: nobody may run half of one."""
        is_cut = self.finish_reason in (None, "length")
        message = {**NOTHING, **{name: text.getvalue() for name, text in self.texts.items()}}
        tools = [
            {**tool.head, "function": tool.whole()}
            for _, tool in sorted(self.tools.items())
            if not is_cut or _is_whole(tool)
        ]
        if tools:
            message["tool_calls"] = tools
        elif message["content"] is None and self.function is None:
            message["content"] = ""
        if self.function is not None and not (is_cut and not _is_whole(self.function)):
            message["function_call"] = self.function.whole()
        return {
            "index": index,
            "message": message,
            "logprobs": None,
            "finish_reason": self.finish_reason or "length",
        }


class CollectedCompletion:
    """Takes the chunks of a stream. Raises SseFormatError for more than MAX_BYTES of them."""

    def __init__(self, model: str) -> None:
        self._head: Json = {"id": "", "created": 0, "model": model}
        self._choices: dict[int, _Choice] = {}
        self._usage: Json | None = None
        self._bytes = 0

    def take(self, event: SseEvent) -> None:
        """Take a chunk; what is none is passed over."""
        self._bytes += len(event.data)
        if self._bytes > MAX_BYTES:
            raise SseFormatError(f"a reply is larger than {MAX_BYTES} bytes")
        chunk = event.json
        if not isinstance(chunk, dict):
            return
        self._head |= {name: chunk[name] for name in HEAD if chunk.get(name) is not None}
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        for choice in dicts_in(chunk.get("choices")):
            index = choice.get("index", 0)
            if type(index) is int and 0 <= index < MAX_INDEX:
                self._choices.setdefault(index, _Choice()).take(choice)

    @property
    def is_whole(self) -> bool:
        """Whether every choice has told how it ended: not all providers end with [DONE]."""
        return bool(self._choices) and all(choice.finish_reason for choice in self._choices.values())

    def whole(self) -> Json:
        """The reply."""
        choices = self._choices or {0: _Choice()}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choices[index].whole(index) for index in sorted(choices)],
            **({"usage": self._usage} if self._usage is not None else {}),
        }


def parts_text(parts: Any, *, thoughts: bool = True) -> str:
    """The text of content that comes in parts (Mistral's API: text, and thinking that holds texts)."""
    found = []
    for part in dicts_in(parts):
        inner = part.get("thinking") if thoughts else None
        pieces = [part, *dicts_in(inner)]
        found += [piece["text"] for piece in pieces if isinstance(piece.get("text"), str)]
        if isinstance(inner, str):
            found.append(inner)
    return "".join(found)


def _is_whole(function: _Function) -> bool:
    try:
        msgspec.json.decode(function.arguments.getvalue())
    except msgspec.DecodeError:
        return False
    return True
