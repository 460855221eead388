"""The shapes of the Agents API's answers: one JSON object made from a stream, and the end of one that is cut.

As LibreChat's buildNonStreamingResponse and buildAggregatedResponse make them, so a client sees no difference.
"""

from __future__ import annotations

import re
from typing import Any, Final

from geko_proxy.errors import EndStream
from geko_proxy.filters.base import Reply, SseEvent
from geko_proxy.metering.agents_api import ERROR
from geko_proxy.metering.usage_events import dicts_in

Json = dict[str, Any]

_STATUS: Final = re.compile(r"([45]\d\d) ")  # what the providers' libraries begin their messages with
_DONE: Final = SseEvent.text(b"[DONE]")


class Completion:
    """chat/completions."""

    def __init__(self) -> None:
        self._head: Json = {}
        self._text: list[str] = []
        self._thought: list[str] = []
        self._tools: dict[int, Json] = {}
        self._usage: Json = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        self._error = ""

    def take(self, data: Json) -> None:
        """Take a chunk."""
        self._head = self._head or {name: data.get(name) for name in ("id", "created", "model")}
        for choice in dicts_in(data.get("choices")):
            delta = choice.get("delta")
            if isinstance(delta, dict):
                self._take_delta(delta, ends=choice.get("finish_reason") is not None)
        if isinstance(data.get("usage"), dict):
            self._usage = data["usage"]

    def _take_delta(self, delta: Json, *, ends: bool) -> None:
        content, thought = delta.get("content"), delta.get("reasoning")
        if isinstance(content, str):
            if ends and content.startswith(ERROR):
                self._error = content.removeprefix(ERROR)
            else:
                self._text.append(content)
        if isinstance(thought, str):
            self._thought.append(thought)
        for call in dicts_in(delta.get("tool_calls")):
            self._take_tool(call)

    def _take_tool(self, call: Json) -> None:
        index = call.get("index")
        if not isinstance(index, int):
            return
        known = self._tools.setdefault(
            index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        )
        known["id"] = known["id"] or call.get("id") or ""
        function = call.get("function")
        if isinstance(function, dict):
            for name in ("name", "arguments"):
                known["function"][name] += str(function.get(name) or "")

    def closing(self, notice: str, code: str) -> tuple[SseEvent, ...]:
        """The end of a cut stream: OpenAI's libraries raise an `error` in a chunk."""
        choice = {"index": 0, "delta": {}, "finish_reason": "length"}
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        return SseEvent.message({**chunk, "error": _error(notice, code)}, None), _DONE

    def whole(self, cut: EndStream | None) -> Reply:
        """The one JSON object, or the error that LibreChat would have answered with."""
        if self._error:
            found = _STATUS.match(self._error)
            status = int(found[1]) if found else 500
            kind = "invalid_request_error" if status < 500 else "server_error"
            error = {"message": self._error, "type": kind, "param": None, "code": None}
            return Reply.of_json(status, {"error": error})
        text, thought, tools = "".join(self._text), "".join(self._thought), list(self._tools.values())
        message: Json = {"role": "assistant", "content": text or None}
        message |= {"reasoning": thought} if thought else {}
        message |= {"tool_calls": tools} if tools else {}
        reason = "tool_calls" if tools and not text else "stop"
        choice = {"index": 0, "message": message, "finish_reason": "length" if cut else reason}
        shown = {**self._head, "object": "chat.completion", "choices": [choice], "usage": self._usage}
        if cut is not None:
            shown["error"] = _error(cut.notice or "", cut.code)
        return _json_reply(shown)


class Response:
    """responses."""

    def __init__(self) -> None:
        self._response: Json = {}
        self._text: list[str] = []

    def take(self, data: Json) -> None:
        """Take an event."""
        if isinstance(data.get("response"), dict):
            self._response = data["response"]
        elif data.get("type") == "response.output_text.delta" and isinstance(data.get("delta"), str):
            self._text.append(data["delta"])

    def closing(self, notice: str, code: str) -> tuple[SseEvent, ...]:
        """The end of a cut stream."""
        data = {"type": "response.failed", "response": self._failed(_error(notice, code))}
        return SseEvent.message(data, "response.failed"), _DONE

    def whole(self, cut: EndStream | None) -> Reply:
        """The one JSON object, or the error that LibreChat would have answered with."""
        if cut is not None:
            return _json_reply(self._failed(_error(cut.notice or "", cut.code)))
        error = self._response.get("error")
        if self._response.get("status") == "failed" and isinstance(error, dict):
            found = _STATUS.match(str(error.get("message")))
            return Reply.of_json(int(found[1]) if found else 500, {"error": error})
        return _json_reply(self._response)

    def _failed(self, error: Json) -> Json:
        text = "".join(self._text)
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        item = {"type": "message", "role": "assistant", "status": "incomplete", "content": [part]}
        output = [item] if text else []
        return {"object": "response", **self._response, "status": "failed", "output": output, "error": error}


def _error(message: str, code: str) -> Json:
    return {"message": message, "type": "rate_limit_error", "code": code}


def _json_reply(value: Json) -> Reply:
    reply = Reply.of_json(200, value)
    reply.headers["Cache-Control"] = "no-store"
    return reply
