"""Responses on the wire (platform.openai.com/docs/api-reference/responses-streaming)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from geko_proxy.demo.provider.asked import Asked
from geko_proxy.demo.provider.books import Usage
from geko_proxy.demo.provider.plan import Finish, Piece
from geko_proxy.demo.provider.shape import Json, Shape, event, text_of, tool_of


class ResponsesShape(Shape):
    """Output items: a reasoning item, then a message or a function call; every event is numbered."""

    api: ClassVar[str] = "responses"

    def __init__(self, asked: Asked, prompt: int) -> None:
        super().__init__(asked, prompt)
        self._number = 0
        self._said: list[Piece] = []
        self._open = ""
        self._items: list[Json] = []

    def opening(self, usage: Usage | None) -> bytes:
        response = self._response("in_progress", [], None)
        return b"".join(
            self._event(f"response.{name}", response=response) for name in ("created", "in_progress")
        )

    def pieces(self, batch: Sequence[Piece]) -> bytes:
        return b"".join(self._piece(piece) for piece in batch)

    def _piece(self, piece: Piece) -> bytes:
        kind = "tool" if piece.kind == "arguments" else piece.kind
        before = b""
        if kind != self._open:
            before = self._close()
            self._open, self._said = kind, []
            before += self._begin(piece)
        self._said.append(piece)
        at = len(self._items)
        if piece.kind == "text":
            place = {"item_id": f"msg_{self.id}", "output_index": at, "content_index": 0}
            return before + self._event("response.output_text.delta", **place, delta=piece.text, logprobs=[])
        if piece.kind == "think":
            place = {"item_id": f"rs_{self.id}", "output_index": at, "summary_index": 0}
            return before + self._event("response.reasoning_summary_text.delta", **place, delta=piece.text)
        if piece.kind == "arguments":
            place = {"item_id": f"fc_{self.id}", "output_index": at}
            return before + self._event("response.function_call_arguments.delta", **place, delta=piece.text)
        return before

    def _begin(self, piece: Piece) -> bytes:
        item = self._item([piece] if piece.kind == "tool" else [], self._open, "in_progress")
        at = len(self._items)
        added = self._event("response.output_item.added", output_index=at, item=item)
        if self._open == "text":
            place = {"item_id": f"msg_{self.id}", "output_index": at, "content_index": 0}
            added += self._event("response.content_part.added", **place, part=_part(""))
        return added

    def _close(self) -> bytes:
        if not self._open:
            return b""
        at, item = len(self._items), self._item(self._said, self._open, "completed")
        done = b""
        if self._open == "text":
            text = text_of(self._said, "text")
            place = {"item_id": f"msg_{self.id}", "output_index": at, "content_index": 0}
            done += self._event("response.output_text.done", **place, text=text, logprobs=[])
            done += self._event("response.content_part.done", **place, part=_part(text))
        elif self._open == "tool":
            arguments = text_of(self._said, "arguments")
            place = {"item_id": f"fc_{self.id}", "output_index": at}
            done += self._event("response.function_call_arguments.done", **place, arguments=arguments)
        self._items.append(item)
        self._open = ""
        return done + self._event("response.output_item.done", output_index=at, item=item)

    def _item(self, said: Sequence[Piece], kind: str, status: str) -> Json:
        if kind == "think":
            summary = [{"type": "summary_text", "text": text_of(said, "think")}] if said else []
            return {"id": f"rs_{self.id}", "type": "reasoning", "summary": summary}
        if kind == "tool":
            named = {
                "call_id": f"call_{self.id}",
                "name": tool_of(said),
                "arguments": text_of(said, "arguments"),
            }
            return {"id": f"fc_{self.id}", "type": "function_call", "status": status, **named}
        content = [_part(text_of(said, "text"))] if said else []
        return {
            "id": f"msg_{self.id}", "type": "message", "status": status, "role": "assistant", "content": content,
        }  # fmt: skip

    def closing(self, finish: Finish, usage: Usage | None) -> bytes:
        closed = self._close()
        status = "incomplete" if finish == "length" else "completed"
        response = self._response(status, self._items, usage)
        return closed + self._event(f"response.{status}", response=response)

    def broken(self, message: str) -> bytes:
        return self._event("error", code="server_error", message=message, param=None)

    def whole(self, said: Sequence[Piece], finish: Finish, usage: Usage | None) -> Json:
        kinds = {"think": ("think",), "tool": ("tool", "arguments"), "text": ("text",)}
        parts = {kind: [p for p in said if p.kind in names] for kind, names in kinds.items()}
        items = [self._item(each, kind, "completed") for kind, each in parts.items() if each]
        return self._response("incomplete" if finish == "length" else "completed", items, usage)

    def _event(self, name: str, **data: object) -> bytes:
        numbered = {"type": name, "sequence_number": self._number, **data}
        self._number += 1
        return event(numbered, name)

    def _response(self, status: str, output: list[Json], usage: Usage | None) -> Json:
        return {
            "id": f"resp_{self.id}",
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": self.asked.model,
            "output": list(output),
            "usage": None if usage is None else usage_json(usage),
            "user": self.asked.user or None,
        }


def _part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def usage_json(usage: Usage) -> Json:
    """The `usage` object of a response."""
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total,
    }
