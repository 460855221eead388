"""API keys: what a person's programs sign in with, in one workspace, with less than the person's own rights."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

from geko_proxy.accounts.key_text import InvalidKeyText, KeyText
from geko_proxy.errors import GekoError
from geko_proxy.metering.limits import LimitScope, put_base_limit
from geko_proxy.storage.cache import Cache
from geko_proxy.storage.database import Database, Scope
from geko_proxy.storage.invalidation import EVERYTHING, Invalidation

if TYPE_CHECKING:
    from asyncpg import Record

TOPIC: Final = "api_key"  # announced by triggers of sql/0009_api_keys.sql
CACHE_TTL_S: Final = 60
MAX_KEYS: Final = 100  # usable ones of a person in a workspace
NO_HASH: Final = bytes(32)

FIND: Final = "select * from find_api_key($1)"
TOUCH: Final = "select touch_api_keys($1, $2)"

INSERT: Final = """
insert into api_keys (tenant_id, key_id, workspace_id, user_id, name, secret_hash, scopes, models,
    expires_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9)"""

# so that racing calls can't pass MAX_KEYS together
LOCK_OWNER: Final = "select from users where tenant_id = $1 and user_id = $2 for no key update"

COUNT: Final = """
select count(*) from api_keys
where tenant_id = $1 and workspace_id = $2 and user_id = $3 and revoked_at is null
    and (expires_at is null or expires_at > now())"""

READ: Final = """
select k.key_id, k.workspace_id, k.user_id, k.name, k.scopes, k.models, l.amount as token_limit, k.created_at,
    k.expires_at, k.last_used_at, coalesce(w.used, 0) as used, coalesce(w.leased, 0) as leased
from api_keys k
left join quota_limits l on l.tenant_id = k.tenant_id and l.limit_id = k.key_id
left join limit_windows w on w.tenant_id = k.tenant_id and w.limit_id = k.key_id and w.starts_at = $2
where k.tenant_id = $1 and k.revoked_at is null"""

LIST_OF_USER: Final = f"{READ} and k.user_id = $3 order by k.created_at, k.key_id"
LIST_OF_WORKSPACE: Final = f"{READ} and k.workspace_id = $3 order by k.created_at, k.key_id"
GET: Final = f"{READ} and k.user_id = $3 and k.key_id = $4"

LOCK: Final = "select from api_keys where tenant_id = $1 and user_id = $2 and key_id = $3 for no key update"

UPDATE: Final = """
update api_keys set name = $4, scopes = $5, models = $6, expires_at = $7
where tenant_id = $1 and user_id = $2 and key_id = $3 and revoked_at is null
returning workspace_id"""

REVOKE: Final = """
update api_keys set revoked_at = now()
where tenant_id = $1 and key_id = $2 and revoked_at is null
    and ($3::uuid is null or user_id = $3) and ($4::uuid is null or workspace_id = $4)
returning name, user_id, workspace_id"""

REVOKE_ALL: Final = """
update api_keys set revoked_at = now() where tenant_id = $1 and user_id = $2 and revoked_at is null
returning key_id"""


class KeyScope(StrEnum):
    """What a key may be used for, as far as its user's role allows it."""

    CHAT = "chat"
    USAGE_READ = "usage:read"
    WORKSPACE_READ = "workspace:read"
    WORKSPACE_WRITE = "workspace:write"  # and read


class TooManyKeys(GekoError):
    """The person has MAX_KEYS usable keys in this workspace."""


class _Wrong(GekoError):
    """No key has this id and secret."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that was presented and is good. models: globs as in a workspace's configuration, None: all of its."""

    tenant_id: UUID
    key_id: UUID
    workspace_id: UUID
    user_id: UUID
    name: str
    scopes: frozenset[KeyScope]
    models: tuple[str, ...] | None = None
    expires_at: datetime | None = None

    def allows(self, scope: KeyScope) -> bool:
        """Whether the key may be used for this."""
        if scope is KeyScope.WORKSPACE_READ and KeyScope.WORKSPACE_WRITE in self.scopes:
            return True
        return scope in self.scopes


