"""Finds out who is calling: GEKO's bearer token, or its session cookie for pictures that <img> fetches."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from geko_proxy.accounts.tokens import Identity, InvalidToken
from geko_proxy.browser_safety import refresh_cookie
from geko_proxy.filters.base import Exchange, Filter, Refused, Reply, Route
from geko_proxy.storage.recent import Recent

if TYPE_CHECKING:
    from geko_proxy.services import Services

ANONYMOUS_OPERATIONS = frozenset({"config", "banner"})  # LibreChat's sign-in page asks for them


class AuthFilter(Filter):
    """Refuses with 401 whoever has no valid token or whose session is over; sets `exchange.user`.

    At the address of a workspace, with 403 whoever's token or session is for another one.
    """

    name: ClassVar[str] = "auth"
    routes: ClassVar[frozenset[Route]] = frozenset(
        {
            Route.CHAT,
            Route.STREAM,
            Route.CONTROL,
            Route.DISCOVERY,
            Route.API,
            Route.AGENTS_API,
            Route.MEDIA,
            Route.OWN,
        }
    )

    def __init__(self, options: object, services: Services) -> None:
        super().__init__(options, services)
        self._server = services.settings.server
        self._tokens = services.tokens
        self._sessions = services.sessions
        self._last_seen = services.last_seen
        self._hosts = services.hosts
        self._recent: Recent[Identity] = Recent(services.sessions)
        services.tokens.on_change(self._recent.clear)

    async def on_request(self, exchange: Exchange) -> Reply | None:
        header = exchange.request.headers.get("Authorization", "")
        scheme, _, token = header.partition(" ")
        if token and scheme.lower() == "bearer":
            exchange.user = await self._from_token(token.strip(), exchange)
        elif exchange.route is Route.MEDIA:
            exchange.user = await self._from_cookie(exchange)
        elif exchange.operation not in ANONYMOUS_OPERATIONS:
            raise unauthorized("not_signed_in", "No auth token")
        if exchange.user is not None:
            await self._hosts.require(exchange, exchange.user.workspace_id)
        return None

    async def _from_token(self, token: str, exchange: Exchange) -> Identity:
        recent, now = self._recent.get(token), exchange.started_at
        if recent is not None and recent.expires_at > now:
            return recent
        stamp, ring = self._recent.stamp(), self._tokens.ring
        try:
            identity = await self._tokens.check(token, now)
        except InvalidToken as error:
            text = "jwt expired" if error.reason == "expired" else "invalid token"  # LibreChat's words
            raise unauthorized("invalid_token", text) from None
        if not await self._sessions.is_active(identity.tenant_id, identity.session_id):
            raise unauthorized("session_over", "The session is over. Sign in again.")
        self._last_seen.note(identity.tenant_id, identity.session_id, exchange.request.client_ip)
        if ring is self._tokens.ring:  # else the token's key may have been retired while we asked
            self._recent.put(token, identity, stamp)
        return identity

    async def _from_cookie(self, exchange: Exchange) -> Identity:
        cookie = exchange.request.cookies.get(refresh_cookie(self._server, exchange.request.secure))
        session = await self._sessions.find(cookie) if cookie else None
        if session is None:
            raise unauthorized("not_signed_in", "No auth token")
        role = await self.services.members.role(session.tenant_id, session.workspace_id, session.user_id)
        if role is None:
            raise Refused(403, "forbidden", "You are not a member of this workspace.")
        expires_at = session.expires_at.timestamp()
        return Identity(
            session.user_id, session.tenant_id, session.workspace_id, role, session.session_id, expires_at
        )


def unauthorized(code: str, message: str) -> Refused:
    """A 401 with the challenge that RFC 6750 §3 wants."""
    return Refused(401, code, message, headers={"WWW-Authenticate": 'Bearer realm="geko"'})
