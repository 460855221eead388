"""E-mail addresses that count only after a link sent to them was opened."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg

from geko_proxy.accounts.one_time_tokens import OneTimeTokens, Purpose
from geko_proxy.accounts.registration import EmailTaken
from geko_proxy.accounts.users import User
from geko_proxy.errors import GekoError
from geko_proxy.storage.database import Database, Scope

LINK_TTL_S: Final = 24 * 3600

READ: Final = """
select email, disabled_at from users where tenant_id = $1 and user_id = $2 for update"""
REPLACE_LOGIN: Final = "select replace_login_email($2, $3, $4) where $1::uuid is not null"
SET: Final = """
update users set email = $3, email_verified_at = now() where tenant_id = $1 and user_id = $2 returning *"""
# a link to set a password that went to the former mailbox
END_RESETS: Final = """
delete from one_time_tokens where tenant_id = $1 and user_id = $2 and purpose = $3"""
FIND: Final = "select 1 from find_login_email($1)"


class DeadLink(GekoError):
    """The link is unknown, was used, has expired, or a newer one or another change has replaced it."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """An address that counts from now on. former: the one before, None if only this one was confirmed."""

    user: User
    former: str | None


Record = Callable[[Scope, Confirmed], Awaitable[None]]


class EmailChanges:
    """Issues and redeems the links. Every method raises StoreError when the database is gone."""

    def __init__(self, database: Database, tokens: OneTimeTokens) -> None:
        self._database = database
        self._tokens = tokens

    async def is_free(self, email: str) -> bool:
        """Whether nobody, in whatever tenant, signs in with a (normalised) address."""
        async with self._database.system() as system:
            return await system.fetch_value(FIND, email) is None

    async def issue(self, user: User, email: str) -> str:
        """The secret of a link that makes this (normalised) address the user's; ends the user's former link."""
        data = {"email": email, "former": user.email}
        async with self._database.tenant(user.tenant_id) as scope:
            return await self._tokens.issue(scope, user.user_id, Purpose.VERIFY_EMAIL, data, LINK_TTL_S)

    async def confirm(self, token: str, record: Record) -> Confirmed:
        """The address of the link counts from now on. record: writes the audit entry into the transaction.

        Raises DeadLink; EmailTaken when somebody else has taken the address meanwhile.
        """
        redeemed = await self._tokens.redeem(token, Purpose.VERIFY_EMAIL)
        if redeemed is None:
            raise DeadLink("unknown, used or expired")
        email, former = str(redeemed.data["email"]), str(redeemed.data["former"])
        try:
            async with self._database.tenant(redeemed.tenant_id) as scope:
                confirmed = await self._set(scope, redeemed.user_id, former, email)
                await record(scope, confirmed)
        except asyncpg.UniqueViolationError:
            raise EmailTaken(email) from None
        return confirmed

    async def _set(self, scope: Scope, user_id: UUID, former: str, email: str) -> Confirmed:
        row = await scope.fetch_row(READ, user_id)
        if row is None or row["disabled_at"] is not None or row["email"] != former:
            raise DeadLink("the account has changed")
        if email != former:
            if not await scope.fetch_value(REPLACE_LOGIN, former, email, user_id):
                raise DeadLink("the account has changed")
            await scope.execute(END_RESETS, user_id, Purpose.RESET_PASSWORD.value)
        changed = await scope.fetch_row(SET, user_id, email)
        assert changed is not None
        return Confirmed(User.from_row(changed), former if email != former else None)
