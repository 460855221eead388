"""Limits of workspaces."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from geko_proxy.metering.limits import LimitStore
from geko_proxy.storage.database import Database

if TYPE_CHECKING:
    from tests.metering.conftest import Place


async def test_a_limit_is_kept_changed_and_lifted(
    database: Database, make_place: Callable[[int | None], Awaitable[Place]]
) -> None:
    place, limits = await make_place(500), LimitStore(database)
    assert await limits.get_own(place.tenant_id, place.workspace_id) == 500
    for limit in (0, 10**15, None):
        await limits.put_own(place.tenant_id, place.workspace_id, limit)
        assert await limits.get_own(place.tenant_id, place.workspace_id) == limit


async def test_a_workspace_without_a_row_has_no_limit_and_another_tenant_sees_none(
    database: Database, make_place: Callable[[int | None], Awaitable[Place]]
) -> None:
    place, limits = await make_place(500), LimitStore(database)
    assert await limits.get_own(place.tenant_id, uuid4()) is None
    assert await limits.get_own(uuid4(), place.workspace_id) is None


@pytest.mark.parametrize("limit", [-1, 10**18 + 1])
async def test_an_impossible_limit_is_a_value_error(database: Database, limit: int) -> None:
    with pytest.raises(ValueError, match="limit"):
        await LimitStore(database).put_own(uuid4(), uuid4(), limit)
