"""DELETE /v1/workspaces/{workspaceId}/members/{userId}/sessions: an admin signs a member out of the workspace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from geko_proxy.admin_api.access import enter, record
from geko_proxy.client_api.validation import read_uuid
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.workspaces.roles import Permission, Role

if TYPE_CHECKING:
    from geko_proxy.services import Services


class MemberSessions:
    """The endpoint."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def revoke(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with the number of sessions ended: the member's in this workspace, on every instance at once.

        Sessions in other workspaces are none of this one's business. Only owners can do it to an owner.
        """
        services = self._services
        access = await enter(services, exchange, Permission.WRITE_SETTINGS)
        user_id = read_uuid(exchange.params["userId"])
        role = None
        if user_id is not None:
            role = await services.members.role(access.tenant_id, access.workspace_id, user_id)
        if user_id is None or role is None:
            raise Refused(404, "member_not_found", "There is no such member in this workspace.")
        if role is Role.OWNER and not access.allows(Permission.WRITE_OWNERS):
            raise Refused(403, "forbidden", "Only an owner can sign an owner out.")
        ended = await services.sessions.revoke_in_workspace(access.tenant_id, user_id, access.workspace_id)
        details = {"userId": user_id, "revoked": ended}
        await record(services, exchange, access, "member.sessions.revoke", details)
        return Reply.of_json(200, {"revoked": ended}, {"Cache-Control": "no-store"})
