"""Conversations: the store, and the routes of /api/convos."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

from geko_proxy.demo.librechat.express import Json, json_reply, now_iso, object_id, text_reply
from geko_proxy.demo.librechat.routes import Call, Route

if TYPE_CHECKING:
    from geko_proxy.demo.librechat.chat.shapes import Speaker

_LISTED = (
    "_id", "conversationId", "user", "createdAt", "title", "chatProjectId", "endpoint", "agent_id", "model",
    "updatedAt",
)  # fmt: skip


@dataclass(slots=True)
class Conversation:
    """One conversation's document and its messages, as stored."""

    doc: Json
    messages: list[Json] = field(default_factory=list)

    def save(self, message: Json) -> None:
        """Insert a message, or update the one with its id."""
        known = self.message(message["messageId"])
        if known is None:
            self.messages.append(message)
            self.doc["messages"].append(object_id())
        else:
            known.update({k: v for k, v in message.items() if k != "createdAt"})
        self.doc["updatedAt"] = now_iso()

    def message(self, message_id: object) -> Json | None:
        """Find a message."""
        return next((m for m in self.messages if m["messageId"] == message_id), None)

    def thread(self, message_id: object) -> list[Json]:
        """The message and all before it, oldest first."""
        found: list[Json] = []
        while (message := self.message(message_id)) is not None and message not in found:
            found.append(message)
            message_id = message.get("parentMessageId")
        return found[::-1]


class Conversations:
    """All conversations by id; every look-up names the user who asks."""

    def __init__(self) -> None:
        self._by_id: dict[str, Conversation] = {}

    def get(self, user_id: str, conversation_id: str) -> Conversation | None:
        """The user's conversation."""
        found = self._by_id.get(conversation_id)
        return found if found is not None and found.doc["user"] == user_id else None

    def foreign(self, user_id: str, conversation_id: str) -> bool:
        """Whether it belongs to somebody else."""
        return conversation_id in self._by_id and self.get(user_id, conversation_id) is None

    def of(self, user_id: str) -> list[Conversation]:
        """All of a user, last changed first."""
        mine = [c for c in self._by_id.values() if c.doc["user"] == user_id]
        return sorted(mine, key=lambda c: str(c.doc["updatedAt"]), reverse=True)

    def open(
        self, user_id: str, conversation_id: str, speaker: Speaker, body: Json, created_at: str
    ) -> Conversation:
        """The user's conversation, made if it is new, now with this endpoint and model."""
        conversation = self._by_id.get(conversation_id)
        if conversation is None:
            conversation = self._by_id[conversation_id] = Conversation(_document(user_id, conversation_id))
            conversation.doc["createdAt"] = created_at
        conversation.doc |= {"endpoint": speaker.endpoint, "agent_id": speaker.agent_id, "resendFiles": True}
        conversation.doc["maxContextTokens"] = speaker.window
        if speaker.endpoint != "agents":
            conversation.doc |= {"endpointType": body.get("endpointType"), "model": speaker.model}
        if body.get("isTemporary"):
            conversation.doc |= {"isTemporary": True, "expiredAt": now_iso()}
        conversation.doc["files"] += [f["file_id"] for f in body.get("files") or [] if "file_id" in f]
        conversation.doc["spec"] = body.get("spec")
        if conversation.doc["spec"] is None:
            del conversation.doc["spec"]
        return conversation

    def copy(self, source: Conversation, messages: list[Json], title: str) -> Conversation:
        """A new conversation with copies of messages under new ids."""
        conversation_id = str(uuid.uuid4())
        copied = Conversation(
            {**source.doc, **_document(source.doc["user"], conversation_id), "title": title}
        )
        ids = {m["messageId"]: str(uuid.uuid4()) for m in messages}
        for message in messages:
            parent = ids.get(message.get("parentMessageId"), message.get("parentMessageId"))
            fresh = {"messageId": ids[message["messageId"]], "parentMessageId": parent}
            copied.save({**message, **fresh, "conversationId": conversation_id})
        self._by_id[conversation_id] = copied
        return copied

    def delete(self, conversation: Conversation) -> None:
        """Remove it with its messages."""
        del self._by_id[conversation.doc["conversationId"]]


def _document(user_id: str, conversation_id: str) -> Json:
    return {
        "_id": object_id(),
        "conversationId": conversation_id,
        "user": user_id,
        "createdAt": now_iso(),
        "__v": 0,
        "title": "New Chat",
        "isArchived": False,
        "tags": [],
        "chatProjectId": None,
        "files": [],
        "messages": [],
        "isTemporary": False,
        "expiredAt": None,
        "updatedAt": now_iso(),
    }


def _arg(call: Call) -> Json:
    arg = call.body.get("arg")
    return arg if isinstance(arg, dict) else call.body


