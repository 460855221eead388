"""Audit entries about what people do with their own accounts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from geko_proxy.exchange import Exchange

if TYPE_CHECKING:
    from geko_proxy.services import Services
    from geko_proxy.storage.database import Scope


async def record_own(
    services: Services,
    exchange: Exchange,
    scope: Scope,
    user_id: UUID,
    action: str,
    details: Mapping[str, Any],
) -> None:
    """Write into the transaction's tenant that a user did something with the own account."""
    await services.audit.record(
        scope,
        actor_user_id=user_id,
        action=action,
        target=f"user/{user_id}",
        ip=exchange.request.client_ip,
        request_id=exchange.id,
        details=details,
    )
