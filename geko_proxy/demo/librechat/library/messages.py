"""The routes of /api/messages; messages live inside their conversations."""

from __future__ import annotations

from aiohttp import web

from geko_proxy.demo.librechat.chat.shapes import estimate
from geko_proxy.demo.librechat.express import Json, json_reply, now_iso
from geko_proxy.demo.librechat.library.conversations import Conversation
from geko_proxy.demo.librechat.routes import Call, Route

_NOT_FOUND = {"error": "Conversation not found"}


def _conversation(call: Call) -> Conversation | None:
    return call.lc.conversations.get(call.user.id, call.params["conversationId"])


async def listed(call: Call) -> web.Response:
    """GET /api/messages/:conversationId"""
    if call.params["conversationId"] == "new":
        return json_reply([])
    conversation = _conversation(call)
    return json_reply(_NOT_FOUND, 404) if conversation is None else json_reply(conversation.messages)


async def queried(call: Call) -> web.Response:
    """GET /api/messages?conversationId=…; a search is a 500, because search is off."""
    if "conversationId" not in call.query:
        return json_reply({"error": "Internal server error"}, 500)
    conversation = call.lc.conversations.get(call.user.id, call.query["conversationId"])
    found = conversation.messages if conversation else []
    wanted = call.query.get("messageId")
    return json_reply(
        {"messages": [m for m in found if wanted in (None, m["messageId"])], "nextCursor": None}
    )


async def one(call: Call) -> web.Response:
    """GET /api/messages/:conversationId/:messageId"""
    conversation = _conversation(call)
    if conversation is None:
        return json_reply(_NOT_FOUND, 404)
    message = conversation.message(call.params["messageId"])
    return json_reply([message]) if message else json_reply({"error": "Message not found"}, 404)


async def save(call: Call) -> web.Response:
    """POST /api/messages/:conversationId: saves what the client says, token counts too (contract §1.3)."""
    conversation = _conversation(call)
    if conversation is None:
        return json_reply(_NOT_FOUND, 404)
    if not isinstance(call.body.get("messageId"), str):
        return json_reply({"error": "Internal server error"}, 500)
    known = conversation.message(call.body["messageId"])
    message = {**call.body, "conversationId": call.params["conversationId"], "updatedAt": now_iso()}
    conversation.save({"createdAt": now_iso(), **message})
    return json_reply(known or conversation.messages[-1], 201)


async def edit(call: Call) -> web.Response:
    """PUT /api/messages/:conversationId/:messageId: new text, of the message or of one content part."""
    found = _found(call)
    if found is None:
        return json_reply({"error": "Message not found"}, 404)
    text, index = str(call.body.get("text", "")), call.body.get("index")
    if index is None:
        found |= {"text": text, "tokenCount": estimate(text)}
    else:
        part = found["content"][int(index)]
        part[part["type"]] = text
    return json_reply(found)


async def feedback(call: Call) -> web.Response:
    """PUT /api/messages/:conversationId/:messageId/feedback"""
    found = _found(call)
    if found is None:
        return json_reply({"error": "Message not found"}, 404)
    found["feedback"] = call.body.get("feedback")
    ids = {"messageId": found["messageId"], "conversationId": found["conversationId"]}
    return json_reply({**ids, "feedback": found["feedback"]})


async def delete(call: Call) -> web.Response:
    """DELETE /api/messages/:conversationId/:messageId"""
    conversation, found = _conversation(call), _found(call)
    if conversation is not None and found is not None:
        conversation.messages.remove(found)
    return web.Response(status=204)


def _found(call: Call) -> Json | None:
    conversation = _conversation(call)
    return conversation.message(call.params["messageId"]) if conversation else None


ROUTES = (
    Route("GET", "/api/messages", queried),
    Route("GET", "/api/messages/:conversationId", listed),
    Route("POST", "/api/messages/:conversationId", save),
    Route("GET", "/api/messages/:conversationId/:messageId", one),
    Route("PUT", "/api/messages/:conversationId/:messageId", edit),
    Route("PUT", "/api/messages/:conversationId/:messageId/feedback", feedback),
    Route("DELETE", "/api/messages/:conversationId/:messageId", delete),
)
