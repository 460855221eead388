"""Asks people to show once more who they are, before a change that a borrowed or stolen session must not make."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from geko_proxy.accounts.session_list import SessionList
from geko_proxy.accounts.users import User
from geko_proxy.client_api.password_changes import PasswordChanges
from geko_proxy.client_api.validation import invalid
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange

if TYPE_CHECKING:
    from geko_proxy.services import Services

RECENT: Final = timedelta(minutes=10)


class Proofs:
    """By the password, or by a sign-in that is less than ten minutes old: renewing a session is none."""

    def __init__(self, services: Services, passwords: PasswordChanges) -> None:
        self._services = services
        self._passwords = passwords
        self._sessions = SessionList(services.database, services.settings.auth.session_max_ttl_s)

    async def by_password(self, exchange: Exchange, user: User, password: str | None) -> None:
        """The password; for those who have none, a recent sign-in. Raises Refused 400, 403, 429."""
        if await self._services.users.password_hash(user.tenant_id, user.user_id) is None:
            await self._require_recent(exchange, user)
        elif password is None:
            raise invalid({"password": "Required."})
        else:
            await self._passwords.check_current(exchange, password)

    async def recent(self, exchange: Exchange, user: User, password: str | None = None) -> None:
        """A recent sign-in, or the password if one is given. Raises Refused 403 "sign_in_again", 409, 429."""
        if password is not None:
            await self._passwords.check_current(exchange, password)
        else:
            await self._require_recent(exchange, user)

    async def _require_recent(self, exchange: Exchange, user: User) -> None:
        age = await self._sessions.age(user.tenant_id, exchange.signed_in().session_id)
        if age is None or age > RECENT:
            text = "Sign in again, then do this within ten minutes."
            raise Refused(403, "sign_in_again", text)
