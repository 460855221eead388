"""What both remote APIs share: the agent by its id, the model call, failures, the event stream."""

from __future__ import annotations

import uuid
import zlib
from collections.abc import AsyncIterator

from aiohttp import web

from geko_proxy.demo.librechat.chat.chats import send_events
from geko_proxy.demo.librechat.chat.provider import ModelCall, ProviderError
from geko_proxy.demo.librechat.express import Json, json_reply
from geko_proxy.demo.librechat.library.agents import Agent
from geko_proxy.demo.librechat.routes import Call

_STREAM_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
    "Vary": "Accept-Encoding",
}


def key_error(call: Call) -> web.Response | None:
    """Look up the API key; the reply to a bad one, None (and call.account set) for a good one."""
    scheme, _, secret = call.request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret:
        text = "Missing or invalid Authorization header. Expected: Bearer <api_key>"
        return _error(401, text, "invalid_request_error", "missing_api_key")
    call.account = call.lc.api_keys.use(secret.strip())
    if call.account is None:
        return _error(401, "Invalid API key", "invalid_request_error", "invalid_api_key")
    return None


def agent_of(call: Call, agent_id: object) -> Agent | web.Response:
    """The agent that a request names as its model, or the error reply."""
    agent = call.lc.agents.get(str(agent_id))
    if agent is None:
        return _error(404, f"Agent not found: {agent_id}", "invalid_request_error", "model_not_found")
    if call.lc.agents.visible(call.user, agent.id) is None:
        return _error(403, f"No remote access to agent: {agent_id}", "permission_error", "access_denied")
    return agent


def _error(status: int, message: str, kind: str, code: str) -> web.Response:
    return json_reply({"error": {"message": message, "type": kind, "code": code}}, status)


def provider_failure(failed: Exception) -> web.Response:
    """A provider failure before the reply began."""
    status = failed.status if isinstance(failed, ProviderError) else 500
    kind = "invalid_request_error" if status < 500 else "server_error"
    return json_reply({"error": {"message": str(failed), "type": kind, "param": None, "code": None}}, status)


def model_call(call: Call, agent: Agent, messages: list[Json]) -> ModelCall:
    """The call of the agent's model; the caller's stream_options do not count (recorded)."""
    endpoint = call.lc.endpoint(agent.provider)
    system = [{"role": "system", "content": agent.instructions}] if agent.instructions else []
    return ModelCall(
        model=agent.model,
        messages=[*system, *messages],
        purpose="agents api",
        endpoint=agent.provider,
        user_id=call.user.id,
        conversation_id=call.body.get("conversation_id")
        or call.body.get("previous_response_id")
        or str(uuid.uuid4()),
        asks_usage=endpoint is not None and endpoint.asks_usage,
        max_tokens=call.body.get("max_tokens"),
    )


async def send_stream(call: Call, events: AsyncIterator[bytes]) -> web.StreamResponse:
    """Stream events; with compression and a client that takes gzip all arrive in one lump (contract §6)."""
    if not call.lc.settings.compression or "gzip" not in call.request.headers.get("Accept-Encoding", ""):
        return await send_events(call, events, _STREAM_HEADERS)
    lump = b"".join([event async for event in events])
    squeeze = zlib.compressobj(wbits=31)
    packed = squeeze.compress(lump) + squeeze.flush()
    return await send_events(call, _once(packed), {**_STREAM_HEADERS, "Content-Encoding": "gzip"})


async def _once(packed: bytes) -> AsyncIterator[bytes]:
    yield packed
