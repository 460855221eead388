"""One chat completion made from its stream, for a caller that wants it in one piece (API reference: Chat Completions).

What is asked for as a stream can be cut, and a caller that leaves stops it; what comes in one piece can be neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from geko_proxy.metering.usage_events import dicts_in

Json = dict[str, Any]

HEAD: Final = ("id", "created", "model", "system_fingerprint", "service_tier")
# Asked for with these a reply holds what is spread over a stream in another form.
IN_ONE_PIECE: Final = frozenset({"audio", "modalities", "logprobs", "top_logprobs", "web_search_options"})
TEXTS: Final = ("content", "refusal", "reasoning_content", "reasoning")
MAX_INDEX: Final = 1024
NOTHING: Final[Mapping[str, Any]] = {"role": "assistant", "content": None}


def can_be_collected(body: Mapping[str, Any]) -> bool:
    """Whether the reply to a request can be made from its stream."""
    return not any(body.get(name) for name in IN_ONE_PIECE)


class CollectedCompletion:
    """Takes the chunks of a stream."""

    def __init__(self, model: str) -> None:
        self._head: Json = {"id": "", "created": 0, "model": model}
        self._choices: dict[int, Json] = {}
        self._usage: Json | None = None

    def take(self, chunk: Any) -> None:
        """Take the JSON of a chunk; what is none is passed over."""
        if not isinstance(chunk, dict):
            return
        self._head |= {name: chunk[name] for name in HEAD if chunk.get(name) is not None}
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        for choice in dicts_in(chunk.get("choices")):
            index = choice.get("index", 0)
            if type(index) is int and 0 <= index < MAX_INDEX:
                self._take_choice(index, choice)

    def _take_choice(self, index: int, choice: Json) -> None:
        blank: Json = {"finish_reason": None, "message": dict(NOTHING), "tools": {}}
        known = self._choices.setdefault(index, blank)
        known["finish_reason"] = choice.get("finish_reason") or known["finish_reason"]
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return
        message = known["message"]
        for name in TEXTS:
            if isinstance(delta.get(name), str):
                message[name] = (message.get(name) or "") + delta[name]
        if isinstance(delta.get("content"), list):
            message["content"] = (message.get("content") or "") + parts_text(delta["content"], thoughts=False)
        for call in dicts_in(delta.get("tool_calls")):
            position = call.get("index", len(known["tools"]))
            if type(position) is int and 0 <= position < MAX_INDEX:
                _take_tool(known["tools"].setdefault(position, {}), call)
        if isinstance(delta.get("function_call"), dict):
            _take_function(
                message.setdefault("function_call", {"name": "", "arguments": ""}), delta["function_call"]
            )

    @property
    def is_whole(self) -> bool:
        """Whether every choice has told how it ended: not all providers end with [DONE]."""
        return bool(self._choices) and all(choice["finish_reason"] for choice in self._choices.values())

    def whole(self) -> Json:
        """The reply. Calls of tools that end in the middle are left out: nobody may run half of one."""
        choices = self._choices or {0: {"finish_reason": None, "message": dict(NOTHING), "tools": {}}}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [_whole_choice(index, choices[index]) for index in sorted(choices)],
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


def _whole_choice(index: int, choice: Json) -> Json:
    message, tools = dict(choice["message"]), choice["tools"]
    is_cut = choice["finish_reason"] in (None, "length")
    calls = [tools[position] for position in sorted(tools)]
    calls = [call for call in calls if not is_cut or _is_whole(call.get("function"))]
    if calls:
        message["tool_calls"] = calls
    elif message["content"] is None and "function_call" not in message:
        message["content"] = ""
    if is_cut and "function_call" in message and not _is_whole(message["function_call"]):
        del message["function_call"]
    return {
        "index": index,
        "message": message,
        "logprobs": None,
        "finish_reason": choice["finish_reason"] or "length",
    }


def _is_whole(function: Any) -> bool:
    try:
        msgspec.json.decode(function["arguments"])
    except (msgspec.DecodeError, TypeError, KeyError):
        return False
    return True


def _take_tool(tool: Json, call: Json) -> None:
    for name in ("id", "type"):
        if isinstance(call.get(name), str) and call[name]:
            tool[name] = call[name]
    if isinstance(call.get("function"), dict):
        _take_function(tool.setdefault("function", {"name": "", "arguments": ""}), call["function"])


def _take_function(function: Json, part: Json) -> None:
    for name in ("name", "arguments"):
        if isinstance(part.get(name), str):
            function[name] += part[name]
