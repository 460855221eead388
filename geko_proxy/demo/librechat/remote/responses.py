"""POST /api/agents/v1/responses, GET …/responses/:id and …/responses/models."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator

from aiohttp import web

from geko_proxy.demo.librechat.chat.provider import ModelCall, ProviderDied, ProviderError, Usage
from geko_proxy.demo.librechat.express import Json, encode, json_reply
from geko_proxy.demo.librechat.remote.access import agent_of, model_call, provider_failure, send_stream
from geko_proxy.demo.librechat.remote.completions import models
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
    answer = _Answer(call.body, asked)
    if call.body.get("stream"):
        return await send_stream(call, _events(call, answer))
    try:
        async for piece in call.lc.provider.stream(asked):
            answer.text += piece.text if piece.kind == "text" else ""
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

    def __init__(self, body: Json, asked: ModelCall) -> None:
        self.body, self.asked, self.text = body, asked, ""
        self.id = f"resp_{secrets.token_hex(7)}"
        self.item_id = f"msg_{secrets.token_hex(4)}"
        self.created_at = int(time.time())

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
            "output": [self.item("completed", [self.part()])] if done else [],
            **_FIXED,
            "usage": _usage(self.asked.usage) if done else None,
            "store": bool(self.body.get("store")),
            **_END,
        }


async def _events(call: Call, answer: _Answer) -> AsyncIterator[bytes]:
    line = _Line()
    place = {"item_id": answer.item_id, "output_index": 0, "content_index": 0}
    for name in ("response.created", "response.in_progress"):
        yield line.event(name, {"response": answer.shown("in_progress")})
    item = answer.item("in_progress", [])
    yield line.event("response.output_item.added", {"output_index": 0, "item": item})
    yield line.event("response.content_part.added", {**place, "part": answer.part()})
    try:
        async for piece in call.lc.provider.stream(answer.asked):
            answer.text += piece.text if piece.kind == "text" else ""
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


class _Line:
    """Numbers the events of one stream."""

    def __init__(self) -> None:
        self._next = 0

    def event(self, name: str, data: Json) -> bytes:
        numbered = {"type": name, "sequence_number": self._next, **data}
        self._next += 1
        return b"event: %s\ndata: %s\n\n" % (name.encode(), encode(numbered))


def _usage(usage: Usage | None) -> Json:
    got = usage or Usage(0, 0, 0, 0)
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
