"""Tenants: read once, until something changes."""

from __future__ import annotations

from uuid import uuid4

from geko_proxy.storage.database import Database
from geko_proxy.storage.invalidation import Invalidation
from geko_proxy.workspaces.tenants import TenantStatus, TenantStore
from tests.conftest import Account


async def test_is_got_and_cached_until_a_change_is_announced(
    database: Database, invalidation: Invalidation, account: Account
) -> None:
    store = TenantStore(database, invalidation)
    tenant = await store.get(account.tenant_id)
    assert tenant is not None
    assert (tenant.name, tenant.time_zone, tenant.status) == ("Somebody", "UTC", TenantStatus.ACTIVE)
    async with database.tenant(account.tenant_id) as scope:
        await scope.execute("update tenants set status = 'suspended' where tenant_id = $1")
    assert await store.get(account.tenant_id) == tenant
    invalidation._dispatch("tenant", str(account.tenant_id))
    changed = await store.get(account.tenant_id)
    assert changed is not None
    assert changed.status is TenantStatus.SUSPENDED


async def test_an_unknown_tenant(database: Database) -> None:
    assert await TenantStore(database).get(uuid4()) is None
