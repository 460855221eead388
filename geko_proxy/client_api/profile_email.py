"""/v1/auth/profile/email: another e-mail address, which counts only after a link sent to it was opened."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import parse_qs, urlencode

from aiohttp import web
from msgspec import Meta

from geko_proxy.accounts.email_changes import Confirmed, DeadLink, EmailChanges
from geko_proxy.accounts.emails import normalise_email
from geko_proxy.accounts.joining import Origin
from geko_proxy.accounts.registration import EmailTaken
from geko_proxy.accounts.users import User
from geko_proxy.client_api import email_pages
from geko_proxy.client_api.login_limits import LoginLimits
from geko_proxy.client_api.own_audit import record_own
from geko_proxy.client_api.password_changes import PasswordChanges
from geko_proxy.client_api.profile import active_user
from geko_proxy.client_api.proofs import Proofs
from geko_proxy.client_api.validation import Body, invalid, parse
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.mail import Mailer, MailError, link_base

if TYPE_CHECKING:
    from geko_proxy.services import Services
    from geko_proxy.storage.database import Scope

log = logging.getLogger("geko.profile")

CONFIRM: Final = "/v1/auth/profile/email/confirm"
FORM: Final = "application/x-www-form-urlencoded"
MAX_SHOWN_TOKEN: Final = 200

Short = Annotated[str, Meta(min_length=1, max_length=1024)]


class EmailBody(Body, frozen=True):
    """POST /v1/auth/profile/email. password: needed by an account that has one."""

    email: Short
    password: Short | None = None


class VerifyEmailBody(Body, frozen=True):
    """POST /v1/auth/profile/email/verify. Nothing need be said."""


class ConfirmEmailBody(Body, frozen=True):
    """POST /v1/auth/profile/email/confirm."""

    token: Short


class ProfileEmail:
    """The endpoints."""

    def __init__(self, services: Services, passwords: PasswordChanges, limits: LoginLimits) -> None:
        self._services = services
        self._proofs = Proofs(services, passwords)
        self._changes = EmailChanges(services.database, services.one_time_tokens)
        self._limits = limits

    async def change(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """202: a link is on its way to the new address, a notice to the old one.

        The same for an address that somebody has already, who is told instead: nobody learns who has an account.
        """
        body = parse(EmailBody, await exchange.request.json())
        mailer = self._mailer()
        user = await active_user(self._services, exchange)
        email = normalise_email(body.email)
        if email is None:
            raise invalid({"email": "Not a valid e-mail address."})
        if email == user.email:
            raise invalid({"email": "This is your address already."})
        await self._proofs.by_password(exchange, user, body.password)
        await self._limits.begin_mail(user.user_id)
        if await self._changes.is_free(email):
            token = await self._changes.issue(user, email)
            await self._send(mailer, email, "Confirm your new e-mail address", self._link_text(token))
        else:
            await self._send(mailer, email, "Your e-mail address", IN_USE)
        await self._send(mailer, user.email, "Your e-mail address is about to change", about_to_change(email))
        await self._record(exchange, user, "profile.email.request", {"email": email})
        return accepted()

    async def verify(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """202: a link is on its way to the caller's present address; 409 when it is verified already."""
        if await exchange.request.read():
            parse(VerifyEmailBody, await exchange.request.json())
        mailer = self._mailer()
        user = await active_user(self._services, exchange)
        if user.email_verified_at is not None:
            raise Refused(409, "already_verified", "Your e-mail address is confirmed already.")
        await self._limits.begin_mail(user.user_id)
        token = await self._changes.issue(user, user.email)
        await self._send(mailer, user.email, "Confirm your e-mail address", self._link_text(token))
        return accepted()

    async def ask(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """The page that a link leads to. It changes nothing."""
        token = form_token(exchange.request.query.encode())
        return email_pages.question(CONFIRM, token[:MAX_SHOWN_TOKEN])

    async def confirm(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200: the address counts from now on. Needs no sign-in: links are opened wherever the mail is read.

        The page's form gets a page, JSON gets JSON. 400 for a link that is over, 409 for an address taken meanwhile.
        """
        kind = exchange.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != FORM:
            confirmed = await self._confirm(
                exchange, parse(ConfirmEmailBody, await exchange.request.json()).token
            )
            value = {"email": confirmed.user.email, "emailVerified": True}
            return Reply.of_json(200, value, {"Cache-Control": "no-store"})
        try:
            confirmed = await self._confirm(exchange, form_token(await exchange.request.read()))
        except Refused as refused:
            return email_pages.notice(refused.status, "That did not work", refused.message)
        text = f"{confirmed.user.email} is your e-mail address now."
        return email_pages.notice(200, "Your address is confirmed", text)

    async def _confirm(self, exchange: Exchange, token: str) -> Confirmed:
        async def record(scope: Scope, confirmed: Confirmed) -> None:
            action = "profile.email.verify" if confirmed.former is None else "profile.email.change"
            details = {"email": confirmed.user.email, "former": confirmed.former}
            await record_own(self._services, exchange, scope, confirmed.user.user_id, action, details)

        try:
            confirmed = await self._changes.confirm(token, record)
        except DeadLink:
            text = "This link was used already or is no longer valid. Ask for a new one."
            raise Refused(400, "link_over", text) from None
        except EmailTaken:
            raise Refused(409, "email_taken", "This e-mail address is in use.") from None
        user = confirmed.user
        origin = Origin(exchange.request.client_ip, exchange.id)
        await self._services.joining.after_verification(user.tenant_id, user.user_id, origin)
        await self._tell_former(confirmed)
        return confirmed

    async def _tell_former(self, confirmed: Confirmed) -> None:
        mailer = self._services.mailer
        if confirmed.former is None or mailer is None:
            return
        try:
            text = has_changed(confirmed.user.email)
            await mailer.send(confirmed.former, "Your e-mail address has changed", text)
        except MailError as error:  # the change is made
            log.warning("a mail was not sent: %s", error)

    def _mailer(self) -> Mailer:
        if self._services.mailer is None:
            text = (
                "GEKO can't send mail here, so an e-mail address can't be confirmed. Ask the administrator."
            )
            raise Refused(503, "mail_off", text)
        return self._services.mailer

    def _link_text(self, token: str) -> str:
        link = f"{link_base(self._services.settings)}{CONFIRM}?{urlencode({'token': token})}"
        return (
            "Please open this link within 24 hours to confirm that this address is yours:\n\n"
            f"{link}\n\nIf you have not asked for it, do nothing.\n"
        )

    async def _send(self, mailer: Mailer, to: str, subject: str, text: str) -> None:
        try:
            await mailer.send(to, subject, text)
        except MailError as error:
            log.warning("a mail was not sent: %s", error)
            text = "The mail could not be sent. Please try again later."
            raise Refused(503, "mail_failed", text, retry_after_s=60) from None

    async def _record(self, exchange: Exchange, user: User, action: str, details: dict[str, str]) -> None:
        async with self._services.database.tenant(user.tenant_id) as scope:
            await record_own(self._services, exchange, scope, user.user_id, action, details)


IN_USE: Final = (
    "Somebody, perhaps you, asked to use this e-mail address for another account. It belongs to an account already, "
    "so nothing was changed.\n"
)


def about_to_change(email: str) -> str:
    """The notice to the present address."""
    return (
        f"Somebody, probably you, asked to change the e-mail address of your account to {email}. It will change when "
        "the link that was sent there is opened.\n\nIf it was not you, change your password now and sign out "
        "everywhere else.\n"
    )


def has_changed(email: str) -> str:
    """The notice to the former address."""
    return f"The e-mail address of your account is {email} now. If you did not change it, tell your administrator.\n"


def accepted() -> Reply:
    """202: a mail is on its way."""
    return Reply.of_json(202, {"message": "Look into your mailbox."}, {"Cache-Control": "no-store"})


def form_token(body: bytes) -> str:
    """The token in an address or in the page's form; empty when there is none, or too much else."""
    try:
        return parse_qs(body.decode("ascii"), max_num_fields=20).get("token", [""])[0]
    except ValueError:
        return ""
