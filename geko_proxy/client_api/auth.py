"""/v1/auth: register, log in, refresh, log out, and who am I."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from aiohttp import web
from msgspec import Meta

from geko_proxy.accounts.login_tickets import LIFE
from geko_proxy.accounts.registration import EmailTaken, InvalidRegistration
from geko_proxy.client_api.cookies import RefreshCookies
from geko_proxy.client_api.pages import SWITCH_PAGE, page_reply
from geko_proxy.client_api.sign_in import CodeWanted, SignedIn, SignIns
from geko_proxy.client_api.validation import Body, invalid, parse
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply

if TYPE_CHECKING:
    from geko_proxy.services import Services

Short = Annotated[str, Meta(min_length=1, max_length=1024)]


TICKET_LIFE_S = int(LIFE.total_seconds())


class RegisterBody(Body, frozen=True):
    """POST /v1/auth/register. Lengths and forms are checked by `Registration`."""

    email: Short
    password: Short
    name: Short
    tenant_name: Short | None = None


class LoginBody(Body, frozen=True):
    """POST /v1/auth/login. workspaceId: the workspace to enter, the oldest one when left out."""

    email: Short
    password: Short
    workspace_id: UUID | None = None


class CodeBody(Body, frozen=True):
    """POST /v1/auth/login/totp: the ticket of the login, and one of the codes."""

    ticket: Short
    code: Short | None = None
    recovery_code: Short | None = None


class RefreshBody(Body, frozen=True):
    """POST /v1/auth/refresh. Left out: the cookie is used."""

    refresh_token: Short | None = None


class SwitchBody(Body, frozen=True):
    """POST /v1/auth/switch."""

    workspace_id: UUID


class Auth:
    """The endpoints of /v1/auth."""

    def __init__(self, services: Services, sign_ins: SignIns) -> None:
        self._services = services
        self._sign_ins = sign_ins
        self._cookies = RefreshCookies(services.settings.server)

    async def register(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """201 and the tokens of the new tenant's owner."""
        body = parse(RegisterBody, await exchange.request.json())
        try:
            registered = await self._sign_ins.register(
                exchange,
                email=body.email,
                password=body.password,
                name=body.name,
                tenant_name=body.tenant_name,
            )
        except InvalidRegistration as error:
            raise invalid({field: " ".join(texts) for field, texts in error.problems.items()}) from None
        except EmailTaken:
            raise Refused(409, "email_taken", "This e-mail address is in use.") from None
        return self._reply(exchange, 201, await self._sign_ins.enter(exchange, registered))

    async def login(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 and tokens, or a ticket to go on with a one-time code; 401 for a wrong e-mail or password, not saying
        which.
        """
        body = parse(LoginBody, await exchange.request.json())
        signed_in = await self._sign_ins.by_password(exchange, body.email, body.password, body.workspace_id)
        if signed_in is None:
            raise Refused(401, "wrong_credentials", "The e-mail address or the password is wrong.")
        if isinstance(signed_in, CodeWanted):
            value = {"twoFactorRequired": True, "ticket": signed_in.ticket, "expiresIn": TICKET_LIFE_S}
            return Reply.of_json(200, value, {"Cache-Control": "no-store"})
        reply = self._reply(exchange, 200, signed_in)
        self._sign_ins.remember_device(exchange, reply, signed_in.user.email)
        return reply

    async def login_totp(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 and tokens; 401 for a wrong code or a ticket that is over."""
        body = parse(CodeBody, await exchange.request.json())
        if (body.code is None) == (body.recovery_code is None):
            raise invalid({"code": "Send either code or recoveryCode."})
        signed_in = await self._sign_ins.by_code(exchange, body.ticket, body.code, body.recovery_code)
        if signed_in is None:
            raise Refused(401, "wrong_code", "The code is wrong or was used already.")
        reply = self._reply(exchange, 200, signed_in)
        self._sign_ins.remember_device(exchange, reply, signed_in.user.email)
        return reply

    async def refresh(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 and new tokens; 401 when the session is over.

        A browser that comes with its cookie gets the new one as a cookie only: a script in the page can't read it.
        """
        given = (await self._refresh_body(exchange)).refresh_token
        cookie = None if given else self._cookies.read(exchange, request)
        token = given or cookie
        if token is None:
            raise Refused(401, "not_signed_in", "Send the refresh token in the body or as a cookie.")
        signed_in = await self._sign_ins.renew(exchange, token)
        if signed_in is None:
            raise Refused(401, "session_over", "The session is over. Sign in again.")
        reply = Reply.of_json(200, tokens_shape(signed_in, with_refresh_token=cookie is None))
        reply.headers["Cache-Control"] = "no-store"
        if cookie is not None:
            self._set_cookie(exchange, reply, signed_in)
        return reply

    async def logout(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """204; ends the session of the refresh token in body or cookie, and of the bearer. Always succeeds."""
        given = (await self._refresh_body(exchange)).refresh_token
        await self._sign_ins.end(exchange, given or self._cookies.read(exchange, request))
        reply = Reply(204)
        self._cookies.clear(exchange, reply)
        return reply

    async def switch(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 and an access token for another workspace of the caller; the session goes on there.

        LibreChat's page keeps drafts and the last model per origin, not per person (contract §9): the browser is told
        to drop them. Cookies are not storage in this sense (Clear-Site-Data §3.2), so the session stays.
        """
        body = parse(SwitchBody, await exchange.request.json())
        signed_in = await self._sign_ins.switch(exchange, body.workspace_id)
        reply = Reply.of_json(200, tokens_shape(signed_in, with_refresh_token=False))
        reply.headers["Cache-Control"] = "no-store"
        reply.headers["Clear-Site-Data"] = '"storage"'
        return reply

    async def switch_page(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """A page on which a browser chooses another workspace. It changes nothing by being opened."""
        return page_reply(SWITCH_PAGE)

    async def me(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200: the caller, the tenant, the workspace of the token and the role in it (null: no longer a member)."""
        identity = exchange.signed_in()
        user = await self._services.users.get(identity.tenant_id, identity.user_id)
        tenant, workspace = exchange.tenant, exchange.workspace
        if user is None or tenant is None:
            raise Refused(401, "not_signed_in", "This account can't be used any more.")
        value = {
            "user": {"id": user.user_id, "email": user.email, "name": user.name},
            "tenant": {"id": tenant.tenant_id, "name": tenant.name},
            "workspace": {"id": workspace.workspace_id, "name": workspace.name} if workspace else None,
            "role": exchange.role,
        }
        return Reply.of_json(200, value)

    async def _refresh_body(self, exchange: Exchange) -> RefreshBody:
        if not await exchange.request.read():
            return RefreshBody()
        return parse(RefreshBody, await exchange.request.json())

    def _reply(self, exchange: Exchange, status: int, signed_in: SignedIn) -> Reply:
        reply = Reply.of_json(status, tokens_shape(signed_in, with_refresh_token=True))
        self._set_cookie(exchange, reply, signed_in)
        return reply

    def _set_cookie(self, exchange: Exchange, reply: Reply, signed_in: SignedIn) -> None:
        self._cookies.set(exchange, reply, signed_in.refresh_token, signed_in.refresh_expires_at)


def tokens_shape(
    signed_in: SignedIn, *, with_refresh_token: bool, now: datetime | None = None
) -> dict[str, Any]:
    """The JSON of a sign-in. Times to live in seconds."""
    left = signed_in.refresh_expires_at - (now or datetime.now(UTC))
    shape: dict[str, Any] = {
        "accessToken": signed_in.access_token,
        "tokenType": "Bearer",
        "expiresIn": signed_in.access_ttl_s,
        "refreshExpiresIn": max(0, int(left.total_seconds())),
        "user": {
            "id": signed_in.user.user_id,
            "email": signed_in.user.email,
            "name": signed_in.user.name,
        },
        "tenant": {"id": signed_in.tenant.tenant_id, "name": signed_in.tenant.name},
        "workspace": {"id": signed_in.workspace.workspace_id, "name": signed_in.workspace.name},
        "role": signed_in.role,
    }
    if with_refresh_token:
        shape["refreshToken"] = signed_in.refresh_token
    return shape
