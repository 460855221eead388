"""People's accounts at identity providers: whose they are, and the providers' tokens, sealed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import msgspec

from geko_proxy.accounts.registration import (
    FIRST_WORKSPACE,
    INSERT_TENANT,
    EmailTaken,
    NewUser,
    Registered,
    insert_user,
    inserted,
)
from geko_proxy.accounts.sealing import Sealer
from geko_proxy.errors import GekoError
from geko_proxy.storage.database import Database, Scope
from geko_proxy.workspaces.tenants import Tenant
from geko_proxy.workspaces.workspaces import insert_workspace

INSERT: Final = """
insert into oauth_tokens (tenant_id, user_id, provider, issuer, subject, email, sealed_tokens)
values ($1, $2, $3, $4, $5, $6, $7)"""
CLAIM: Final = "select claim_oauth_subject($2, $3, $4) where $1::uuid is not null"
RELEASE: Final = "select release_oauth_subject($2, $3) where $1::uuid is not null"
FIND: Final = "select tenant_id, user_id from find_oauth_subject($1, $2)"
USE_STATE: Final = "select use_oauth_state($1, $2)"
TOUCH: Final = """
update oauth_tokens set sealed_tokens = $5, email = $6, provider = $7, last_used_at = now()
where tenant_id = $1 and issuer = $2 and subject = $3 and user_id = $4
returning provider"""
LIST: Final = """
select provider, issuer, subject, email, linked_at, last_used_at from oauth_tokens
where tenant_id = $1 and user_id = $2 order by linked_at, provider"""
TOKENS: Final = """
select provider, sealed_tokens from oauth_tokens where tenant_id = $1 and user_id = $2 and provider = $3"""
LOCK_USER: Final = """
select password_hash is not null from users where tenant_id = $1 and user_id = $2 for update"""
DELETE: Final = """
delete from oauth_tokens where tenant_id = $1 and user_id = $2 and provider = $3 returning issuer, subject"""
VERIFIED: Final = """
update users set email_verified_at = coalesce(email_verified_at, now()) where tenant_id = $1 and user_id = $2"""


class AlreadyLinked(GekoError):
    """The provider's account belongs to somebody already, or this person has another one of that provider."""


class LastSignIn(GekoError):
    """Without this link the person could not sign in any more."""


@dataclass(frozen=True, slots=True)
class ProviderAccount:
    """An account at a provider. tokens: what is kept sealed."""

    provider: str
    issuer: str
    subject: str
    email: str
    tokens: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Link:
    """An account at a provider that is linked to somebody's here."""

    provider: str
    issuer: str
    subject: str
    email: str
    linked_at: datetime
    last_used_at: datetime


