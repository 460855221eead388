"""The monthly token limit of a workspace (table workspace_quotas)."""

from __future__ import annotations

from uuid import UUID

from geko_proxy.storage.database import Database

GET = "select token_limit from workspace_quotas where tenant_id = $1 and workspace_id = $2"

PUT = """
insert into workspace_quotas (tenant_id, workspace_id, token_limit) values ($1, $2, $3)
on conflict (tenant_id, workspace_id) do update set token_limit = excluded.token_limit, updated_at = now()"""


class QuotaStore:
    """Reads and sets limits. A workspace without a row has no limit. Turns read the row itself: no cache here."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(self, tenant_id: UUID, workspace_id: UUID) -> int | None:
        """The limit in tokens a month; None: unlimited."""
        async with self._db.tenant(tenant_id) as scope:
            limit: int | None = await scope.fetch_value(GET, workspace_id)
        return limit

    async def put(self, tenant_id: UUID, workspace_id: UUID, token_limit: int | None) -> None:
        """Sets the limit in tokens a month (None: unlimited); the next lease or top-up obeys it.

        Raises ValueError for a negative limit.
        """
        if token_limit is not None and not 0 <= token_limit < 2**63:
            raise ValueError("a token limit is a number of tokens from 0 on, or null for none")
        async with self._db.tenant(tenant_id) as scope:
            await scope.execute(PUT, workspace_id, token_limit)
