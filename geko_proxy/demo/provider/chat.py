"""Chat Completions on the wire (platform.openai.com/docs/api-reference/chat)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from geko_proxy.demo.provider.asked import Asked
from geko_proxy.demo.provider.books import Usage
from geko_proxy.demo.provider.plan import Finish, Piece
from geko_proxy.demo.provider.shape import Json, Shape, encode, event, text_of, tool_of

_FIELD: Final = {"text": b'{"content":', "think": b'{"reasoning_content":'}


class ChatShape(Shape):
    """A stream tells usage in a chunk of its own after the last choice, as `include_usage` wants it."""

    api: ClassVar[str] = "chat_completions"

    def __init__(self, asked: Asked, prompt: int, *, reports: bool) -> None:
        super().__init__(asked, prompt)
        self._base: Json = {
            "id": f"chatcmpl-{self.id}",
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": asked.model,
            "system_fingerprint": "fp_mock",
        }
        self._null: Json = {"usage": None} if reports else {}
        self._head = b"data: " + encode(self._base)[:-1] + b',"choices":[{"index":0,"delta":'
        self._tail = (
            b',"logprobs":null,"finish_reason":null}]' + (b',"usage":null}' if reports else b"}") + b"\n\n"
        )

    def opening(self, usage: Usage | None) -> bytes:
        return self._head + b'{"role":"assistant","content":"","refusal":null}' + self._tail

    def pieces(self, batch: Sequence[Piece]) -> bytes:
        head, tail = self._head, self._tail
        return b"".join(
            head + _FIELD[piece.kind] + encode(piece.text) + b"}" + tail
            if piece.kind in _FIELD
            else head + encode({"tool_calls": [self._tool_delta(piece)]}) + tail
            for piece in batch
        )

    def _tool_delta(self, piece: Piece) -> Json:
        if piece.kind == "arguments":
            return {"index": 0, "function": {"arguments": piece.text}}
        function = {"name": piece.text, "arguments": ""}
        return {"index": 0, "id": f"call_{self.id}", "type": "function", "function": function}

    def closing(self, finish: Finish, usage: Usage | None) -> bytes:
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish}
        last = event({**self._base, "choices": [choice], **self._null})
        if usage is not None:
            last += event({**self._base, "choices": [], "usage": usage_json(usage)})
        return last + b"data: [DONE]\n\n"

    def broken(self, message: str) -> bytes:
        return event({"error": {"message": message, "type": "server_error", "param": None, "code": None}})

    def whole(self, said: Sequence[Piece], finish: Finish, usage: Usage | None) -> Json:
        tool = tool_of(said)
        message: Json = {"role": "assistant", "content": text_of(said, "text") or None, "refusal": None}
        if tool is not None:
            function = {"name": tool, "arguments": text_of(said, "arguments")}
            message["tool_calls"] = [{"id": f"call_{self.id}", "type": "function", "function": function}]
        else:
            message["content"] = message["content"] or ""
        thought = text_of(said, "think")
        message |= {"reasoning_content": thought} if thought else {}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        found = {**self._base, "object": "chat.completion", "choices": [choice]}
        return found | ({"usage": usage_json(usage)} if usage is not None else {})


def usage_json(usage: Usage) -> Json:
    """The `usage` object."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
