"""The prices of a tenant: its own (table model_prices) before those of the installation (geko.toml)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import Final
from uuid import UUID

import asyncpg

from geko_proxy.config.price_entries import PriceSettings
from geko_proxy.errors import GekoError
from geko_proxy.metering.prices import Price, PriceTable
from geko_proxy.storage.cache import Cache
from geko_proxy.storage.database import Database, Scope
from geko_proxy.storage.invalidation import Invalidation

TOPIC: Final = "prices"  # announced by a trigger of sql/0011_limits.sql
EVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
MAX_PRICES: Final = 1000  # of a tenant

LIST: Final = """
select price_id, model, input, output, valid_from, cached, reasoning from model_prices
where tenant_id = $1 order by model, valid_from"""

# so that racing calls can't pass MAX_PRICES together
LOCK: Final = "select from tenants where tenant_id = $1 for no key update"
COUNT: Final = "select count(*) from model_prices where tenant_id = $1"

INSERT: Final = """
insert into model_prices (tenant_id, price_id, model, input, output, valid_from, cached, reasoning)
values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (tenant_id, model, valid_from) do nothing returning price_id"""

DELETE: Final = """
delete from model_prices where tenant_id = $1 and price_id = $2
returning price_id, model, input, output, valid_from, cached, reasoning"""


class PriceExists(GekoError):
    """The tenant has a price for the same models from the same time on."""


class TooManyPrices(GekoError):
    """The tenant has MAX_PRICES prices."""


@dataclass(frozen=True, slots=True)
class OwnPrice:
    """A tenant's own price."""

    price_id: UUID
    price: Price

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> OwnPrice:
        """The price of a row of LIST."""
        price_id, *price = row
        return cls(price_id, Price(*price))


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
        self.installation = tuple(installation)
        self._cache: Cache[PriceTable] = Cache(TOPIC, ttl_s=ttl_s, invalidation=invalidation)

    async def table(self, tenant_id: UUID) -> PriceTable:
        """What models cost this tenant. Raises StoreError."""
        return await self._cache.get(str(tenant_id), lambda: self._load(tenant_id))

    async def _load(self, tenant_id: UUID) -> PriceTable:
        own = await self.list_own(tenant_id)
        return PriceTable([each.price for each in own], self.installation)

    async def list_own(self, tenant_id: UUID) -> list[OwnPrice]:
        """A tenant's own prices, by model and time."""
        async with self._database.tenant(tenant_id) as scope:
            return [OwnPrice.from_row(row) for row in await scope.fetch(LIST)]

    async def insert(self, scope: Scope, own: OwnPrice) -> None:
        """Makes a price. Raises PriceExists, TooManyPrices. Call `forget` after the commit."""
        await scope.execute(LOCK)
        if await scope.fetch_value(COUNT) >= MAX_PRICES:
            raise TooManyPrices(str(scope.tenant_id))
        price = own.price
        numbers = (price.input, price.output, price.valid_from, price.cached, price.reasoning)
        if await scope.fetch_value(INSERT, own.price_id, price.model, *numbers) is None:
            raise PriceExists(price.model)

    async def delete(self, scope: Scope, price_id: UUID) -> OwnPrice | None:
        """Deletes a price; None when there is none. Call `forget` after the commit."""
        row = await scope.fetch_row(DELETE, price_id)
        return None if row is None else OwnPrice.from_row(row)

    def forget(self, tenant_id: UUID) -> None:
        """Drop what this process knows; the others hear of a change from the database."""
        self._cache.drop(str(tenant_id))


def price_of(settings: PriceSettings) -> Price:
    """The price of a [[prices]] entry; its day begins at midnight UTC."""
    begins = settings.begins
    valid_from = EVER if begins is None else datetime.combine(begins, time(), UTC)
    return Price(
        settings.model, settings.input, settings.output, valid_from, settings.cached, settings.reasoning
    )
