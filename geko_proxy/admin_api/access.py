"""Who may do what with the workspace that a path of /v1 names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from geko_proxy.client_api.validation import read_uuid as read_uuid
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange
from geko_proxy.workspaces.roles import Permission, Role, allowed

if TYPE_CHECKING:
    from geko_proxy.services import Services


@dataclass(frozen=True, slots=True)
class Access:
    """The caller in the workspace of the path."""

    tenant_id: UUID
    workspace_id: UUID
    user_id: UUID
    role: Role

    def allows(self, permission: Permission) -> bool:
        """Whether the caller's role in this workspace gives a permission."""
        return allowed(self.role, permission)


async def enter(services: Services, exchange: Exchange, permission: Permission) -> Access:
    """The caller in the path's workspace, by the role there, not by that of the token's workspace.

    Raises Refused: 404 for a workspace where the caller is no member, whether or not it exists; 403 without the
    permission.
    """
    identity = exchange.signed_in()
    workspace_id = read_uuid(exchange.params["workspaceId"])
    role = None
    if workspace_id is not None:
        role = await services.members.role(identity.tenant_id, workspace_id, identity.user_id)
    if workspace_id is None or role is None:
        raise Refused(404, "workspace_not_found", "There is no such workspace.")
    access = Access(identity.tenant_id, workspace_id, identity.user_id, role)
    if not access.allows(permission):
        raise Refused(403, "forbidden", f"Your role in this workspace ({role}) does not allow this.")
    return access


async def record(
    services: Services, exchange: Exchange, access: Access, action: str, details: Mapping[str, Any]
) -> None:
    """Write what the caller did with the workspace into the audit log."""
    async with services.database.tenant(access.tenant_id) as scope:
        await services.audit.record(
            scope,
            actor_user_id=access.user_id,
            action=action,
            target=f"workspace/{access.workspace_id}",
            ip=exchange.request.client_ip,
            request_id=exchange.id,
            details=details,
        )
