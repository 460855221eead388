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
    await record_event(services, exchange, scope, f"user/{user_id}", action, details, actor_id=user_id)


async def record_event(
    services: Services,
    exchange: Exchange,
    scope: Scope,
    target: str,
    action: str,
    details: Mapping[str, Any],
    *,
    actor_id: UUID | None = None,
) -> None:
    """Write what happened to an account. actor_id: None when it was not its owner for certain."""
    await services.audit.record(
        scope,
        actor_user_id=actor_id,
        action=action,
        target=target,
        ip=exchange.request.client_ip,
        request_id=exchange.id,
        details=details,
    )
