"""The routes of /api/agents/chat: start, stream, status, active, abort (contract §4)."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from aiohttp import web

from geko_proxy.demo.librechat.chat.runs import Run, Turn
from geko_proxy.demo.librechat.chat.shapes import Speaker, sender_of
from geko_proxy.demo.librechat.chat.streams import frame
from geko_proxy.demo.librechat.express import Json, error_text, json_reply
from geko_proxy.demo.librechat.faults import CUT
from geko_proxy.demo.librechat.library.agents import Agent
from geko_proxy.demo.librechat.limits import denied, message_wall
from geko_proxy.demo.librechat.llm.model_lists import configured_models, listed_models
from geko_proxy.demo.librechat.routes import Call, Guard, Route
from geko_proxy.demo.librechat.settings import Endpoint

_STREAM_HEADERS = {
    "Content-Encoding": "identity",
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
_NO_STREAM = {"error": "Stream not found", "message": "The generation job does not exist or has expired."}
_UNAUTHORIZED = {"error": "Unauthorized"}


async def start(call: Call) -> web.Response:
    """POST /api/agents/chat[/:endpoint]: the URL's endpoint is ignored, the body decides (contract §0.7)."""
    refusal, headers = message_wall(call)
    refusal = refusal or _refusal(call)
    if refusal is not None:
        refusal.headers.update(headers)
        return refusal
    given = call.body.get("conversationId")
    conversation_id = str(uuid.uuid4()) if given in (None, "", "new") else str(given)
    turn = Turn(call.user, conversation_id, call.body, [])
    if call.lc.settings.llm_url:
        turn.resolve = partial(_resolve_later, call, turn)
    else:
        _resolve(call, turn, configured_models(call.lc))
    call.lc.jobs.start(Run(call.lc, turn))
    started = {"streamId": conversation_id, "conversationId": conversation_id, "status": "started"}
    return json_reply(started, headers=headers)


def _refusal(call: Call) -> web.Response | None:
    """What is wrong with the POST itself; everything about models is said by the stream."""
    body = call.body
    agent_id = body.get("agent_id")
    if body.get("endpoint") == "agents":
        if not agent_id:
            text = "agent_id is required in request body"
            return json_reply({"error": "Bad Request", "message": text}, 400)
        refused = call.lc.agents.refusal(call.user, str(agent_id)) if _is_persistent(agent_id) else None
        if refused is not None:
            return refused
    given = body.get("conversationId")
    if given and call.lc.conversations.foreign(call.user.id, str(given)):
        return denied(call, {"type": "convo_access"})
    known = {"agents", *configured_models(call.lc)}
    if not body.get("endpoint") or (body["endpoint"] not in known and not body.get("endpointType")):
        return error_text({"text": "Error parsing conversation"})
    return _placeholder_refusal(call)


def _placeholder_refusal(call: Call) -> web.Response | None:
    parent = str(call.body.get("parentMessageId") or "")
    conversation = call.lc.conversations.get(call.user.id, str(call.body.get("conversationId")))
    if not parent.endswith("_") or (conversation is not None and conversation.message(parent)):
        return None
    text = "Cannot submit a follow-up while the previous response is still being saved."
    return json_reply({"error": text}, 409)


def _is_persistent(agent_id: object) -> bool:
    return isinstance(agent_id, str) and agent_id.startswith("agent_")


async def _resolve_later(call: Call, turn: Turn) -> None:
    """After the POST's reply: model lists are fetched for each chat (contract §4.2)."""
    _resolve(call, turn, await listed_models(call.lc, call.user.id))


def _resolve(call: Call, turn: Turn, models: dict[str, list[str]]) -> None:
    turn.models = models
    spoken = _speaker(call, call.body, None, models)
    if isinstance(spoken, str):
        turn.problem = spoken
        return
    turn.speakers.append(spoken)
    added = call.body.get("addedConvo")
    if isinstance(added, dict):
        second = _speaker(call, added, 1, models)
        if not isinstance(second, str):  # a bad one is dropped silently (contract §4.2)
            first, endpoint = (
                spoken  # both start the graph, so both carry agentId and groupId (MultiAgentGraph)
            )
            turn.speakers = [(replace(first, group_id=1), endpoint), second]


