"""A workspace to meter, and the recorded streams of a real LibreChat."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg
import pytest

from geko_proxy.metering.leases import NewTurn
from geko_proxy.metering.tokens import TokenCounter
from geko_proxy.metering.windows import Window, month_window


@dataclass(frozen=True)
class Place:
    """A workspace with one user."""

    tenant_id: UUID
    workspace_id: UUID
    user_id: UUID
    window: Window

    def turn(self, conversation_id: str | None = None, model: str = "gpt-4o") -> NewTurn:
        return NewTurn(self.tenant_id, self.workspace_id, self.user_id, conversation_id, "Mock", model)


@pytest.fixture
def make_place(dsn: str) -> Callable[[int | None], Awaitable[Place]]:
    """Makes a tenant with a workspace that has this token limit."""

    async def make(token_limit: int | None) -> Place:
        place = Place(uuid4(), uuid4(), uuid4(), month_window(datetime.now(UTC), "UTC"))
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(
                "insert into tenants (tenant_id, name) values ($1, 'T')", place.tenant_id
            )
            await connection.execute(
                "insert into workspaces (tenant_id, workspace_id, name) values ($1, $2, 'W')",
                place.tenant_id,
                place.workspace_id,
            )
            await connection.execute(
                "insert into quota_limits (tenant_id, limit_id, workspace_id, scope, amount)"
                " values ($1, $2, $2, 'workspace', $3)",
                place.tenant_id,
                place.workspace_id,
                token_limit,
            )
        finally:
            await connection.close()
        return place

    return make


@pytest.fixture(scope="session")
def counter() -> TokenCounter:
    return TokenCounter()
