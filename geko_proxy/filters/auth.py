"""Finds out who is calling: GEKO's bearer token, an API key, or the session cookie for pictures that <img> fetches."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, ClassVar

from geko_proxy.accounts.api_keys import ApiKey
from geko_proxy.accounts.key_text import PREFIX
from geko_proxy.accounts.tokens import Identity, InvalidToken
from geko_proxy.browser_safety import refresh_cookie
from geko_proxy.errors import StoreError
from geko_proxy.filters.base import Exchange, Filter, Refused, Reply, Route
from geko_proxy.policy.key_access import check_key
from geko_proxy.storage.recent import Recent

if TYPE_CHECKING:
    from geko_proxy.services import Services

log = logging.getLogger("geko.filters.auth")

ANONYMOUS_OPERATIONS = frozenset({"config", "banner"})  # LibreChat's sign-in page asks for them
FLUSH_S = 10.0  # how often it is written when a key was used last


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
        self._api_keys = services.api_keys
        self._recent_keys: Recent[tuple[ApiKey, Identity]] = Recent(services.api_keys, services.members)
        self._flushing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._flushing = asyncio.create_task(self._flush_uses(), name="API keys' last use")

    async def stop(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.gather(self._flushing, return_exceptions=True)
            await self._flush()

    async def on_request(self, exchange: Exchange) -> Reply | None:
        header = exchange.request.headers.get("Authorization", "")
        scheme, _, token = header.partition(" ")
        if token.startswith(PREFIX) and scheme.lower() == "bearer":
            key, exchange.user = await self._from_key(token.strip(), exchange.started_at)
            exchange.api_key = key
            check_key(exchange, key)
        elif token and scheme.lower() == "bearer":
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

    async def _from_key(self, text: str, now: float) -> tuple[ApiKey, Identity]:
        """The key and whom it acts for, with that person's role as it is now."""
        recent = self._recent_keys.get(text)
        if recent is None or recent[1].expires_at <= now:
            stamp = self._recent_keys.stamp()
            recent = await self._look_up_key(text)
            self._recent_keys.put(text, recent, stamp)
        self._api_keys.note_use(recent[0].key_id)
        return recent

    async def _look_up_key(self, text: str) -> tuple[ApiKey, Identity]:
        key = await self._api_keys.verify(text)
        if key is None:
            raise unauthorized("invalid_api_key", "This API key is not valid (any more).")
        role = await self.services.members.role(key.tenant_id, key.workspace_id, key.user_id)
        if role is None:
            raise Refused(403, "not_a_member", "You are no longer a member of this key's workspace.")
        expires_at = math.inf if key.expires_at is None else key.expires_at.timestamp()
        ids = (key.user_id, key.tenant_id, key.workspace_id)
        return key, Identity(*ids, role, session_id=key.key_id, expires_at=expires_at)

    async def _flush_uses(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            await self._flush()

    async def _flush(self) -> None:
        try:
            await self._api_keys.flush_uses()
        except StoreError as error:
            log.warning("the last use of API keys could not be written yet: %s", error)
        except Exception:
            log.exception("the last use of API keys could not be written")

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
