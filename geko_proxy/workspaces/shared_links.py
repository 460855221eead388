"""Which workspace and user a shared link of LibreChat belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from pypika import Parameter, PostgreSQLQuery, Table

from geko_proxy.storage.database import Database

shared_links: Final = Table("shared_links")

GET: Final = str(
    PostgreSQLQuery.from_(shared_links)
    .select("tenant_id", "share_id", "workspace_id", "user_id")
    .where(shared_links.tenant_id == Parameter("$1"))
    .where(shared_links.share_id == Parameter("$2"))
)

# LibreChat answers with the same link when a conversation is shared again.
PUT: Final = """
insert into shared_links (tenant_id, share_id, workspace_id, user_id) values ($1, $2, $3, $4)
on conflict (tenant_id, share_id) do nothing"""

DELETE: Final = str(
    PostgreSQLQuery.from_(shared_links)
    .delete()
    .where(shared_links.tenant_id == Parameter("$1"))
    .where(shared_links.share_id == Parameter("$2"))
)


@dataclass(frozen=True, slots=True)
class SharedLink:
    """A link and who made it where. share_id: LibreChat's."""

    tenant_id: UUID
    share_id: str
    workspace_id: UUID
    user_id: UUID


class SharedLinkStore:
    """SQL for shared links. Every method raises StoreError when the database is gone."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, link: SharedLink) -> None:
        """Remembers a link; one that is known stays with its first owner."""
        async with self._database.tenant(link.tenant_id) as scope:
            await scope.execute(PUT, link.share_id, link.workspace_id, link.user_id)

    async def get(self, tenant_id: UUID, share_id: str) -> SharedLink | None:
        """A link by LibreChat's id, None when nobody in the tenant made it."""
        if "\0" in share_id:  # from a request's path; PostgreSQL would call it an error
            return None
        async with self._database.tenant(tenant_id) as scope:
            row = await scope.fetch_row(GET, share_id)
        return None if row is None else SharedLink(**dict(row))

    async def delete(self, tenant_id: UUID, share_id: str) -> None:
        """Forgets a link."""
        async with self._database.tenant(tenant_id) as scope:
            await scope.execute(DELETE, share_id)
