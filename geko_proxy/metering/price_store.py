"""The prices of a tenant: its own (table model_prices) before those of the installation (geko.toml)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from geko_proxy.metering.prices import Price, PriceTable
from geko_proxy.storage.cache import Cache
from geko_proxy.storage.database import Database
from geko_proxy.storage.invalidation import Invalidation

TOPIC: Final = "prices"  # announced by a trigger of sql/0011_limits.sql

LIST: Final = """
select model, input, output, valid_from, cached, reasoning from model_prices
where tenant_id = $1 order by model, valid_from"""


class PriceStore:
    """SQL for prices; a tenant's are cached for ttl_s seconds, or until a write on any instance.

    installation: the prices of geko.toml.
    """

    def __init__(
        self,
        database: Database,
        invalidation: Invalidation | None = None,
        installation: Sequence[Price] = (),
        ttl_s: float = 3600,
    ) -> None:
        self._database = database
        self._installation = installation
        self._cache: Cache[PriceTable] = Cache(TOPIC, ttl_s=ttl_s, invalidation=invalidation)

    async def table(self, tenant_id: UUID) -> PriceTable:
        """What models cost this tenant. Raises StoreError."""
        return await self._cache.get(str(tenant_id), lambda: self._load(tenant_id))

    async def _load(self, tenant_id: UUID) -> PriceTable:
        async with self._database.tenant(tenant_id) as scope:
            rows = await scope.fetch(LIST)
        return PriceTable([Price(*row) for row in rows], self._installation)
