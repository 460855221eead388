"""Prices in the database: a tenant's own before the installation's, and what is charged by them to the billionth."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from geko_proxy.config.price_entries import PriceSettings
from geko_proxy.metering import price_store
from geko_proxy.metering.grants import Pricing
from geko_proxy.metering.leases import Amount, Lease, Leases
from geko_proxy.metering.ledger import Charge
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.metering.limits import holds_of
from geko_proxy.metering.price_store import EVER, OwnPrice, PriceExists, PriceStore, TooManyPrices, price_of
from geko_proxy.metering.prices import Price
from geko_proxy.storage.database import Database
from geko_proxy.storage.invalidation import Invalidation
from tests.metering.test_prices import cost_of

if TYPE_CHECKING:
    from tests.metering.conftest import Place

    MakePlace = Callable[[int | None], Awaitable[Place]]

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def own(model: str, price: int, since: datetime = NOW) -> OwnPrice:
    return OwnPrice(uuid4(), Price(model, price, price + 1, since, None, 7))


async def insert(store: PriceStore, database: Database, place: Place, *prices: OwnPrice) -> None:
    async with database.tenant(place.tenant_id) as scope:
        for each in prices:
            await store.insert(scope, each)


async def test_own_prices_are_kept_found_and_deleted(database: Database, make_place: MakePlace) -> None:
    place, other = await make_place(None), await make_place(None)
    installation = price_of(PriceSettings(model="*/*", input=5, output=6))
    store = PriceStore(database, installation=[installation])
    first, second = own("Mock/a", 1), own("Mock/a", 2, NOW + timedelta(days=1))
    await insert(store, database, place, second, first)
    assert await store.list_own(place.tenant_id) == [first, second]
    assert await store.list_own(other.tenant_id) == []
    table = await store.table(place.tenant_id)
    assert table.find("Mock", "a", NOW) == first.price
    assert table.find("Mock", "a", NOW + timedelta(days=1)) == second.price
    assert table.find("Mock", "a", NOW - timedelta(days=1)) == installation
    assert (await store.table(other.tenant_id)).find("Mock", "a", NOW) == installation
    with pytest.raises(PriceExists):
        await insert(store, database, place, own("Mock/a", 9))
    async with database.tenant(other.tenant_id) as scope:
        assert await store.delete(scope, first.price_id) is None
    async with database.tenant(place.tenant_id) as scope:
        assert await store.delete(scope, first.price_id) == first
        assert await store.delete(scope, first.price_id) is None
    store.forget(place.tenant_id)
    assert (await store.table(place.tenant_id)).find("Mock", "a", NOW) == installation


async def test_a_tenant_has_so_many_prices(
    database: Database, make_place: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(price_store, "MAX_PRICES", 2)
    place, store = await make_place(None), PriceStore(database)
    await insert(store, database, place, own("Mock/a", 1), own("Mock/b", 1))
    with pytest.raises(TooManyPrices):
        await insert(store, database, place, own("Mock/c", 1))


async def test_other_instances_hear_of_a_change(
    database: Database, make_place: MakePlace, invalidation: Invalidation
) -> None:
    place, here, there = await make_place(None), PriceStore(database), PriceStore(database, invalidation)
    assert (await there.table(place.tenant_id)).find("Mock", "a", NOW) is None
    await insert(here, database, place, own("Mock/a", 1))
    for _ in range(500):
        if (await there.table(place.tenant_id)).find("Mock", "a", NOW) is not None:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the other instance goes on with old prices")


def test_the_prices_of_the_file() -> None:
    given = PriceSettings(model="A/x", input=1, output=2, cached=3, reasoning=4, begins=date(2026, 11, 1))
    assert price_of(given) == Price("A/x", 1, 2, datetime(2026, 11, 1, tzinfo=UTC), 3, 4)
    assert price_of(PriceSettings(model="A/x", input=1, output=2)).valid_from == EVER


def tokens(chance: random.Random) -> tuple[int, int, int, int]:
    """Of a prompt, an answer, from the cache, of reasoning."""
    prompt, answer, cached, reasoning = (chance.randint(0, 10**6) for _ in range(4))
    return prompt, answer, cached, reasoning


async def test_the_ledger_and_its_days_hold_what_decimals_say(
    database: Database, make_place: MakePlace
) -> None:
    place, chance, leases = await make_place(None), random.Random(7), Leases(database)
    prices = [
        Price(
            f"Mock/{name}",
            chance.randint(0, 10**13),
            chance.randint(0, 10**13),
            EVER,
            *chance.choices([None, 1, 10**12], k=2),
        )
        for name in "abc"
    ]
    store, expected = PriceStore(database, installation=prices), Decimal(0)
    for _ in range(12):
        n = chance.randrange(3)
        turn = replace(place.turn(model="abc"[n]))
        lease = await leases.begin(
            turn, holds_of([], turn.actor, turn.started_at, "UTC"), Amount(1), Amount(0)
        )
        assert isinstance(lease, Lease)
        charges = [Charge("r", seq, "chat", "abc"[n], "p", *tokens(chance)) for seq in range(1, 4)]
        expected += sum(cost_of(prices[n], charge) for charge in charges)
        priced = Pricing(turn, lease.holds, await store.table(place.tenant_id)).priced(charges)
        await leases.settle(lease, Outcome.DONE, priced)
    async with database.tenant(place.tenant_id) as scope:
        for table in ("usage_events", "usage_days"):
            assert await scope.fetch_value(f"select sum(cost) from {table} where tenant_id = $1") == expected