class OAuthAccounts:
    """SQL for links. Every method raises StoreError when the database is gone."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    async def use_state(self, state: str, expires_at: int) -> bool:
        """Whether a state comes back for the first time, on whatever instance."""
        digest = hashlib.sha256(state.encode()).digest()
        async with self._database.system() as system:
            used = await system.fetch_value(USE_STATE, digest, datetime.fromtimestamp(expires_at, UTC))
        return bool(used)

    async def find(self, issuer: str, subject: str) -> tuple[UUID, UUID] | None:
        """(tenant, user) of a provider's subject."""
        async with self._database.system() as system:
            row = await system.fetch_row(FIND, issuer, subject)
        return None if row is None else (row["tenant_id"], row["user_id"])

    async def touch(self, tenant_id: UUID, user_id: UUID, account: ProviderAccount) -> bool:
        """Keep the newest tokens of a link; False when there is none any more."""
        sealed = self._seal(tenant_id, user_id, account)
        async with self._database.tenant(tenant_id) as scope:
            found = await scope.fetch_value(
                TOUCH, account.issuer, account.subject, user_id, sealed, account.email, account.provider
            )
        return found is not None

    async def register(self, account: ProviderAccount, name: str, token_limit: int | None) -> Registered:
        """Creates a tenant, its owner without a password, a first workspace and the link: all or nothing.

        The provider has verified the e-mail address. Raises EmailTaken when somebody has the address or the subject.
        """
        tenant_id = uuid4()
        try:
            async with self._database.tenant(tenant_id) as scope:
                tenant = Tenant.from_row(await inserted(scope, INSERT_TENANT, name))
                user = await insert_user(scope, NewUser(account.email, name, None, None))
                await scope.execute(VERIFIED, user.user_id)
                workspace = await insert_workspace(scope, FIRST_WORKSPACE, user.user_id, token_limit)
                await self._insert(scope, user.user_id, account)
        except asyncpg.UniqueViolationError as error:
            raise EmailTaken(account.email) from error
        return Registered(user, tenant, workspace)

    async def link(self, scope: Scope, user_id: UUID, account: ProviderAccount) -> None:
        """Add a way to sign in, within the caller's transaction. Raises AlreadyLinked: the transaction is lost."""
        try:
            await self._insert(scope, user_id, account)
        except asyncpg.UniqueViolationError as error:
            raise AlreadyLinked(f"{account.provider} {account.subject}") from error

    async def unlink(self, scope: Scope, user_id: UUID, provider: str) -> Link | None:
        """Take a way to sign in away, within the caller's transaction; None when there is none.

        Raises LastSignIn when nothing else is left: no password and no other link.
        """
        # the lock: two requests at once must not take away the last two
        has_password = await scope.fetch_value(LOCK_USER, user_id)
        links = await self._list(scope, user_id)
        found = next((each for each in links if each.provider == provider), None)
        if found is None:
            return None
        if not has_password and len(links) == 1:
            raise LastSignIn(provider)
        await scope.execute(DELETE, user_id, provider)
        await scope.execute(RELEASE, found.issuer, found.subject)
        return found

    async def prove_mailbox(self, scope: Scope, user_id: UUID) -> dict[str, Any]:
        """The user's address is theirs, as is shown for the first time: links that were made before then end.

        Within the caller's transaction. Returns what ended, for the audit log.
        """
        links = await self._list(scope, user_id)
        for each in links:
            await scope.execute(DELETE, user_id, each.provider)
            await scope.execute(RELEASE, each.issuer, each.subject)
        await scope.execute(VERIFIED, user_id)
        return {"unlinked": [{"issuer": each.issuer, "subject": each.subject} for each in links]}

    async def list_for_user(self, tenant_id: UUID, user_id: UUID) -> list[Link]:
        """Somebody's links, oldest first."""
        async with self._database.tenant(tenant_id) as scope:
            return await self._list(scope, user_id)

    async def tokens(self, tenant_id: UUID, user_id: UUID, provider: str) -> dict[str, Any] | None:
        """The provider's tokens of somebody, opened; None without a link. Raises BrokenSeal."""
        async with self._database.tenant(tenant_id) as scope:
            row = await scope.fetch_row(TOKENS, user_id, provider)
        if row is None:
            return None
        opened = self._sealer.open(row["sealed_tokens"], place(tenant_id, user_id, provider))
        found: dict[str, Any] = msgspec.json.decode(opened)
        return found

    async def _list(self, scope: Scope, user_id: UUID) -> list[Link]:
        return [Link(*row.values()) for row in await scope.fetch(LIST, user_id)]

    async def _insert(self, scope: Scope, user_id: UUID, account: ProviderAccount) -> None:
        sealed = self._seal(scope.tenant_id, user_id, account)
        await scope.execute(CLAIM, account.issuer, account.subject, user_id)
        await scope.execute(
            INSERT, user_id, account.provider, account.issuer, account.subject, account.email, sealed
        )

    def _seal(self, tenant_id: UUID, user_id: UUID, account: ProviderAccount) -> str:
        text = msgspec.json.encode(account.tokens).decode()
        return self._sealer.seal(text, place(tenant_id, user_id, account.provider))


def place(tenant_id: UUID, user_id: UUID, provider: str) -> str:
    """Where sealed tokens belong: copied into another person's row they can't be opened."""
    return f"oauth_tokens/{tenant_id}/{user_id}/{provider}"
