"""Which LibreChat account stands for a user in a workspace."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID
from weakref import WeakValueDictionary

from geko_proxy.storage.database import Database, Scope

if TYPE_CHECKING:
    from asyncpg import Record

GET: Final = """
select * from shadow_accounts where tenant_id = $1 and workspace_id = $2 and user_id = $3"""

FIND_OWNER: Final = "select * from shadow_accounts where tenant_id = $1 and librechat_user_id = $2"

INSERT: Final = """
insert into shadow_accounts (tenant_id, workspace_id, user_id, librechat_user_id, email)
values ($1, $2, $3, $4, $5)
on conflict (tenant_id, workspace_id, user_id) do nothing"""

LOCK: Final = "select pg_advisory_xact_lock($2) where $1::uuid is not null"


@dataclass(frozen=True, slots=True)
class ShadowAccount:
    """librechat_user_id: 24 hexadecimal digits; email: the account's service address in LibreChat."""

    tenant_id: UUID
    workspace_id: UUID
    user_id: UUID
    librechat_user_id: str
    email: str
    created_at: datetime


class ShadowStore:
    """SQL for shadow accounts. Every method raises StoreError when the database is gone.

    scope: the transaction that `creation_lock` gives; without one, each method opens its own.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._here: WeakValueDictionary[tuple[UUID, UUID, UUID], asyncio.Lock] = WeakValueDictionary()
        # Each creation holds a connection while it talks to LibreChat; the others must stay free for requests.
        self._creations = asyncio.Semaphore(max(1, database.max_size // 2))

    async def get(
        self, tenant_id: UUID, workspace_id: UUID, user_id: UUID, *, scope: Scope | None = None
    ) -> ShadowAccount | None:
        """The account of a user in a workspace, None before its creation."""
        async with self._enter(tenant_id, scope) as entered:
            return to_account(await entered.fetch_row(GET, workspace_id, user_id))

    async def put_if_absent(
        self,
        tenant_id: UUID,
        workspace_id: UUID,
        user_id: UUID,
        librechat_user_id: str,
        email: str,
        *,
        scope: Scope | None = None,
    ) -> ShadowAccount:
        """Stores an account unless the user has one in this workspace; returns the one that is stored."""
        async with self._enter(tenant_id, scope) as entered:
            await entered.execute(INSERT, workspace_id, user_id, librechat_user_id, email)
            # A statement of its own: it also sees a row that another transaction committed meanwhile.
            account = to_account(await entered.fetch_row(GET, workspace_id, user_id))
        assert account is not None
        return account

    async def find_owner(self, tenant_id: UUID, librechat_user_id: str) -> ShadowAccount | None:
        """The account with a LibreChat id; None when it belongs to nobody of this tenant."""
        if "\0" in librechat_user_id:  # from a request's path; PostgreSQL would call it an error
            return None
        async with self._database.tenant(tenant_id) as scope:
            return to_account(await scope.fetch_row(FIND_OWNER, librechat_user_id))

    @asynccontextmanager
    async def creation_lock(self, tenant_id: UUID, workspace_id: UUID, user_id: UUID) -> AsyncIterator[Scope]:
        """Only one holder per user and workspace at a time, over all instances; ends with its transaction.

        Look again with `get` inside: who waited may find the account made. Give the scope to `get` and
        `put_if_absent`; the account is visible to others at the end of the block.
        """
        key = (tenant_id, workspace_id, user_id)
        # Waiting in this process first: a browser's ten first requests wait with one connection, not ten.
        lock = self._here.setdefault(key, asyncio.Lock())
        async with lock, self._creations, self._database.tenant(tenant_id) as scope:
            await scope.execute(LOCK, lock_number(key))
            yield scope

    def _enter(self, tenant_id: UUID, scope: Scope | None) -> AbstractAsyncContextManager[Scope]:
        return self._database.tenant(tenant_id) if scope is None else nullcontext(scope)


def lock_number(key: tuple[UUID, UUID, UUID]) -> int:
    """The number of an advisory lock: 64 bits of a hash."""
    content = b"shadow" + b"".join(part.bytes for part in key)
    return int.from_bytes(hashlib.sha256(content).digest()[:8], signed=True)


def to_account(row: Record | None) -> ShadowAccount | None:
    """The account of a row of `shadow_accounts`."""
    return None if row is None else ShadowAccount(*(row[field.name] for field in fields(ShadowAccount)))
