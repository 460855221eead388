"""LibreChat's own sign-in routes under /api/auth, answered by GEKO in the shapes that LibreChat's page expects."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from cachetools import TTLCache

from geko_proxy.accounts.login_tickets import LIFE
from geko_proxy.accounts.registration import EmailTaken, InvalidRegistration
from geko_proxy.client_api import librechat_shapes as shapes
from geko_proxy.client_api.cookies import RefreshCookies
from geko_proxy.client_api.sign_in import CodeWanted, SignedIn, SignIns
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply

if TYPE_CHECKING:
    from uuid import UUID

    from geko_proxy.services import Services

ACCOUNT_TTL_S: Final = 30
CODE_COOKIE: Final = "geko_2fa"
CODE_LIFE_S: Final = int(LIFE.total_seconds())
REGISTER_GRID_S: Final = 0.25  # replies leave at multiples of it: a used e-mail can't be told by the time
BAD_JSON: Final = {"error": "Invalid JSON format", "message": "The request body contains malformed JSON"}


class LibreChatAuth:
    """The endpoints of /api/auth, and two small ones that LibreChat's client asks right after."""

    def __init__(self, services: Services, sign_ins: SignIns) -> None:
        self._services = services
        self._sign_ins = sign_ins
        self._cookies = RefreshCookies(services.settings.server)
        self._accounts: TTLCache[tuple[UUID, UUID], dict[str, Any]] = TTLCache(10_000, ACCOUNT_TTL_S)

    async def login(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with token and user; 404 for bad input and wrong credentials alike (contract §2.1)."""
        body = await read_json(exchange)
        problem = shapes.login_problem(body)
        if problem is not None:
            raise Refused(404, "invalid_request", problem)
        nonce = secrets.token_urlsafe(24)
        signed_in = await self._sign_ins.by_password(
            exchange, body["email"], body["password"], bound_to=f"cookie {nonce}"
        )
        if signed_in is None:
            raise Refused(404, "wrong_credentials", shapes.WRONG_LOGIN)
        if isinstance(signed_in, CodeWanted):
            # the page puts the ticket into its address, where others may see it: the cookie is the other half
            reply = Reply.of_json(200, {"twoFAPending": True, "tempToken": signed_in.ticket})
            self._cookies.add(exchange, reply, CODE_COOKIE, nonce, f"Max-Age={CODE_LIFE_S}")
            return reply
        return await self._enter(exchange, signed_in)

    async def verify_code(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with token and user, as after a login; 401 for a wrong code or a sign-in that has expired."""
        body = await read_json(exchange)
        ticket, code, backup = (body.get(name) for name in ("tempToken", "token", "backupCode"))
        if not isinstance(ticket, str) or not ticket:
            raise Refused(400, "invalid_request", "Missing temporary token")
        if not all(each is None or isinstance(each, str) for each in (code, backup)):
            raise Refused(401, "wrong_code", shapes.WRONG_CODE)
        nonce = exchange.request.cookies.get(CODE_COOKIE, "")
        signed_in = await self._sign_ins.by_code(
            exchange, ticket, code or None, None if code else backup, bound_to=f"cookie {nonce}"
        )
        if signed_in is None:
            raise Refused(401, "wrong_code", shapes.WRONG_CODE)
        reply = await self._enter(exchange, signed_in)
        self._cookies.add(exchange, reply, CODE_COOKIE, "", "Max-Age=0")
        return reply

    async def register(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 and the same text for a new and a used e-mail; 404 for bad input, 403 when registration is off."""
        body = await read_json(exchange)
        problem = shapes.register_problem(body, self._services.settings.auth.password_min_length)
        if problem is not None:
            raise Refused(404, "invalid_request", problem)
        started_at = time.monotonic()
        try:
            await self._sign_ins.register(
                exchange,
                email=body["email"],
                password=body["password"],
                name=body["name"],
                username=body.get("username"),
            )
        except InvalidRegistration as error:
            problems = (f"{field}: {text}" for field, texts in error.problems.items() for text in texts)
            raise Refused(404, "invalid_request", " ".join(problems)) from None
        except EmailTaken:
            pass  # whoever owns the address knows; nobody else is to learn it
        await asyncio.sleep(REGISTER_GRID_S - (time.monotonic() - started_at) % REGISTER_GRID_S)
        return Reply.of_json(200, {"message": shapes.REGISTERED})

    async def refresh(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with token and user, or 200 with a plain text when the session is over: never 401 or 403, on which
        LibreChat's client would not go to its login page (contract §2.4).
        """
        token = self._cookies.read(exchange, request)
        if token is None:
            return session_over()
        session = await self._services.sessions.find(token)
        account: dict[str, Any] = {}
        if session is not None:
            # before the rotation: had LibreChat failed after it, the browser would be left with a used token
            account = await self._account(session.tenant_id, session.workspace_id, session.user_id)
        signed_in = await self._sign_ins.renew(exchange, token)
        if signed_in is None or not account:
            reply = session_over()
            self._cookies.clear(exchange, reply)
            return reply
        return self._signed_in(exchange, signed_in, account)

    async def logout(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 always: the cookie's session ends even when the bearer has expired, and the bearer's without a cookie."""
        await self._sign_ins.end(exchange, self._cookies.read(exchange, request))
        reply = Reply.of_json(200, {"message": shapes.LOGGED_OUT})
        self._cookies.clear(exchange, reply)
        return reply

    async def keys(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200: nobody has provider keys of his own here."""
        return Reply.of_json(200, {"expiresAt": None})

    async def _enter(self, exchange: Exchange, signed_in: SignedIn) -> Reply:
        user = signed_in.user
        account = await self._account(user.tenant_id, signed_in.workspace.workspace_id, user.user_id)
        reply = self._signed_in(exchange, signed_in, account)
        self._sign_ins.remember_device(exchange, reply, user.email)
        return reply

    def _signed_in(self, exchange: Exchange, signed_in: SignedIn, account: dict[str, Any]) -> Reply:
        user = shapes.user_object(account, signed_in.user)
        reply = Reply.of_json(200, {"token": signed_in.access_token, "user": user})
        self._cookies.set(exchange, reply, signed_in.refresh_token, signed_in.refresh_expires_at)
        return reply

    async def _account(self, tenant_id: UUID, workspace_id: UUID, user_id: UUID) -> dict[str, Any]:
        """LibreChat's user object of the shadow account. Raises UpstreamError."""
        key = (workspace_id, user_id)
        account = self._accounts.get(key)
        if account is None:
            shadow = await self._services.shadows.get(tenant_id, workspace_id, user_id)
            bearer = await self._services.shadows.bearer(shadow)
            account = self._accounts[key] = await self._services.client.user(bearer)
        return account


async def read_json(exchange: Exchange) -> dict[str, Any]:
    """The body of a LibreChat route. Raises Refused with LibreChat's own words for what is no JSON object."""
    try:
        return await exchange.request.json()
    except Refused as refused:
        if refused.status != 400:
            raise
        raise Refused(400, refused.code, BAD_JSON["message"], librechat=BAD_JSON) from None


def session_over() -> Reply:
    """What LibreChat says to a browser without a session (recording 17)."""
    reply = Reply.of_text(200, shapes.NO_SESSION)
    reply.headers["Content-Type"] = "text/html; charset=utf-8"
    reply.headers["Cache-Control"] = "no-store"
    return reply
