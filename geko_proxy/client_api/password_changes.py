"""Changing a password with the present one, and setting a new one with a link from a mail; in no particular shape."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from geko_proxy.accounts.hashing_pool import FIRST
from geko_proxy.accounts.joining import Origin
from geko_proxy.accounts.login_tickets import close_tickets
from geko_proxy.accounts.one_time_tokens import Purpose
from geko_proxy.accounts.password_policy import password_problems
from geko_proxy.accounts.passwords import hash_password, verify_password
from geko_proxy.accounts.users import SET_PASSWORD, User
from geko_proxy.addresses import network_of
from geko_proxy.client_api.login_limits import LoginLimits, TooManyAttempts
from geko_proxy.client_api.sign_in import SignIns
from geko_proxy.errors import GekoError, Refused
from geko_proxy.exchange import Exchange
from geko_proxy.mail import MailError, link_base

if TYPE_CHECKING:
    from geko_proxy.services import Services

log = logging.getLogger("geko.passwords")

RESET: Final = "password.reset"  # the action in the audit log
RESET_SUBJECT: Final = "Set a new password"
RESET_TEXT: Final = """Hello {name},

somebody, probably you, asked for a new password for {email}. Set it here; the link works once, for
{minutes} minutes:

{link}

If it was not you, do nothing: your password stays as it is.
"""
CHANGED_SUBJECT: Final = "Your password was changed"
CHANGED_TEXT: Final = """Hello {name},

the password of {email} was changed{how}. All other sessions were ended.

If it was not you, set a new password at once: {link}
"""


class InvalidPassword(GekoError):
    """A new password that is not taken. problems: why, for people."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(" ".join(problems))
        self.problems = problems


