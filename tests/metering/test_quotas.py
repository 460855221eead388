"""Limits of workspaces."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from geko_proxy.metering.quotas import QuotaStore
from geko_proxy.storage.database import Database

if TYPE_CHECKING:
    from tests.metering.conftest import Place


async def test_a_limit_is_kept_changed_and_lifted(
    database: Database, make_place: Callable[[int | None], Awaitable[Place]]
) -> None:
    place, quotas = await make_place(500), QuotaStore(database)
    assert await quotas.get(place.tenant_id, place.workspace_id) == 500
    for limit in (0, 10**15, None):
        await quotas.put(place.tenant_id, place.workspace_id, limit)
        assert await quotas.get(place.tenant_id, place.workspace_id) == limit


async def test_a_workspace_without_a_row_has_no_limit_and_another_tenant_sees_none(
    database: Database, make_place: Callable[[int | None], Awaitable[Place]]
) -> None:
    place, quotas = await make_place(500), QuotaStore(database)
    assert await quotas.get(place.tenant_id, uuid4()) is None
    assert await quotas.get(uuid4(), place.workspace_id) is None


@pytest.mark.parametrize("limit", [-1, 2**63])
async def test_an_impossible_limit_is_a_value_error(database: Database, limit: int) -> None:
    with pytest.raises(ValueError, match="limit"):
        await QuotaStore(database).put(uuid4(), uuid4(), limit)
