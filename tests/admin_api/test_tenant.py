"""The organisation: its name and time zone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest

from geko_proxy.admin_api.tenant import Tenants
from geko_proxy.errors import Refused
from geko_proxy.storage.database import Database
from geko_proxy.storage.invalidation import Invalidation
from geko_proxy.workspaces.tenants import TenantStore
from tests.admin_api.conftest import Guarded, Office

Value = Callable[[Any], Any]


@pytest.fixture
def tenants(office: Office) -> Tenants:
    return cast(Tenants, Guarded(office.services, Tenants(office.services)))


async def refused(endpoint: Any, asked: Any) -> Refused:
    with pytest.raises(Refused) as found:
        await endpoint(*asked)
    return found.value


async def test_the_time_zone_is_changed_and_on_record(tenants: Tenants, office: Office, value: Value) -> None:
    before = value(await tenants.get(*office.call("viewer")))
    assert before["timeZone"] == "UTC"
    after = value(await tenants.change(*office.call("owner", body={"timeZone": "Europe/Berlin"})))
    assert after == {**before, "timeZone": "Europe/Berlin"}
    renamed = value(await tenants.change(*office.call("owner", body={"name": " Acme "})))
    assert renamed == {**after, "name": "Acme"}
    assert value(await tenants.get(*office.call("member"))) == renamed
    async with office.services.database.tenant(office.first.tenant.tenant_id) as scope:
        rows = await scope.fetch(
            "select action, details from audit_log where tenant_id = $1 order by occurred_at"
        )
    assert [row["action"] for row in rows] == ["tenant.update"] * 2
    assert msgspec.json.decode(rows[0]["details"]) == {"before": before, "after": after}


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"timeZone": "Mars/Olympus", "name": "\x00"}, {"timeZone", "name"}),
        ({"timeZone": "../etc/passwd"}, {"timeZone"}),
        ({"timeZone": None, "status": "suspended"}, {"timeZone", "status"}),
    ],
)
async def test_every_wrong_field_is_named(
    tenants: Tenants, office: Office, body: dict[str, Any], fields: set[str]
) -> None:
    bad = await refused(tenants.change, office.call("owner", body=body))
    assert (bad.status, set(bad.details or {})) == (400, fields)


async def test_only_owners_change_it(tenants: Tenants, office: Office) -> None:
    for who in ("admin", "member", "viewer"):
        assert (await refused(tenants.change, office.call(who, body={"timeZone": "UTC"}))).status == 403


async def test_other_instances_hear_of_it(
    tenants: Tenants, office: Office, database: Database, invalidation: Invalidation
) -> None:
    store, tenant_id = TenantStore(database, invalidation), office.first.tenant.tenant_id
    announcing = TenantStore(database, invalidation)
    assert await store.get(tenant_id) is not None
    async with database.tenant(tenant_id) as scope:
        tenant = await announcing.lock(scope)
        assert tenant is not None
        await announcing.update(scope, type(tenant)(tenant_id, "New", "Asia/Tokyo", tenant.status))
    for _ in range(500):
        found = await store.get(tenant_id)
        assert found is not None
        if found.time_zone == "Asia/Tokyo":
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the other instance goes on in the old time zone")