def _speaker(
    call: Call, body: Json, group_id: int | None, models: dict[str, list[str]]
) -> tuple[Speaker, Endpoint] | str:
    """Who answers, or the error text of the stream (contract §4.1, §4.2)."""
    agent = _agent(call, body)
    endpoint = agent.provider if agent else body.get("endpoint")
    model = agent.model if agent else body.get("model")
    if not model:
        return f'{{ "type": "missing_model", "info": "{endpoint}" }}'
    if endpoint not in models:
        return f'{{ "type": "endpoint_models_not_loaded", "info": "{endpoint}" }}'
    if model not in models[endpoint]:
        return f'{{ "type": "illegal_model_request", "info": "{endpoint}|{model}" }}'
    known = call.lc.endpoint(endpoint)
    if known is None:
        return f"{endpoint} API Key not provided."
    if agent is not None:
        shown = Speaker("agents", model, agent.name, agent.id, agent.id, agent.instructions, group_id)
        return shown, known
    agent_id = f"{endpoint}__{model}___{known.name}" + ("____1" if group_id else "")
    instructions = str(body.get("promptPrefix") or "")
    sender = sender_of(model, known.name)
    return Speaker(known.name, model, sender, agent_id, model, instructions, group_id), known


def _agent(call: Call, body: Json) -> Agent | None:
    """The agent, only for the endpoint `agents`: elsewhere `agent_id` is ignored."""
    if body.get("endpoint") != "agents":
        return None
    return call.lc.agents.visible(call.user, str(body.get("agent_id")))


async def stream(call: Call) -> web.StreamResponse:
    """GET /api/agents/chat/stream/:streamId[?resume=true]"""
    found = call.lc.jobs.find(call.params["streamId"])
    if found is None or found.run is None:
        return json_reply(_NO_STREAM, 404)
    if found.run.user.id != call.user.id:
        return json_reply(_UNAUTHORIZED, 403)
    first = None
    if call.query.get("resume") == "true" and found.last is None:
        first = frame({"sync": True, "resumeState": found.run.state(), "pendingEvents": []})
    return await send_events(call, found.subscribe(first), _STREAM_HEADERS)


async def send_events(
    call: Call, events: AsyncIterator[bytes], headers: dict[str, str]
) -> web.StreamResponse:
    """Write events as they come; a fault of kind cut or eof ends the reply early."""
    reply = web.StreamResponse(headers=headers)
    cut = call.request.get(CUT)
    await reply.prepare(call.request)
    sent = 0
    async with aclosing(events) as source:  # type: ignore[type-var]
        async for event in source:
            if cut is not None and sent >= cut.after:
                cut.strike(call.request)
                break
            await reply.write(event)
            sent += 1
    return reply


async def status(call: Call) -> web.Response:
    """GET /api/agents/chat/status/:conversationId"""
    found = call.lc.jobs.running(call.params["conversationId"])
    if found is None or found.run is None:
        return json_reply({"active": False})
    if found.run.user.id != call.user.id:
        return json_reply(_UNAUTHORIZED, 403)
    return json_reply(
        {
            "active": True,
            "streamId": found.id,
            "status": "running",
            "aggregatedContent": found.run.content,
            "createdAt": found.run.created_at_ms,
            "resumeState": found.run.state(),
        }
    )


async def active(call: Call) -> web.Response:
    """GET /api/agents/chat/active"""
    return json_reply({"activeJobIds": call.lc.jobs.active(call.user.id)})


async def abort(call: Call) -> web.Response:
    """POST /api/agents/chat/abort; an unknown id stops the user's newest other job (contract §4.4)."""
    body = call.body
    key = str(body.get("abortKey") or "").partition(":")[0]
    wanted = str(body.get("streamId") or body.get("conversationId") or key)
    found = call.lc.jobs.running(wanted)
    others = call.lc.jobs.active(call.user.id)
    if found is None and others:
        found = call.lc.jobs.running(others[-1])
    if found is None or found.run is None:
        return json_reply({"error": "Job not found", "streamId": wanted or None}, 404)
    if found.run.user.id != call.user.id:
        return json_reply(_UNAUTHORIZED, 403)
    found.run.abort()
    return json_reply({"success": True, "aborted": found.id})


ROUTES = (
    Route("POST", "/api/agents/chat", start, Guard.BROWSER),
    Route("POST", "/api/agents/chat/abort", abort, Guard.BROWSER),
    Route("POST", "/api/agents/chat/:endpoint", start, Guard.BROWSER),
    Route("GET", "/api/agents/chat/stream/:streamId", stream, Guard.BROWSER),
    Route("GET", "/api/agents/chat/status/:conversationId", status, Guard.BROWSER),
    Route("GET", "/api/agents/chat/active", active, Guard.BROWSER),
)
