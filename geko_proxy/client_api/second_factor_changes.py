"""Switching the second factor on and off and renewing its recovery codes; in no particular shape."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final
from uuid import UUID

from geko_proxy.accounts.second_factor import Enrolment, Verdict
from geko_proxy.accounts.users import User
from geko_proxy.client_api.login_limits import TooManyAttempts
from geko_proxy.client_api.password_changes import notify
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange
from geko_proxy.mail import link_base
from geko_proxy.storage.database import Scope

if TYPE_CHECKING:
    from geko_proxy.services import Services

log = logging.getLogger("geko.second_factor")

SUBJECT: Final = "Your sign-in was changed"
TEXT: Final = """Hello {name},

{what} for {email}.

If it was not you, set a new password at once: {link}
"""


class SecondFactorChanges:
    """Each is written into the audit log and told to the owner by mail. The caller is the exchange's user."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._factors = services.second_factors

    async def enrol(
        self,
        exchange: Exchange,
        *,
        with_codes: bool,
        code: str | None = None,
        recovery_code: str | None = None,
    ) -> Enrolment:
        """A key to be confirmed. One in force is replaced only with one of its codes.

        Raises Refused: 400 "code_required", 403 "wrong_code", 429.
        """
        user = await self._user(exchange)
        async with self._services.database.tenant(user.tenant_id) as scope:
            verdict, made = Verdict(passed=True), None
            if await self._factors.is_on(scope, user.user_id):
                _require_any(code, recovery_code)
                verdict = await self._factors.check(scope, user.user_id, code, recovery_code)
            if verdict.passed:
                made = await self._factors.enrol(scope, user.user_id, user.email, with_codes=with_codes)
        _require(verdict)
        assert made is not None
        return made

    async def check_pending(self, exchange: Exchange, code: str) -> None:
        """Check a code of the key to be confirmed. Raises Refused: 400 "not_begun", 403 "wrong_code", 429."""
        user_id, tenant_id = self._ids(exchange)
        async with self._services.database.tenant(tenant_id) as scope:
            verdict = await self._factors.check_pending(scope, user_id, code)
        if verdict is None:
            raise not_begun()
        _require(verdict)

    async def check(self, exchange: Exchange, code: str | None, recovery_code: str | None) -> None:
        """Check and use up a code of the key in force. Raises Refused: 400 "code_required", 403 "wrong_code", 429."""
        user_id, tenant_id = self._ids(exchange)
        _require_any(code, recovery_code)
        async with self._services.database.tenant(tenant_id) as scope:
            verdict = await self._factors.check(scope, user_id, code, recovery_code)
        _require(verdict)

    async def confirm(self, exchange: Exchange, code: str) -> tuple[str, ...]:
        """Put the key into force, end all other sessions; recovery codes unless `enrol` gave them.

        Raises Refused: 400 "not_begun", 403 "wrong_code", 429.
        """
        user = await self._user(exchange)
        async with self._services.database.tenant(user.tenant_id) as scope:
            found = await self._factors.confirm(scope, user.user_id, code)
            if found is not None and found[0].passed:
                await self._audit(scope, exchange, user.user_id, "totp.enable")
        if found is None:
            raise not_begun()
        _require(found[0])
        keep = exchange.signed_in().session_id
        await self._services.sessions.revoke_others(user.tenant_id, user.user_id, keep)
        await self._notify(user, "One-time codes were switched on")
        return found[1]

    async def disable(self, exchange: Exchange, code: str | None, recovery_code: str | None) -> None:
        """Switch it off. Raises Refused: 400 "not_enabled" or "code_required", 403 "wrong_code", 429."""
        user = await self._user(exchange)
        async with self._services.database.tenant(user.tenant_id) as scope:
            verdict = await self._checked(scope, user, code, recovery_code)
            if verdict.passed:
                await self._factors.remove(scope, user.user_id)
                await self._audit(scope, exchange, user.user_id, "totp.disable")
        _require(verdict)
        await self._notify(user, "One-time codes were switched off")

    async def renew_codes(
        self, exchange: Exchange, code: str | None, recovery_code: str | None
    ) -> tuple[str, ...]:
        """New recovery codes. Raises Refused: 400 "not_enabled" or "code_required", 403 "wrong_code", 429."""
        user = await self._user(exchange)
        codes: tuple[str, ...] = ()
        async with self._services.database.tenant(user.tenant_id) as scope:
            verdict = await self._checked(scope, user, code, recovery_code)
            if verdict.passed:
                codes = await self._factors.renew_codes(scope, user.user_id)
                await self._audit(scope, exchange, user.user_id, "totp.recovery_codes")
        _require(verdict)
        await self._notify(user, "New recovery codes were made")
        return codes

    async def codes_left(self, exchange: Exchange) -> int | None:
        """How many recovery codes are left; None without a second factor."""
        user_id, tenant_id = self._ids(exchange)
        async with self._services.database.tenant(tenant_id) as scope:
            if not await self._factors.is_on(scope, user_id):
                return None
            return await self._factors.codes_left(scope, user_id)

    async def _checked(
        self, scope: Scope, user: User, code: str | None, recovery_code: str | None
    ) -> Verdict:
        if not await self._factors.is_on(scope, user.user_id):
            raise Refused(400, "not_enabled", "2FA is not setup for this user")
        _require_any(code, recovery_code)
        return await self._factors.check(scope, user.user_id, code, recovery_code)

    async def _user(self, exchange: Exchange) -> User:
        user_id, tenant_id = self._ids(exchange)
        user = await self._services.users.get(tenant_id, user_id)
        if user is None or user.disabled_at is not None:
            raise Refused(401, "not_signed_in", "This account can't be used any more.")
        return user

    def _ids(self, exchange: Exchange) -> tuple[UUID, UUID]:
        identity = exchange.signed_in()
        return identity.user_id, identity.tenant_id

    async def _audit(self, scope: Scope, exchange: Exchange, user_id: UUID, action: str) -> None:
        await self._services.audit.record(
            scope,
            actor_user_id=user_id,
            action=action,
            target=f"user/{user_id}",
            ip=exchange.request.client_ip,
            request_id=exchange.id,
            details={},
        )

    async def _notify(self, user: User, what: str) -> None:
        link = f"{link_base(self._services.settings)}/forgot-password"
        values = {"name": user.name, "email": user.email, "what": what, "link": link}
        await notify(self._services, user.email, SUBJECT, TEXT, values)


def _require_any(code: str | None, recovery_code: str | None) -> None:
    if not code and not recovery_code:
        raise Refused(400, "code_required", "Either token or backup code is required")


def _require(verdict: Verdict) -> None:
    """Raise Refused unless a code was right."""
    if verdict.wait_s:
        raise TooManyAttempts("wrong codes", verdict.wait_s, "code", begins=False)
    if not verdict.passed:
        raise Refused(403, "wrong_code", "The code is wrong or was used already.")


def not_begun() -> Refused:
    """There is no key to confirm, or it is too old."""
    return Refused(400, "not_begun", "2FA not initiated")
