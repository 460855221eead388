"""Anthropic's Messages on the wire (docs.anthropic.com/en/api/messages-streaming).

`input_tokens` holds neither what was read from a cache nor what was put into one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

import msgspec

from geko_proxy.demo.provider.books import Usage
from geko_proxy.demo.provider.plan import Finish, Piece
from geko_proxy.demo.provider.shape import Json, Shape, event, text_of, tool_of

_STOP: Final = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_BLOCK: Final = {"think": "thinking", "text": "text", "tool": "tool_use", "arguments": "tool_use"}


class MessagesShape(Shape):
    """Blocks are opened and closed as the kind of piece changes."""

    api: ClassVar[str] = "messages"
    _index = -1
    _open = ""

    def opening(self, usage: Usage | None) -> bytes:
        told = {"usage": _input(usage) | {"output_tokens": 1}} if usage is not None else {}
        message = {**self._base(), "content": [], "stop_reason": None, "stop_sequence": None, **told}
        start = event({"type": "message_start", "message": message}, "message_start")
        return start + event({"type": "ping"}, "ping")

    def pieces(self, batch: Sequence[Piece]) -> bytes:
        return b"".join(self._piece(piece) for piece in batch)

    def _piece(self, piece: Piece) -> bytes:
        block, before = _BLOCK[piece.kind], b""
        if block != self._open:
            before = self._close() + self._begin(block, piece)
        if piece.kind == "tool":
            return before
        delta = {
            "think": {"type": "thinking_delta", "thinking": piece.text},
            "text": {"type": "text_delta", "text": piece.text},
            "arguments": {"type": "input_json_delta", "partial_json": piece.text},
        }[piece.kind]
        data = {"type": "content_block_delta", "index": self._index, "delta": delta}
        return before + event(data, "content_block_delta")

    def _begin(self, block: str, piece: Piece) -> bytes:
        self._index += 1
        self._open = block
        starts: dict[str, Json] = {
            "thinking": {"type": "thinking", "thinking": "", "signature": ""},
            "text": {"type": "text", "text": ""},
            "tool_use": {"type": "tool_use", "id": f"toolu_{self.id}", "name": piece.text, "input": {}},
        }
        data = {"type": "content_block_start", "index": self._index, "content_block": starts[block]}
        return event(data, "content_block_start")

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        return event({"type": "content_block_stop", "index": self._index}, "content_block_stop")

    def closing(self, finish: Finish, usage: Usage | None) -> bytes:
        told = {"usage": _input(usage) | _output(usage)} if usage is not None else {}
        delta = {"stop_reason": _STOP[finish], "stop_sequence": None}
        end = event({"type": "message_delta", "delta": delta, **told}, "message_delta")
        return self._close() + end + event({"type": "message_stop"}, "message_stop")

    def broken(self, message: str) -> bytes:
        return event({"type": "error", "error": {"type": "overloaded_error", "message": message}}, "error")

    def whole(self, said: Sequence[Piece], finish: Finish, usage: Usage | None) -> Json:
        thought, tool = text_of(said, "think"), tool_of(said)
        content: list[Json] = (
            [{"type": "thinking", "thinking": thought, "signature": "mock"}] if thought else []
        )
        if tool is None:
            content.append({"type": "text", "text": text_of(said, "text")})
        else:
            given = _arguments(text_of(said, "arguments"))
            content.append({"type": "tool_use", "id": f"toolu_{self.id}", "name": tool, "input": given})
        told = {"usage": _input(usage) | _output(usage)} if usage is not None else {}
        return {
            **self._base(),
            "content": content,
            "stop_reason": _STOP[finish],
            "stop_sequence": None,
            **told,
        }

    def _base(self) -> Json:
        return {"id": f"msg_{self.id}", "type": "message", "role": "assistant", "model": self.asked.model}


def _arguments(text: str) -> Json:
    """Empty when max_tokens cut them."""
    try:
        found = msgspec.json.decode(text or "{}")
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _input(usage: Usage) -> Json:
    return {
        "input_tokens": usage.prompt - usage.cached - usage.written,
        "cache_creation_input_tokens": usage.written,
        "cache_read_input_tokens": usage.cached,
    }


def _output(usage: Usage) -> Json:
    """Thoughts are output here, also those that nobody sees."""
    return {"output_tokens": usage.completion + usage.hidden}