@dataclass(frozen=True, slots=True)
class KeyTerms:
    """What the owner decides about a key. token_limit: tokens a month; None: as the workspace."""

    name: str
    scopes: tuple[KeyScope, ...]
    models: tuple[str, ...] | None = None
    token_limit: int | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as it is shown, also when it has expired; used and leased: tokens of the current month."""

    key_id: UUID
    workspace_id: UUID
    user_id: UUID
    terms: KeyTerms
    created_at: datetime
    last_used_at: datetime | None
    used: int
    leased: int

    @classmethod
    def from_row(cls, row: Record) -> KeyRecord:
        """The key of a row of READ."""
        terms = KeyTerms(
            row["name"],
            read_scopes(row["scopes"]),
            None if row["models"] is None else tuple(row["models"]),
            row["token_limit"],
            row["expires_at"],
        )
        ids = (row["key_id"], row["workspace_id"], row["user_id"])
        return cls(*ids, terms, row["created_at"], row["last_used_at"], row["used"], row["leased"])


class ApiKeys:
    """Makes, checks and revokes keys. Every method raises StoreError when the database is gone."""

    def __init__(self, database: Database, invalidation: Invalidation | None = None) -> None:
        self._database = database
        # Only keys that were presented with the right secret are kept, under a hash of it: a wrong secret costs the
        # same look into the database as an unknown id.
        self._keys: Cache[ApiKey] = Cache(TOPIC, ttl_s=CACHE_TTL_S, invalidation=invalidation)
        self._scopes: Cache[frozenset[KeyScope]] = Cache(TOPIC, ttl_s=CACHE_TTL_S, invalidation=invalidation)
        self._used: dict[UUID, datetime] = {}

    @property
    def generation(self) -> int | None:
        """Changes with each change anywhere; None while changes can't be heard."""
        return self._keys.generation

    async def verify(self, text: str) -> ApiKey | None:
        """The key of this text; None for an unknown one, a wrong secret, and one that is revoked or has expired."""
        try:
            given = KeyText.decode(text)
        except InvalidKeyText:
            return None
        try:
            key = await self._keys.get(f"{given.key_id}/{given.hash().hex()}", lambda: self._load(given))
        except _Wrong:
            return None
        return key if key.expires_at is None or key.expires_at > datetime.now(UTC) else None

    async def scopes(self, key_id: UUID) -> frozenset[KeyScope]:
        """What a key that was good is still good for: nothing once it is revoked or over, or its owner disabled."""
        return await self._scopes.get(f"{key_id}/scopes", lambda: self._load_scopes(key_id))

    def note_use(self, key_id: UUID) -> None:
        """Remember that a key was used now; `flush_uses` writes it."""
        self._used[key_id] = datetime.now(UTC)

    async def flush_uses(self) -> None:
        """Write when which key was used last, all of them in one statement."""
        used, self._used = self._used, {}
        if not used:
            return
        try:
            async with self._database.system() as system:
                await system.execute(TOUCH, list(used), list(used.values()))
        except BaseException:
            self._used = {**used, **self._used}
            raise

    async def create(
        self, scope: Scope, workspace_id: UUID, user_id: UUID, terms: KeyTerms
    ) -> tuple[UUID, str]:
        """A new key's id, and its text, which can't be shown again. Raises TooManyKeys."""
        await scope.execute(LOCK_OWNER, user_id)
        if await scope.fetch_value(COUNT, workspace_id, user_id) >= MAX_KEYS:
            raise TooManyKeys(str(user_id))
        text = KeyText.new(uuid4())
        await scope.execute(
            INSERT,
            text.key_id,
            workspace_id,
            user_id,
            terms.name,
            text.hash(),
            list(terms.scopes),
            terms.models,
            terms.expires_at,
        )
        await self._put_limit(scope, workspace_id, text.key_id, terms.token_limit)
        return text.key_id, text.encode()

    @staticmethod
    async def _put_limit(scope: Scope, workspace_id: UUID, key_id: UUID, token_limit: int | None) -> None:
        await put_base_limit(scope, key_id, workspace_id, LimitScope.KEY, str(key_id), token_limit)

    async def list_of_user(self, tenant_id: UUID, user_id: UUID, month: datetime) -> list[KeyRecord]:
        """A person's keys, oldest first. month: when the current quota window starts."""
        async with self._database.tenant(tenant_id) as scope:
            rows = await scope.fetch(LIST_OF_USER, month, user_id)
        return [KeyRecord.from_row(row) for row in rows]

    async def list_of_workspace(
        self, tenant_id: UUID, workspace_id: UUID, month: datetime
    ) -> list[KeyRecord]:
        """All keys of a workspace, oldest first."""
        async with self._database.tenant(tenant_id) as scope:
            rows = await scope.fetch(LIST_OF_WORKSPACE, month, workspace_id)
        return [KeyRecord.from_row(row) for row in rows]

    async def get(
        self, scope: Scope, user_id: UUID, key_id: UUID, month: datetime, *, lock: bool = False
    ) -> KeyRecord | None:
        """One key of a person. lock: it is about to be changed."""
        if lock:  # read afterwards: a lock brings the newest version of the key, but not of its limit
            await scope.execute(LOCK, user_id, key_id)
        row = await scope.fetch_row(GET, month, user_id, key_id)
        return None if row is None else KeyRecord.from_row(row)

    async def update(self, scope: Scope, user_id: UUID, key_id: UUID, terms: KeyTerms) -> bool:
        """Change a key of a person; False when there is none. Call `forget` after the commit."""
        rest = (list(terms.scopes), terms.models, terms.expires_at)
        workspace_id: UUID | None = await scope.fetch_value(UPDATE, user_id, key_id, terms.name, *rest)
        if workspace_id is None:
            return False
        await self._put_limit(scope, workspace_id, key_id, terms.token_limit)
        return True

    async def revoke(
        self,
        scope: Scope,
        key_id: UUID,
        *,
        user_id: UUID | None = None,
        workspace_id: UUID | None = None,
    ) -> Mapping[str, Any] | None:
        """End a key of this person and workspace (None: whoever's); its name, user and workspace, or None when there
        is none. Call `forget` after the commit."""
        row = await scope.fetch_row(REVOKE, key_id, user_id, workspace_id)
        return None if row is None else dict(row)

    async def revoke_all(self, scope: Scope, user_id: UUID) -> list[UUID]:
        """End all keys of a person; every instance hears of it when the transaction ends. Returns their ids."""
        return [row["key_id"] for row in await scope.fetch(REVOKE_ALL, user_id)]

    def forget(self, key_id: UUID) -> None:
        """Drop what this process knows of a key; the others hear of the change from the database."""
        self._scopes.drop(f"{key_id}/{EVERYTHING}")
        self._keys.drop(f"{key_id}/{EVERYTHING}")

    async def _load_scopes(self, key_id: UUID) -> frozenset[KeyScope]:
        async with self._database.system() as system:
            row = await system.fetch_row(FIND, key_id)
        return frozenset() if row is None else frozenset(read_scopes(row["scopes"]))

    async def _load(self, given: KeyText) -> ApiKey:
        async with self._database.system() as system:
            row = await system.fetch_row(FIND, given.key_id)
        stored = NO_HASH if row is None else row["secret_hash"]
        if not hmac.compare_digest(stored, given.hash()) or row is None:
            raise _Wrong
        return ApiKey(
            row["tenant_id"],
            row["key_id"],
            row["workspace_id"],
            row["user_id"],
            row["name"],
            frozenset(read_scopes(row["scopes"])),
            None if row["models"] is None else tuple(row["models"]),
            row["expires_at"],
        )


def read_scopes(names: Sequence[str]) -> tuple[KeyScope, ...]:
    """Stored scopes; one that this release does not know (any more) gives nothing."""
    known = {scope.value for scope in KeyScope}
    return tuple(KeyScope(name) for name in names if name in known)