class PasswordChanges:
    """Each ends sessions, is written into the audit log, and is told to the owner by mail."""

    def __init__(self, services: Services, sign_ins: SignIns, limits: LoginLimits) -> None:
        self._services = services
        self._sign_ins = sign_ins
        self._limits = limits

    @property
    def can_reset(self) -> bool:
        """Whether links can be sent."""
        return self._services.mailer is not None

    async def change(self, exchange: Exchange, current: str, new: str) -> None:
        """Set a new password for the caller and end all other sessions.

        Raises Refused: 401 for a wrong present password, 409 for an account without one, 429; InvalidPassword.
        """
        identity = exchange.signed_in()
        user = await self.check_current(exchange, current)
        self._check(new, user)
        if new == current:
            raise InvalidPassword(["Must differ from the present one."])
        await self._set(exchange, user, new, "password.change", actor=user.user_id, keep=identity.session_id)
        await self._notify(user, "")

    async def check_current(self, exchange: Exchange, password: str) -> User:
        """The caller, who has shown to know the password. Guesses count as in signing in. Raises Refused."""
        identity = exchange.signed_in()
        user = await self._services.users.get(identity.tenant_id, identity.user_id)
        if user is None or user.disabled_at is not None:
            raise Refused(401, "not_signed_in", "This account can't be used any more.")
        stored = await self._services.users.password_hash(user.tenant_id, user.user_id)
        if stored is None:
            text = "This account has no password. Ask for a link to set one."
            raise Refused(409, "no_password", text)
        ip = exchange.request.client_ip
        # per session: a stolen token gives few guesses, and the owner's other devices are not slowed by them
        device = f"session-{identity.session_id.hex}"
        await self._limits.begin(ip, user.email, device)
        if not await verify_password(password, stored, rank=FIRST):
            log.info("%s: the present password was wrong", exchange.id)
            raise Refused(403, "wrong_password", "The present password is wrong.")
        await self._limits.succeeded(ip, user.email, device)
        return user

    async def request_reset(self, exchange: Exchange, email: str) -> None:
        """Have a link sent if somebody has this address; nobody can tell by text or time whether that is so.

        Raises Refused: 403 when there is no mail, 429 for too many from one network.
        """
        if not self.can_reset:
            raise Refused(403, "password_reset_off", "Password reset is not allowed.")
        ip = exchange.request.client_ip
        try:
            wanted = await self._limits.begin_reset(ip, email)
        except TooManyAttempts as slowed:
            level = logging.WARNING if slowed.begins else logging.INFO
            log.log(level, "%s: too many password resets were asked for from %s", exchange.id, network_of(ip))
            raise
        if not wanted:
            log.info("%s: a password reset was not sent: enough were asked for", exchange.id)
            return
        self._services.background.submit("password reset", lambda: self._send_link(exchange, email))

    async def reset(self, exchange: Exchange, token: str, new: str, user_id: str | None = None) -> User:
        """Set a new password with the token of a link, end all sessions. user_id: must be the token's, if given.

        The first time that the mailbox is proven, all other ways in end: who registered with the address may have
        been somebody else, who waits.
        Raises Refused 400 for a token that is used, too old or wrong; InvalidPassword, and the token stays good.
        """
        services = self._services
        found = await services.one_time_tokens.peek(token, Purpose.RESET_PASSWORD)
        if found is None or user_id not in (None, str(found.user_id)):
            raise bad_token()
        user = await services.users.get(found.tenant_id, found.user_id)
        if user is None or user.disabled_at is not None:
            raise bad_token()
        self._check(new, user)
        hashed = await hash_password(new, rank=FIRST)
        if await services.one_time_tokens.redeem(token, Purpose.RESET_PASSWORD) is None:
            raise bad_token()  # somebody was faster with the same link
        await self._set(exchange, user, new, RESET, actor=user.user_id, keep=None, hashed=hashed)
        if user.email_verified_at is None:
            origin = Origin(exchange.request.client_ip, exchange.id)
            await services.joining.after_verification(user.tenant_id, user.user_id, origin)
        await self._notify(user, " with a link from a mail")
        return user

    def _check(self, password: str, user: User) -> None:
        problems = password_problems(
            password,
            min_length=self._services.settings.auth.password_min_length,
            own=(user.name, user.email, user.username),
        )
        if problems:
            raise InvalidPassword(problems)

    async def _set(
        self,
        exchange: Exchange,
        user: User,
        new: str,
        action: str,
        *,
        actor: UUID,
        keep: UUID | None,
        hashed: str | None = None,
    ) -> None:
        services = self._services
        hashed = hashed or await hash_password(new, rank=FIRST)
        async with services.database.tenant(user.tenant_id) as scope:
            await scope.execute(SET_PASSWORD, user.user_id, hashed)
            await close_tickets(scope, user.user_id)
            for (
                purpose
            ) in Purpose:  # also one for another address, which somebody with the old password asked for
                await services.one_time_tokens.end(scope, user.user_id, purpose)
            details: dict[str, Any] = {}
            ended: list[UUID] = []
            if action == RESET and user.email_verified_at is None:
                ended = await services.api_keys.revoke_all(scope, user.user_id)
                details = await services.oauth_accounts.prove_mailbox(scope, user.user_id)
                details["apiKeys"] = ended
            await services.audit.record(
                scope,
                actor_user_id=actor,
                action=action,
                target=f"user/{user.user_id}",
                ip=exchange.request.client_ip,
                request_id=exchange.id,
                details=details,
            )
        for key_id in ended:
            services.api_keys.forget(key_id)
        # after the commit: the old password can open no further ones
        await services.sessions.revoke_others(user.tenant_id, user.user_id, keep)

    async def _send_link(self, exchange: Exchange, email: str) -> None:
        services = self._services
        found = await services.users.find_login(email)
        if found is None or services.mailer is None:
            log.info("%s: a password reset for an unknown address", exchange.id)
            return
        user, life_s = found[0], services.settings.auth.password_reset_ttl_s
        async with services.database.tenant(user.tenant_id) as scope:
            token = await services.one_time_tokens.issue(
                scope, user.user_id, Purpose.RESET_PASSWORD, {}, life_s
            )
            await services.audit.record(
                scope,
                actor_user_id=None,
                action="password.reset_request",
                target=f"user/{user.user_id}",
                ip=exchange.request.client_ip,
                request_id=exchange.id,
                details={},
            )
        # LibreChat's own page (client/src/components/Auth/ResetPassword.tsx)
        link = f"{link_base(services.settings)}/reset-password?token={token}&userId={user.user_id}"
        values = {"name": user.name, "email": user.email, "minutes": life_s // 60, "link": link}
        await services.mailer.send(user.email, RESET_SUBJECT, RESET_TEXT.format_map(values))

    async def _notify(self, user: User, how: str) -> None:
        link = f"{link_base(self._services.settings)}/forgot-password"
        values = {"name": user.name, "email": user.email, "how": how, "link": link}
        await notify(self._services, user.email, CHANGED_SUBJECT, CHANGED_TEXT, values)


async def notify(services: Services, to: str, subject: str, text: str, values: Mapping[str, Any]) -> None:
    """Tell somebody by mail what happened to the account, if there is mail; what happened stays either way."""
    if services.mailer is None:
        return
    try:
        await services.mailer.send(to, subject, text.format_map(values))
    except MailError as error:
        log.warning("a notice was not sent: %s", error)


def bad_token() -> Refused:
    """In LibreChat's words."""
    return Refused(400, "invalid_token", "Invalid or expired password reset token")
