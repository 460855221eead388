"""Whether an e-mail and a password belong together; wrong ones are counted, slowed down and reported."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from geko_proxy.accounts.hashing_pool import FIRST
from geko_proxy.accounts.passwords import hash_password, needs_rehash, verify_password
from geko_proxy.accounts.users import User
from geko_proxy.addresses import network_of
from geko_proxy.client_api.devices import Devices
from geko_proxy.client_api.login_limits import LoginLimits, TooManyAttempts, account_of
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange

if TYPE_CHECKING:
    from geko_proxy.services import Services

log = logging.getLogger("geko.sign_in")


class PasswordCheck:
    """The only place where somebody unknown can try a password."""

    def __init__(self, services: Services, limits: LoginLimits) -> None:
        self._services = services
        self._limits = limits
        self.devices = Devices(services.settings)

    async def user_of(self, exchange: Exchange, email: str, password: str) -> tuple[User, str] | None:
        """Whose e-mail and password these are, and the stored hash; counts, slows down and reports wrong ones.

        Raises Refused 429, 503.
        """
        ip, device = exchange.request.client_ip, self.devices.read(exchange, email)
        try:
            attempts = await self._limits.begin(ip, email, device)
        except TooManyAttempts as slowed:
            self._report(exchange, email, slowed)
            raise
        found = await self._services.users.find_login(email)
        user, stored = found if found is not None else (None, None)
        # in a flood of guesses, who comes from elsewhere and has not tried yet goes first
        right = await verify_password(password, stored, rank=FIRST if device is not None else attempts)
        if not right or user is None or stored is None:
            log.info(
                "%s: a sign-in failed, account %s from %s", exchange.id, account_of(email), network_of(ip)
            )
            return None
        await self._limits.succeeded(ip, email, device)
        if needs_rehash(stored):
            stored = await self._rehash(user, password, stored)
        return user, stored

    async def _rehash(self, user: User, password: str, stored: str) -> str:
        """The hash with today's parameters, now stored; the old one while too many are waiting."""
        try:
            new = await hash_password(password, rank=FIRST)
        except Refused:
            return stored
        await self._services.users.replace_hash(user.tenant_id, user.user_id, stored, new)
        return new

    def _report(self, exchange: Exchange, email: str, slowed: TooManyAttempts) -> None:
        """Log every attempt that is slowed down; the first of a burst also goes into the audit log."""
        place = account_of(email), network_of(exchange.request.client_ip), slowed.rule, slowed.retry_after_s
        level = logging.WARNING if slowed.begins else logging.INFO
        log.log(level, "%s: slowed a sign-in, account %s from %s: rule %s, %d s", exchange.id, *place)
        if slowed.begins:
            # not before the reply: looking for the account would take time that tells whether it exists
            rule = slowed.rule
            self._services.background.submit("audit", lambda: self._audit_slowed(exchange, email, rule))

    async def _audit_slowed(self, exchange: Exchange, email: str, rule: str) -> None:
        found = await self._services.users.find_login(email)
        if found is not None:
            user = found[0]
            async with self._services.database.tenant(user.tenant_id) as scope:
                await self._services.audit.record(
                    scope,
                    actor_user_id=None,
                    action="login.slowed",
                    target=f"user/{user.user_id}",
                    ip=exchange.request.client_ip,
                    request_id=exchange.id,
                    details={"rule": rule},
                )