def _mine(call: Call, conversation_id: object) -> Conversation | None:
    return call.lc.conversations.get(call.user.id, str(conversation_id))


async def listed(call: Call) -> web.Response:
    """GET /api/convos, by pages; the cursor is the number of those already seen."""
    archived = call.query.get("isArchived") == "true"
    tags = set(call.query.getall("tags", []))
    project = call.query.get("projectId")
    found = [
        c.doc
        for c in call.lc.conversations.of(call.user.id)
        if c.doc["isArchived"] is archived
        and not c.doc["isTemporary"]
        and tags <= set(c.doc["tags"])
        and project in (None, c.doc["chatProjectId"])
    ]
    if call.query.get("sortDirection") == "asc":
        found.reverse()
    start, size = int(call.query.get("cursor") or 0), int(call.query.get("limit") or 25)
    page = [{k: doc[k] for k in _LISTED if k in doc} for doc in found[start : start + size]]
    more = str(start + size) if start + size < len(found) else None
    return json_reply({"conversations": page, "nextCursor": more})


async def one(call: Call) -> web.Response:
    """GET /api/convos/:conversationId"""
    conversation = _mine(call, call.params["conversationId"])
    return json_reply(conversation.doc) if conversation else web.Response(status=404)


async def title(call: Call) -> web.Response:
    """GET /api/convos/gen_title/:conversationId, held until the title is there."""
    found = await call.lc.titles.wait(
        call.user.id, call.params["conversationId"], call.lc.settings.title_hold_s
    )
    if found is not None:
        return json_reply({"title": found})
    text = "Title not found or method not implemented for the conversation's endpoint"
    return json_reply({"message": text}, 404)


async def delete(call: Call) -> web.Response:
    """DELETE /api/convos: one conversation; an unknown one is a 500 (recorded)."""
    arg = _arg(call)
    if not arg.get("conversationId"):
        return json_reply({"error": "no parameters provided"}, 400)
    conversation = _mine(call, arg["conversationId"])
    if conversation is None:
        return text_reply("Error clearing conversations", 500)
    call.lc.conversations.delete(conversation)
    call.lc.shares.drop(conversation.doc["conversationId"])
    return json_reply(_deleted(1, len(conversation.messages)), 201)


async def delete_all(call: Call) -> web.Response:
    """DELETE /api/convos/all"""
    gone = call.lc.conversations.of(call.user.id)
    for conversation in gone:
        call.lc.conversations.delete(conversation)
        call.lc.shares.drop(conversation.doc["conversationId"])
    return json_reply(_deleted(len(gone), sum(len(c.messages) for c in gone)), 201)


def _deleted(conversations: int, messages: int) -> Json:
    counted = {"acknowledged": True, "deletedCount": messages}
    return {"acknowledged": True, "deletedCount": conversations, "messages": counted}


async def update(call: Call) -> web.Response:
    """POST /api/convos/{update,archive,pin}: change fields of one conversation."""
    arg = _arg(call)
    conversation = _mine(call, arg.get("conversationId"))
    if not arg.get("conversationId"):
        return json_reply({"error": "conversationId is required"}, 400)
    if conversation is None:
        return json_reply({"error": "Conversation not found"}, 404)
    allowed = ("title", "isArchived", "isPinned", "pinned", "chatProjectId", "tags")
    conversation.doc |= {k: arg[k] for k in allowed if k in arg} | {"updatedAt": now_iso()}
    return json_reply(conversation.doc, 201 if "title" in arg else 200)


async def duplicate(call: Call) -> web.Response:
    """POST /api/convos/{duplicate,fork}"""
    conversation = _mine(call, call.body.get("conversationId"))
    if conversation is None:
        return json_reply({"message": "Conversation not found"}, 404)
    message_id = call.body.get("messageId")
    messages = conversation.thread(message_id) if message_id else conversation.messages
    copied = call.lc.conversations.copy(conversation, messages, conversation.doc["title"])
    return json_reply({"conversation": copied.doc, "messages": copied.messages}, 200 if message_id else 201)


async def imported(call: Call) -> web.Response:
    """POST /api/convos/import: the file is taken and thrown away."""
    await call.request.read()
    return json_reply({"message": "Conversation(s) imported successfully"}, 201)


ROUTES = (
    Route("GET", "/api/convos", listed),
    Route("GET", "/api/convos/gen_title/:conversationId", title),
    Route("GET", "/api/convos/:conversationId", one),
    Route("DELETE", "/api/convos", delete),
    Route("DELETE", "/api/convos/all", delete_all),
    Route("POST", "/api/convos/update", update),
    Route("POST", "/api/convos/archive", update),
    Route("POST", "/api/convos/pin", update),
    Route("POST", "/api/convos/fork", duplicate),
    Route("POST", "/api/convos/duplicate", duplicate),
    Route("POST", "/api/convos/import", imported),
)
