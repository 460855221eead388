"""The audit log: who did what in a tenant. Append-only, also for GEKO itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID, uuid4

import msgspec

from geko_proxy.storage.database import Scope

INSERT: Final = """
insert into audit_log (tenant_id, audit_id, actor_user_id, action, target, ip, request_id, details)
values ($1, $2, $3, $4, $5, $6, $7, $8)"""


class Audit:
    """Writes the log inside the transaction of the change: both are stored, or neither."""

    async def record(
        self,
        scope: Scope,
        *,
        actor_user_id: UUID | None,
        action: str,
        target: str,
        ip: str | None,
        request_id: str | None,
        details: Mapping[str, Any],
    ) -> None:
        """Appends one entry. action: such as "member.remove"; target: what it was done to; no secrets in details."""
        text = msgspec.json.encode(details).decode()
        await scope.execute(INSERT, uuid4(), actor_user_id, action, target, ip, request_id, text)
