"""The admin API of prices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import pytest

from geko_proxy.admin_api.prices import Prices
from geko_proxy.config import Settings
from geko_proxy.errors import Refused
from geko_proxy.metering.price_store import EVER, PriceStore
from geko_proxy.metering.prices import Price
from tests.admin_api.conftest import Guarded, Office

Value = Callable[[Any], Any]
BODY = {"model": "A/x*", "input": 2.5, "output": "10", "cached": "0.25", "from": "2026-11-01"}


@pytest.fixture
def place(office: Office) -> Office:
    store = PriceStore(office.services.database, installation=[Price("*/*", 1, 10**9, EVER)])
    return replace(office, services=replace(office.services, settings=Settings(), prices=store))


@pytest.fixture
def prices(place: Office) -> Prices:
    return cast(Prices, Guarded(place.services, Prices(place.services)))


def call(place: Office, who: str, body: Any = None, price_id: str = "") -> Any:
    exchange, request = place.call(who, body=body)
    exchange.params = {"priceId": price_id}
    return exchange, request


async def refused(endpoint: Any, asked: Any) -> Refused:
    with pytest.raises(Refused) as found:
        await endpoint(*asked)
    return found.value


async def test_a_price_is_made_listed_and_deleted(prices: Prices, place: Office, value: Value) -> None:
    tenant = replace(place.first.tenant, time_zone="Asia/Tokyo")
    exchange, request = call(place, "owner", BODY)
    exchange.tenant = tenant
    made = value(await prices.create(exchange, request))
    assert made == {
        "id": made["id"],
        "model": "A/x*",
        "input": "2.5",
        "output": "10",
        "cached": "0.25",
        "reasoning": None,
        "from": "2026-10-31T15:00:00Z",
    }
    at = datetime(2026, 11, 1, tzinfo=UTC)
    table = await place.services.prices.table(tenant.tenant_id)
    found = table.find("A", "xy", at)
    assert found is not None
    assert (found.input, found.output, found.cached) == (25 * 10**8, 10**10, 25 * 10**7)
    listed = value(await prices.list_all(*call(place, "owner")))
    assert listed["prices"][0] == made
    assert listed["prices"][1] == {
        "id": None,
        "model": "*/*",
        "input": "0.000000001",
        "output": "1",
        "cached": None,
        "reasoning": None,
        "from": None,
    }
    assert len(value(await prices.list_all(*call(place, "stranger")))["prices"]) == 1
    assert (await refused(prices.delete, call(place, "stranger", price_id=made["id"]))).status == 404
    assert (await prices.delete(*call(place, "owner", price_id=made["id"]))).status == 204
    for price_id in (made["id"], "x"):
        assert (await refused(prices.delete, call(place, "owner", price_id=price_id))).status == 404
    async with place.services.database.tenant(tenant.tenant_id) as scope:
        rows = await scope.fetch(
            "select action, details from audit_log where tenant_id = $1 order by occurred_at"
        )
    assert [row["action"] for row in rows] == ["price.create", "price.delete"]
    assert msgspec.json.decode(rows[0]["details"])["after"] == made
    assert msgspec.json.decode(rows[1]["details"])["before"] == made


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"model", "input", "output"}),
        ({**BODY, "model": "x", "cached": -1, "reasoning": "a"}, {"model", "cached", "reasoning"}),
        ({**BODY, "input": 10**6 + 1, "output": "0.1234567890"}, {"input", "output"}),
        ({**BODY, "from": "1999-12-31"}, {"from"}),
        ({**BODY, "from": "tomorrow", "until": 1}, {"from", "until"}),
    ],
)
async def test_every_wrong_field_is_named(
    prices: Prices, place: Office, body: dict[str, Any], fields: set[str]
) -> None:
    bad = await refused(prices.create, call(place, "owner", body))
    assert (bad.status, set(bad.details or {})) == (400, fields)


async def test_only_owners(prices: Prices, place: Office) -> None:
    for who in ("admin", "member", "viewer"):
        for endpoint in (prices.list_all, prices.create, prices.delete):
            assert (await refused(endpoint, call(place, who, BODY))).status == 403
