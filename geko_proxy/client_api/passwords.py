"""/v1/auth/password: change it, ask for a link, set a new one; and LibreChat's two routes for the links."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from aiohttp import web
from msgspec import Meta

from geko_proxy.client_api import librechat_shapes as shapes
from geko_proxy.client_api.librechat_auth import read_json
from geko_proxy.client_api.password_changes import InvalidPassword, PasswordChanges
from geko_proxy.client_api.sign_in import SignIns
from geko_proxy.client_api.validation import Body, invalid, parse
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply

if TYPE_CHECKING:
    from geko_proxy.services import Services

Short = Annotated[str, Meta(min_length=1, max_length=1024)]

# LibreChat's words (services/AuthService.js)
LINK_SENT: Final = "If an account with that email exists, a password reset link has been sent to it."
RESET_DONE: Final = "Password reset was successful"


class PasswordChangeBody(Body, frozen=True):
    """POST /v1/auth/password."""

    current_password: Short
    new_password: Short


class ForgotBody(Body, frozen=True):
    """POST /v1/auth/password/forgot."""

    email: Short


class ResetBody(Body, frozen=True):
    """POST /v1/auth/password/reset."""

    token: Short
    new_password: Short


class Passwords:
    """The endpoints."""

    def __init__(self, services: Services, sign_ins: SignIns, changes: PasswordChanges) -> None:
        self._services = services
        self._sign_ins = sign_ins
        self._changes = changes

    async def change(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """204; all other sessions of the caller are over. 403 for a wrong present password."""
        body = parse(PasswordChangeBody, await exchange.request.json())
        try:
            await self._changes.change(exchange, body.current_password, body.new_password)
        except InvalidPassword as error:
            raise invalid({"newPassword": str(error)}) from None
        return Reply(204)

    async def forgot(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """202 whether or not the address is known."""
        body = parse(ForgotBody, await exchange.request.json())
        if shapes.email_problems({"email": body.email}):
            raise invalid({"email": "Not a valid e-mail address."})
        await self._changes.request_reset(exchange, body.email)
        return Reply.of_json(202, {"message": LINK_SENT})

    async def reset(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """204; all sessions are over, and nobody is signed in. 400 for a link that is used or too old."""
        body = parse(ResetBody, await exchange.request.json())
        try:
            user = await self._changes.reset(exchange, body.token, body.new_password)
        except InvalidPassword as error:
            raise invalid({"newPassword": str(error)}) from None
        reply = Reply(204)
        self._sign_ins.remember_device(exchange, reply, user.email)  # the mail has shown who this is
        return reply

    async def librechat_forgot(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """POST /api/auth/requestPasswordReset {email}: 200 always."""
        body = await read_json(exchange)
        if not self._changes.can_reset or shapes.email_problems(body):
            # as LibreChat says it; its page shows the same text for every answer
            text = "Invalid email" if self._changes.can_reset else "Password reset is not allowed."
            raise Refused(400 if self._changes.can_reset else 403, "invalid_request", text)
        await self._changes.request_reset(exchange, body["email"])
        return Reply.of_json(200, {"message": LINK_SENT})

    async def librechat_reset(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """POST /api/auth/resetPassword {userId, token, password, confirm_password?}: 200, or 400 with a message."""
        body = await read_json(exchange)
        texts = {name: body.get(name) for name in ("userId", "token", "password")}
        user_id, token, password = (each if isinstance(each, str) else "" for each in texts.values())
        if not user_id or not token:
            raise Refused(400, "invalid_token", "Invalid or expired password reset token")
        if "confirm_password" in body and body["confirm_password"] != password:
            raise Refused(400, "invalid_request", shapes.MISMATCH.removeprefix(": "))
        try:
            user = await self._changes.reset(exchange, token, password, user_id)
        except InvalidPassword as error:
            raise Refused(400, "invalid_request", f"password: {error}") from None
        reply = Reply.of_json(200, {"message": RESET_DONE})
        self._sign_ins.remember_device(exchange, reply, user.email)
        return reply
