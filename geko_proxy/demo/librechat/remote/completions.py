"""POST /api/agents/v1/chat/completions and GET …/models."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from aiohttp import web

from geko_proxy.demo.librechat.chat.provider import ModelCall, ProviderDied, ProviderError, Usage
from geko_proxy.demo.librechat.express import Json, encode, json_reply, nanoid
from geko_proxy.demo.librechat.library.agents import Agent
from geko_proxy.demo.librechat.remote.access import agent_of, model_call, provider_failure, send_stream
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
    if call.body.get("stream"):
        return await send_stream(call, _chunks(call, agent, asked))
    return await _completion(call, agent, asked)


async def _completion(call: Call, agent: Agent, asked: ModelCall) -> web.Response:
    text, thought = "", ""
    try:
        async for piece in call.lc.provider.stream(asked):
            text += piece.text if piece.kind == "text" else ""
            thought += piece.text if piece.kind == "think" else ""
    except (ProviderError, ProviderDied) as failed:
        return provider_failure(failed)
    message = {"role": "assistant", "content": text} | ({"reasoning": thought} if thought else {})
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json_reply({**_base(agent, "chat.completion"), "choices": [choice], "usage": _usage(asked.usage)})


async def _chunks(call: Call, agent: Agent, asked: ModelCall) -> AsyncIterator[bytes]:
    base = _base(agent, "chat.completion.chunk")
    yield _chunk(base, {"role": "assistant"})
    try:
        async for piece in call.lc.provider.stream(asked):
            yield _chunk(base, {"content" if piece.kind == "text" else "reasoning": piece.text})
    except (ProviderError, ProviderDied) as failed:
        yield _chunk(base, {"content": f"\n\nError: {failed}"}, "stop")
    else:
        yield _chunk(base, {}, "stop", {"usage": _usage(asked.usage)})
    yield b"data: [DONE]\n\n"


def _chunk(base: Json, delta: Json, finish: str | None = None, more: Json | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: %s\n\n" % encode({**base, "choices": [choice], **(more or {})})


def _base(agent: Agent, kind: str) -> Json:
    return {"id": nanoid("chatcmpl-"), "object": kind, "created": int(time.time()), "model": agent.id}


def _usage(usage: Usage | None) -> Json:
    """Zeros when the provider reported none (contract §6)."""
    prompt, completion = (usage.prompt, usage.completion) if usage else (0, 0)
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
