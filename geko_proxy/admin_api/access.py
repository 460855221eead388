"""Who may do what on /v1: enforces what the route tables declare (`Rule.access`), before the endpoint runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from aiohttp import web

from geko_proxy.client_api.validation import read_uuid as read_uuid
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply, Route
from geko_proxy.librechat import Rule
from geko_proxy.workspaces.access import AccessRule, Place
from geko_proxy.workspaces.roles import Permission, Role, allowed

if TYPE_CHECKING:
    from geko_proxy.proxy import Endpoint
    from geko_proxy.services import Services
    from geko_proxy.storage.database import Scope


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


def guarded(services: Services, path: str, rule: Rule, endpoint: Endpoint) -> Endpoint:
    """The endpoint behind its route's access rule.

    Raises ValueError for a route of /v1 that declares no rule, or one that its kind contradicts: GEKO does not start.
    """
    access = rule.access
    if access is None:
        if path.startswith("/v1/"):
            raise ValueError(f"route {rule.operation} ({path}) declares no access rule")
        return endpoint
    if (access.place is Place.NOWHERE) != (rule.route is Route.PUBLIC):
        raise ValueError(f"route {rule.operation}: access {access.place} does not fit {rule.route}")
    if access.permission is None:
        return endpoint

    async def checked(exchange: Exchange, request: web.BaseRequest) -> Reply | web.StreamResponse:
        await check(services, exchange, access)
        return await endpoint(exchange, request)

    return checked


async def check(services: Services, exchange: Exchange, rule: AccessRule) -> None:
    """Let the exchange through, or raise Refused as its access rule says."""
    assert rule.permission is not None
    if rule.place is Place.PATH:
        found = await find_access(services, exchange)
        if not (rule.or_self and names_self(exchange, found)):
            require(found, rule.permission)
        exchange.state[Access] = found
    elif rule.place is Place.TENANT:
        await require_in_tenant(services, exchange, rule.permission)
    elif exchange.role is None or not allowed(exchange.role, rule.permission):
        raise Refused(403, "forbidden", f"Your role in this workspace ({exchange.role}) does not allow this.")


def entered(exchange: Exchange) -> Access:
    """The caller in the path's workspace, as the route's rule has let it in."""
    found = exchange.state.get(Access)
    if not isinstance(found, Access):
        raise RuntimeError(f"{exchange.operation} declares no access to the path's workspace")
    return found


async def enter(services: Services, exchange: Exchange, permission: Permission) -> Access:
    """The caller in the path's workspace, by the role there, not by that of the token's workspace.

    Raises Refused: 404 for a workspace where the caller is no member, whether or not it exists; 403 without the
    permission.
    """
    access = await find_access(services, exchange)
    require(access, permission)
    return access


async def find_access(services: Services, exchange: Exchange) -> Access:
    """The caller in the path's workspace. Raises Refused 404 where there is none for the caller."""
    identity = exchange.signed_in()
    workspace_id = read_uuid(exchange.params["workspaceId"])
    role = None
    if workspace_id is not None and _is_in_reach(exchange, workspace_id):
        role = await services.members.role(identity.tenant_id, workspace_id, identity.user_id)
    if workspace_id is None or role is None:
        raise Refused(404, "workspace_not_found", "There is no such workspace.")
    return Access(identity.tenant_id, workspace_id, identity.user_id, role)


def require(access: Access, permission: Permission) -> None:
    """Raises Refused 403 without the permission."""
    if not access.allows(permission):
        raise Refused(403, "forbidden", f"Your role in this workspace ({access.role}) does not allow this.")


async def require_in_tenant(services: Services, exchange: Exchange, permission: Permission) -> None:
    """Raises Refused 403 for somebody who has the permission in no workspace of the tenant."""
    identity = exchange.signed_in()
    found = await services.workspaces.list_for_user(identity.tenant_id, identity.user_id)
    if not any(allowed(role, permission) for _, role in found):
        raise Refused(403, "forbidden", "Only owners of a workspace may do this for the organisation.")


def names_self(exchange: Exchange, access: Access) -> bool:
    """Whether the path's {userId} is the caller."""
    return read_uuid(exchange.params.get("userId", "")) == access.user_id


def _is_in_reach(exchange: Exchange, workspace_id: UUID) -> bool:
    """An API key is for one workspace, whatever else its user is a member of."""
    return exchange.api_key is None or exchange.api_key.workspace_id == workspace_id


async def record(
    services: Services, exchange: Exchange, access: Access, action: str, details: Mapping[str, Any]
) -> None:
    """Write what the caller did with the workspace into the audit log."""
    async with services.database.tenant(access.tenant_id) as scope:
        target = f"workspace/{access.workspace_id}"
        await record_in(scope, services, exchange, access.user_id, action, target, details)


async def record_in(
    scope: Scope,
    services: Services,
    exchange: Exchange,
    actor_id: UUID,
    action: str,
    target: str,
    details: Mapping[str, Any],
) -> None:
    """The same inside the transaction of the change."""
    await services.audit.record(
        scope,
        actor_user_id=actor_id,
        action=action,
        target=target,
        ip=exchange.request.client_ip,
        request_id=exchange.id,
        details=details,
    )
