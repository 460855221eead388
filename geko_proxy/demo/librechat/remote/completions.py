"""POST /api/agents/v1/chat/completions and GET …/models."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from aiohttp import web

from geko_proxy.demo.librechat.chat.provider import ModelCall, ProviderDied, ProviderError, Usage
from geko_proxy.demo.librechat.express import Json, encode, json_reply, nanoid
from geko_proxy.demo.librechat.library.agents import Agent
from geko_proxy.demo.librechat.remote.access import agent_of, model_call, provider_failure, send_stream
from geko_proxy.demo.librechat.remote.loops import Piece, loop_of
from geko_proxy.demo.librechat.routes import Call, Guard, Route


async def models(call: Call) -> web.Response:
    """GET /api/agents/v1/models"""
    agents = call.lc.agents.all_visible(call.user)
    return json_reply({"object": "list", "data": [_model(agent) for agent in agents]})


async def model(call: Call) -> web.Response:
    """GET /api/agents/v1/models/:model"""
    agent = agent_of(call, call.params["model"])
    return agent if isinstance(agent, web.Response) else json_reply(_model(agent))


def _model(agent: Agent) -> Json:
    shown = {
        "id": agent.id,
        "object": "model",
        "created": int(agent.doc["_id"][:8], 16),
        "owned_by": "librechat",
        "permission": [],
        "root": agent.id,
        "parent": None,
        "name": agent.name,
        "provider": agent.provider,
    }
    return shown | {k: agent.doc[k] for k in ("description",) if agent.doc.get(k)}


async def chat(call: Call) -> web.StreamResponse:
    """POST /api/agents/v1/chat/completions; `model` is an agent's id."""
    agent = agent_of(call, call.body.get("model"))
    if isinstance(agent, web.Response):
        return agent
    messages = call.body.get("messages")
    if not isinstance(messages, list) or not messages:
        said = {
            "message": "messages array is required and must not be empty",
            "type": "invalid_request_error",
        }
        return json_reply({"error": {**said, "param": None, "code": "invalid_request"}}, 400)
    asked = model_call(call, agent, messages)
    asked.message_id = nanoid("chatcmpl-")
    if call.body.get("stream"):
        return await send_stream(call, _chunks(call, agent, asked))
    return await _completion(call, agent, asked)


async def _completion(call: Call, agent: Agent, asked: ModelCall) -> web.Response:
    said = {"text": "", "think": ""}
    tools: list[Json] = []
    loop = loop_of(call, agent, asked)
    try:
        async for piece in loop.pieces():
            if piece.kind == "tool":
                tools.append(_tool(piece))
            elif piece.kind == "args":
                tools[-1]["function"]["arguments"] += piece.text
            elif piece.kind != "output":
                said[piece.kind] += piece.text
    except (ProviderError, ProviderDied) as failed:
        return provider_failure(failed)
    text, thought = said["text"], said["think"]
    message: Json = {"role": "assistant", "content": text or None}
    message |= ({"reasoning": thought} if thought else {}) | ({"tool_calls": tools} if tools else {})
    choice = {"index": 0, "message": message, "finish_reason": "stop" if text or not tools else "tool_calls"}
    return json_reply(
        {**_base(agent, asked, "chat.completion"), "choices": [choice], "usage": _usage(loop.usages)}
    )


async def _chunks(call: Call, agent: Agent, asked: ModelCall) -> AsyncIterator[bytes]:
    base = _base(agent, asked, "chat.completion.chunk")
    yield _chunk(base, {"role": "assistant"})
    loop, index = loop_of(call, agent, asked), -1
    try:
        async for piece in loop.pieces():
            if piece.kind == "tool":
                index += 1
                yield _chunk(base, {"tool_calls": [{"index": index, **_tool(piece)}]})
            elif piece.kind == "args":
                arguments = {"index": index, "function": {"arguments": piece.text}}
                yield _chunk(base, {"tool_calls": [arguments]})
            elif piece.kind != "output":
                yield _chunk(base, {"content" if piece.kind == "text" else "reasoning": piece.text})
    except (ProviderError, ProviderDied) as failed:
        yield _chunk(base, {"content": f"\n\nError: {failed}"}, "stop")
    else:
        yield _chunk(base, {}, "stop", {"usage": _usage(loop.usages)})
    yield b"data: [DONE]\n\n"


def _chunk(base: Json, delta: Json, finish: str | None = None, more: Json | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: %s\n\n" % encode({**base, "choices": [choice], **(more or {})})


def _base(agent: Agent, asked: ModelCall, kind: str) -> Json:
    return {"id": asked.message_id, "object": kind, "created": int(time.time()), "model": agent.id}


def _tool(piece: Piece) -> Json:
    """A tool call that begins."""
    return {"id": piece.text, "type": "function", "function": {"name": piece.name, "arguments": ""}}


def _usage(usages: list[Usage]) -> Json:
    """The sum of all calls; zeros when the provider reported none (contract §6)."""
    prompt, completion = sum(usage.prompt for usage in usages), sum(usage.completion for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


ROUTES = (
    Route("GET", "/api/agents/v1/models", models, Guard.KEY),
    Route("GET", "/api/agents/v1/models/:model", model, Guard.KEY),
    Route("POST", "/api/agents/v1/chat/completions", chat, Guard.KEY),
)
