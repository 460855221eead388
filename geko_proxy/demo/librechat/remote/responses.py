"""POST /api/agents/v1/responses, GET …/responses/:id and …/responses/models."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator

from aiohttp import web

from geko_proxy.demo.librechat.chat.provider import ProviderDied, ProviderError, Usage
from geko_proxy.demo.librechat.express import Json, encode, json_reply
from geko_proxy.demo.librechat.remote.access import agent_of, model_call, provider_failure, send_stream
from geko_proxy.demo.librechat.remote.completions import models
from geko_proxy.demo.librechat.remote.loops import Piece, Pieces, loop_of
from geko_proxy.demo.librechat.routes import Call, Guard, Route

_FIXED: Json = {
    "error": None,
    "tools": [],
    "tool_choice": "auto",
    "truncation": "disabled",
    "parallel_tool_calls": True,
    "text": {"format": {"type": "text"}},
    "temperature": 1,
    "top_p": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "top_logprobs": 0,
    "reasoning": None,
    "user": None,
}
_END: Json = {
    "max_output_tokens": None,
    "max_tool_calls": None,
    "background": False,
    "service_tier": "default",
    "metadata": {},
    "safety_identifier": None,
    "prompt_cache_key": None,
}


async def create(call: Call) -> web.StreamResponse:
    """POST /api/agents/v1/responses"""
    agent = agent_of(call, call.body.get("model"))
    if isinstance(agent, web.Response):
        return agent
    asked = model_call(call, agent, _messages(call.body.get("input")))
    answer = _Answer(call.body, loop_of(call, agent, asked))
    asked.message_id = answer.id
    if call.body.get("stream"):
        return await send_stream(call, _events(call, answer))
    try:
        async for piece in answer.loop.pieces():
            answer.take(piece)
    except (ProviderError, ProviderDied) as failed:
        return provider_failure(failed)
    shown = answer.shown("completed")
    if call.body.get("store"):
        call.lc.stored_responses[(call.user.id, shown["id"])] = shown
    return json_reply(shown)


async def one(call: Call) -> web.Response:
    """GET /api/agents/v1/responses/:id: only what was stored"""
    found = call.lc.stored_responses.get((call.user.id, call.params["id"]))
    if found is not None:
        return json_reply(found)
    said = {"message": f"Response not found: {call.params['id']}", "type": "invalid_request_error"}
    return json_reply({"error": {**said, "code": "not_found"}}, 404)


def _messages(given: object) -> list[Json]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    items = given if isinstance(given, list) else []
    return [
        {"role": i.get("role", "user"), "content": i.get("content", "")} for i in items if isinstance(i, dict)
    ]


class _Answer:
    """A response object as it grows."""

    def __init__(self, body: Json, loop: Pieces) -> None:
        self.body, self.loop, self.text = body, loop, ""
        self.tools: list[Json] = []
        self.id = f"resp_{secrets.token_hex(7)}"
        self.item_id = f"msg_{secrets.token_hex(4)}"
        self.created_at = int(time.time())

    def take(self, piece: Piece) -> None:
        """Take a piece of any call."""
        if piece.kind == "tool":
            item = {"type": "function_call", "id": f"fc_{secrets.token_hex(4)}", "call_id": piece.text}
            self.tools.append({**item, "name": piece.name, "arguments": "", "status": "completed"})
        elif piece.kind == "args":
            self.tools[-1]["arguments"] += piece.text
        elif piece.kind == "output":
            item = {"type": "function_call_output", "id": f"fco_{secrets.token_hex(4)}"}
            called = self.tools[-1]["call_id"]
            self.tools.append({**item, "call_id": called, "output": piece.text, "status": "completed"})
        elif piece.kind == "text":
            self.text += piece.text

    def part(self) -> Json:
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": []}

    def item(self, status: str, content: list[Json]) -> Json:
        return {
            "type": "message",
            "id": self.item_id,
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def shown(self, status: str) -> Json:
        done = status == "completed"
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "completed_at": int(time.time()) if done else None,
            "status": status,
            "incomplete_details": None,
            "model": self.body.get("model"),
            "previous_response_id": self.body.get("previous_response_id"),
            "instructions": self.body.get("instructions"),
            "output": [*self.tools, self.item("completed", [self.part()])] if done else [],
            **_FIXED,
            "usage": _usage(self.loop.usages) if done else None,
            "store": bool(self.body.get("store")),
            **_END,
        }


async def _events(call: Call, answer: _Answer) -> AsyncIterator[bytes]:
    line = _Line()
    place = {"item_id": answer.item_id, "output_index": 0, "content_index": 0}
    for name in ("response.created", "response.in_progress"):
        yield line.event(name, {"response": answer.shown("in_progress")})
    item = answer.item("in_progress", [])
    begun = False
    try:
        async for piece in answer.loop.pieces():
            answer.take(piece)
            if piece.kind in ("tool", "args", "output"):
                yield _tool_event(line, answer, piece)
                continue
            if not begun:
                begun = True
                yield line.event("response.output_item.added", {"output_index": 0, "item": item})
                yield line.event(
                    "response.content_part.added", {**place, "part": {**answer.part(), "text": ""}}
                )
            name = "response.output_text.delta" if piece.kind == "text" else "response.reasoning.delta"
            yield line.event(name, {**place, "delta": piece.text, "logprobs": []})
    except (ProviderError, ProviderDied) as failed:
        error = {"type": "server_error", "code": None, "message": str(failed)}
        yield line.event("response.failed", {"response": {**answer.shown("failed"), "error": error}})
        yield b"data: [DONE]\n\n"
        return
    yield line.event("response.output_text.done", {**place, "text": answer.text, "logprobs": []})
    yield line.event("response.content_part.done", {**place, "part": answer.part()})
    item = answer.item("completed", [answer.part()])
    yield line.event("response.output_item.done", {"output_index": 0, "item": item})
    yield line.event("response.completed", {"response": answer.shown("completed")})
    yield b"data: [DONE]\n\n"


def _tool_event(line: _Line, answer: _Answer, piece: Piece) -> bytes:
    """A tool call begins, grows, or has its output."""
    item, index = answer.tools[-1], len(answer.tools) - 1
    if piece.kind == "args":
        data = {"item_id": item["id"], "output_index": index, "call_id": item["call_id"], "delta": piece.text}
        return line.event("response.function_call_arguments.delta", data)
    return line.event("response.output_item.added", {"output_index": index, "item": item})


class _Line:
    """Numbers the events of one stream."""

    def __init__(self) -> None:
        self._next = 0

    def event(self, name: str, data: Json) -> bytes:
        numbered = {"type": name, "sequence_number": self._next, **data}
        self._next += 1
        return b"event: %s\ndata: %s\n\n" % (name.encode(), encode(numbered))


def _usage(usages: list[Usage]) -> Json:
    """Of the last call only: LibreChat's updateTrackerUsage overwrites what earlier calls used."""
    got = usages[-1] if usages else Usage(0, 0, 0, 0)
    return {
        "input_tokens": got.prompt,
        "output_tokens": got.completion,
        "total_tokens": got.prompt + got.completion,
        "input_tokens_details": {"cached_tokens": got.cached},
        "output_tokens_details": {"reasoning_tokens": got.reasoning},
    }


ROUTES = (
    Route("POST", "/api/agents/v1/responses", create, Guard.KEY),
    Route("GET", "/api/agents/v1/responses/models", models, Guard.KEY),
    Route("GET", "/api/agents/v1/responses/:id", one, Guard.KEY),
)
