"""/v1/auth/sessions: where somebody is signed in, and ending it there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from aiohttp import web

from geko_proxy.accounts.session_list import SessionEntry, SessionList
from geko_proxy.accounts.user_agents import device_of
from geko_proxy.client_api.cookies import RefreshCookies
from geko_proxy.client_api.own_audit import record_own
from geko_proxy.client_api.validation import read_uuid
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply

if TYPE_CHECKING:
    from geko_proxy.services import Services


class OwnSessions:
    """The endpoints."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._cookies = RefreshCookies(services.settings.server)
        self._list = SessionList(services.database, services.settings.auth.session_max_ttl_s)

    async def list_mine(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with the caller's sessions, the last used first."""
        identity = exchange.signed_in()
        found = await self._list.of_user(identity.tenant_id, identity.user_id)
        shapes = [session_shape(entry, identity.session_id) for entry in found]
        return Reply.of_json(200, {"sessions": shapes}, {"Cache-Control": "no-store"})

    async def revoke(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """204; that session is over at once, everywhere. 404 for one that is not the caller's or is over."""
        identity, sessions = exchange.signed_in(), self._services.sessions
        session_id = read_uuid(exchange.params["sessionId"])
        if session_id is None or not await sessions.revoke_own(
            identity.tenant_id, identity.user_id, session_id
        ):
            raise Refused(404, "session_not_found", "There is no such session.")
        await self._record(exchange, "session.revoke", {"sessionId": session_id})
        reply = Reply(204)
        if session_id == identity.session_id:
            self._cookies.clear(exchange, reply)
        return reply

    async def revoke_others(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with the number of sessions ended: all of the caller's but the one that asks."""
        identity = exchange.signed_in()
        ended = await self._services.sessions.revoke_others(
            identity.tenant_id, identity.user_id, identity.session_id
        )
        await self._record(exchange, "session.revoke_others", {"revoked": ended})
        return Reply.of_json(200, {"revoked": ended}, {"Cache-Control": "no-store"})

    async def _record(self, exchange: Exchange, action: str, details: dict[str, Any]) -> None:
        identity = exchange.signed_in()
        async with self._services.database.tenant(identity.tenant_id) as scope:
            await record_own(self._services, exchange, scope, identity.user_id, action, details)


def session_shape(entry: SessionEntry, current_id: UUID) -> dict[str, Any]:
    """The JSON of a session. lastSeenAt: exact to a minute or so."""
    return {
        "id": entry.session_id,
        "device": device_of(entry.user_agent),
        "userAgent": entry.user_agent,
        "ip": entry.ip,
        "workspaceId": entry.workspace_id,
        "createdAt": entry.created_at,
        "lastSeenAt": entry.last_seen_at,
        "expiresAt": entry.expires_at,
        "current": entry.session_id == current_id,
    }
