"""Shared links: any signed-in account may read one, whoever made it (contract §10, trap 7)."""

from __future__ import annotations

from dataclasses import dataclass, field

from aiohttp import web

from geko_proxy.demo.librechat.chat.shapes import ROOT
from geko_proxy.demo.librechat.express import Json, json_reply, nanoid, now_iso, object_id
from geko_proxy.demo.librechat.library.conversations import Conversation
from geko_proxy.demo.librechat.routes import Call, Guard, Route

_NOT_FOUND = {"message": "Shared link not found"}
_SHARED = (
    "sender", "text", "content", "isCreatedByUser", "createdAt", "updatedAt", "tokenCount", "unfinished", "error",
)  # fmt: skip


@dataclass(slots=True)
class Share:
    """A link to a conversation, with the stand-in ids that readers see."""

    user_id: str
    conversation: Conversation
    id: str = field(default_factory=nanoid)
    object_id: str = field(default_factory=object_id)
    created_at: str = field(default_factory=now_iso)
    updated_at: str = field(default_factory=now_iso)
    target: str | None = None
    conversation_alias: str = field(default_factory=lambda: nanoid("convo_"))
    aliases: dict[str, str] = field(default_factory=dict)

    @property
    def conversation_id(self) -> str:
        """The real id."""
        return str(self.conversation.doc["conversationId"])

    def view(self) -> Json:
        """What a reader gets."""
        messages = self.conversation.thread(self.target) if self.target else self.conversation.messages
        return {
            "shareId": self.id,
            "title": self.conversation.doc["title"],
            "createdAt": self.created_at,
            "updatedAt": self.updated_at,
            "conversationId": self.conversation_alias,
            "messages": [self._message(m) for m in messages],
        }

    def _message(self, message: Json) -> Json:
        ids = {"messageId": self._alias(message["messageId"]), "conversationId": self.conversation_alias}
        ids["parentMessageId"] = self._alias(message["parentMessageId"])
        return ids | {k: message[k] for k in _SHARED if k in message}

    def _alias(self, message_id: str) -> str:
        return ROOT if message_id == ROOT else self.aliases.setdefault(message_id, nanoid("msg_"))


class Shares:
    """All links by share id."""

    def __init__(self) -> None:
        self._by_id: dict[str, Share] = {}

    def get(self, share_id: str) -> Share | None:
        """Whoever made it."""
        return self._by_id.get(share_id)

    def of(self, user_id: str) -> list[Share]:
        """A user's links, the newest first."""
        return [s for s in reversed(self._by_id.values()) if s.user_id == user_id]

    def find(self, user_id: str, conversation_id: str) -> Share | None:
        """A user's link to a conversation."""
        return next((s for s in self.of(user_id) if s.conversation_id == conversation_id), None)

    def add(self, share: Share) -> None:
        """Keep a link."""
        self._by_id[share.id] = share

    def delete(self, share_id: str) -> None:
        """Forget a link."""
        self._by_id.pop(share_id, None)

    def drop(self, conversation_id: str) -> None:
        """Forget the links of a deleted conversation."""
        self._by_id = {k: s for k, s in self._by_id.items() if s.conversation_id != conversation_id}


async def create(call: Call) -> web.Response:
    """POST /api/share/:conversationId"""
    conversation = call.lc.conversations.get(call.user.id, call.params["conversationId"])
    if conversation is None or not conversation.messages:
        return json_reply({"message": "Conversation not found or unauthorized"}, 404)
    share = call.lc.shares.find(call.user.id, call.params["conversationId"])
    if share is None:
        share = Share(call.user.id, conversation, target=call.body.get("targetMessageId"))
        call.lc.shares.add(share)
    shown = {"_id": share.object_id, "shareId": share.id, "conversationId": share.conversation_id}
    return json_reply(shown)


async def read(call: Call) -> web.Response:
    """GET /api/share/:shareId: unknown ids are 404 before the token is looked at."""
    share = call.lc.shares.get(call.params["shareId"])
    if share is None:
        return json_reply(_NOT_FOUND, 404)
    if call.account is None:
        return json_reply({"message": "Authentication required"}, 401)
    return json_reply(share.view(), headers={"Cache-Control": "private, no-store"})


async def listed(call: Call) -> web.Response:
    """GET /api/share"""
    links = [
        {
            "shareId": share.id,
            "title": share.conversation.doc["title"],
            "createdAt": share.created_at,
            "conversationId": share.conversation_id,
        }
        for share in call.lc.shares.of(call.user.id)
    ]
    return json_reply({"links": links, "hasNextPage": False})


async def link(call: Call) -> web.Response:
    """GET /api/share/link/:conversationId"""
    conversation_id = call.params["conversationId"]
    share = call.lc.shares.find(call.user.id, conversation_id)
    if share is None:
        return json_reply({"success": False, "conversationId": conversation_id})
    shown = {"_id": share.object_id, "success": True, "shareId": share.id, "snapshotFiles": True}
    return json_reply({**shown, "conversationId": conversation_id})


async def refresh(call: Call) -> web.Response:
    """PATCH /api/share/:shareId: the link gets a new id."""
    share = _mine(call)
    if share is None:
        return json_reply(_NOT_FOUND, 404)
    call.lc.shares.delete(share.id)
    share.id, share.updated_at = nanoid(), now_iso()
    share.target = call.body.get("targetMessageId", share.target)
    call.lc.shares.add(share)
    return json_reply({"shareId": share.id, "conversationId": share.conversation_id})


async def delete(call: Call) -> web.Response:
    """DELETE /api/share/:shareId"""
    share = _mine(call)
    if share is None:
        return json_reply({"message": "Share not found"}, 404)
    call.lc.shares.delete(share.id)
    text = "Share deleted successfully"
    return json_reply({"success": True, "shareId": share.id, "message": text})


def _mine(call: Call) -> Share | None:
    share = call.lc.shares.get(call.params["shareId"])
    return share if share is not None and share.user_id == call.user.id else None


ROUTES = (
    Route("GET", "/api/share", listed),
    Route("GET", "/api/share/link/:conversationId", link),
    Route("POST", "/api/share/:conversationId", create),
    Route("GET", "/api/share/:shareId", read, Guard.OPTIONAL),
    Route("PATCH", "/api/share/:shareId", refresh),
    Route("DELETE", "/api/share/:shareId", delete),
)
