"""Tenants: who pays, in which time zone a month begins, and whether the tenant may work at all."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from uuid import UUID

from pypika import Parameter, PostgreSQLQuery, Table

from geko_proxy.storage.cache import Cache
from geko_proxy.storage.database import Database, Scope
from geko_proxy.storage.invalidation import Invalidation

if TYPE_CHECKING:
    from asyncpg import Record

TOPIC: Final = "tenant"

tenants: Final = Table("tenants")
GET: Final = str(
    PostgreSQLQuery.from_(tenants)
    .select("tenant_id", "name", "time_zone", "status")
    .where(tenants.tenant_id == Parameter("$1"))
)


GET_LOCKED: Final = f"{GET} for no key update"
UPDATE: Final = "update tenants set name = $2, time_zone = $3 where tenant_id = $1"


class TenantStatus(StrEnum):
    """Whether the users of a tenant may work."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer. time_zone: an IANA name such as "Europe/Berlin"."""

    tenant_id: UUID
    name: str
    time_zone: str
    status: TenantStatus

    @classmethod
    def from_row(cls, row: Record) -> Tenant:
        """The tenant of a row of `tenants`."""
        return cls(row["tenant_id"], row["name"], row["time_zone"], TenantStatus(row["status"]))


class TenantStore:
    """SQL for tenants; what was read is cached for ttl_s seconds, or until a write on any instance."""

    def __init__(
        self, database: Database, invalidation: Invalidation | None = None, ttl_s: float = 3600
    ) -> None:
        self._database = database
        self._invalidation = invalidation
        self._cache: Cache[Tenant | None] = Cache(TOPIC, ttl_s=ttl_s, invalidation=invalidation)

    @property
    def generation(self) -> int | None:
        """Changes with each change anywhere; None while changes can't be heard."""
        return self._cache.generation

    async def get(self, tenant_id: UUID) -> Tenant | None:
        """A tenant by id. Raises StoreError."""
        return await self._cache.get(str(tenant_id), lambda: self._load(tenant_id))

    async def lock(self, scope: Scope) -> Tenant | None:
        """The scope's tenant, which is about to be changed."""
        row = await scope.fetch_row(GET_LOCKED)
        return None if row is None else Tenant.from_row(row)

    async def update(self, scope: Scope, tenant: Tenant) -> None:
        """Writes a tenant's name and time zone, and tells every instance. Call `forget` after the commit."""
        await scope.execute(UPDATE, tenant.name, tenant.time_zone)
        if self._invalidation is not None:
            await self._invalidation.publish(scope, TOPIC, str(tenant.tenant_id))

    def forget(self, tenant_id: UUID) -> None:
        """Drop what this process knows; the others have been told."""
        self._cache.drop(str(tenant_id))

    async def _load(self, tenant_id: UUID) -> Tenant | None:
        async with self._database.tenant(tenant_id) as scope:
            row = await scope.fetch_row(GET)
        return None if row is None else Tenant.from_row(row)
