"""An address of its own for each workspace: {workspace}.{tenant}.example.org. Off without a pattern.

LibreChat's page keeps drafts per origin (contract §9), and a cookie without Domain stays with its host: so nothing of
one workspace is there in another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

import asyncpg

from geko_proxy.errors import GekoError, Refused
from geko_proxy.storage.cache import Cache
from geko_proxy.storage.database import Database, Scope
from geko_proxy.storage.invalidation import EVERYTHING, Invalidation

if TYPE_CHECKING:
    from geko_proxy.exchange import Exchange

TOPIC: Final = "host"
SLUG: Final = "[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?"
RESERVED: Final = frozenset("admin api app auth geko imap mail smtp static status support www".split())

FIND_TENANT: Final = "select tenant_id from tenants where slug = $1"
FIND_WORKSPACE: Final = """
select workspace_id from workspaces where tenant_id = $1 and slug = $2 and archived_at is null"""
SET_TENANT: Final = "update tenants set slug = $2 where tenant_id = $1"
SET_WORKSPACE: Final = "update workspaces set slug = $3 where tenant_id = $1 and workspace_id = $2"
NAMES: Final = """
select t.slug as tenant, w.slug as workspace from tenants t join workspaces w on w.tenant_id = t.tenant_id
where t.tenant_id = $1 and w.workspace_id = $2"""


class SlugTaken(GekoError):
    """Another tenant, or another workspace of the tenant, has this name in its address."""


@dataclass(frozen=True, slots=True)
class HostPlace:
    """The workspace of an address."""

    tenant_id: UUID
    workspace_id: UUID


class WorkspaceHosts:
    """Finds the workspace of a Host header. pattern: "" or a host name with {workspace} and {tenant}."""

    def __init__(
        self, database: Database, invalidation: Invalidation | None, pattern: str, ttl_s: float = 3600
    ) -> None:
        self._database = database
        self._invalidation = invalidation
        self._pattern = pattern
        self._host = compile_pattern(pattern) if pattern else None
        self._places: Cache[HostPlace | None] = Cache(TOPIC, ttl_s=ttl_s, invalidation=invalidation)

    async def of(self, exchange: Exchange) -> HostPlace | None:
        """The workspace whose address a request was sent to; None for every other address.

        Raises Refused 404 for an address of the pattern that no workspace has.
        """
        if self._host is None:
            return None
        found = self._host.fullmatch(exchange.request.headers.get("Host", "").lower())
        if found is None:
            return None
        tenant, workspace = found["tenant"], found["workspace"]
        place = await self._places.get(f"{tenant}/{workspace}", lambda: self._load(tenant, workspace))
        if place is None:
            raise Refused(404, "workspace_not_found", "There is no workspace at this address.")
        return place

    async def require(self, exchange: Exchange, workspace_id: UUID) -> None:
        """Raises Refused 403 when the request was sent to the address of another workspace."""
        place = await self.of(exchange)
        if place is not None and place.workspace_id != workspace_id:
            raise Refused(403, "other_workspace", "This address is for another workspace.")

    async def address(self, tenant_id: UUID, workspace_id: UUID) -> str | None:
        """The host name of a workspace; None where it has none."""
        if not self._pattern:
            return None
        async with self._database.tenant(tenant_id) as scope:
            row = await scope.fetch_row(NAMES, workspace_id)
        if row is None or row["tenant"] is None or row["workspace"] is None:
            return None
        return self._pattern.format(tenant=row["tenant"], workspace=row["workspace"])

    async def set_tenant(self, scope: Scope, slug: str | None) -> None:
        """Gives the tenant a name in addresses, or takes it. Raises SlugTaken."""
        await self._set(scope, SET_TENANT, slug)

    async def set_workspace(self, scope: Scope, workspace_id: UUID, slug: str | None) -> None:
        """Gives a workspace a name in addresses, or takes it. Raises SlugTaken."""
        await self._set(scope, SET_WORKSPACE, workspace_id, slug)

    async def _set(self, scope: Scope, statement: str, *args: object) -> None:
        try:
            await scope.execute(statement, *args)
        except asyncpg.UniqueViolationError as error:
            raise SlugTaken from error
        if self._invalidation is not None:
            await self._invalidation.publish(scope, TOPIC, EVERYTHING)

    async def _load(self, tenant: str, workspace: str) -> HostPlace | None:
        async with self._database.system() as system:
            tenant_id = await system.fetch_value(FIND_TENANT, tenant)
        if tenant_id is None:
            return None
        async with self._database.tenant(tenant_id) as scope:
            workspace_id = await scope.fetch_value(FIND_WORKSPACE, workspace)
        return None if workspace_id is None else HostPlace(tenant_id, workspace_id)


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """What host names of a pattern look like, with any port."""
    escaped = re.escape(pattern.lower())
    for name in ("workspace", "tenant"):
        escaped = escaped.replace(re.escape(f"{{{name}}}"), f"(?P<{name}>{SLUG})")
    return re.compile(rf"{escaped}(?::\d{{1,5}})?", re.ASCII)
