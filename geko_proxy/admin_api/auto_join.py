"""/v1/tenant/auto-join: the mail domains whose people join a workspace by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal
from uuid import UUID

from aiohttp import web
from msgspec import Meta

from geko_proxy.admin_api.access import record_in
from geko_proxy.client_api.shapes import Shape
from geko_proxy.client_api.validation import Body, invalid, parse
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.workspaces.auto_join import AutoJoin, DomainTaken, domain_problems
from geko_proxy.workspaces.roles import Role

if TYPE_CHECKING:
    from geko_proxy.services import Services

Domains = Annotated[list[Annotated[str, Meta(min_length=1, max_length=253)]], Meta(max_length=20)]


class AutoJoinBody(Body, frozen=True):
    """PUT /v1/tenant/auto-join. No domains: off. workspaceId, role: where people go, and as what."""

    domains: Domains
    workspace_id: UUID | None = None
    role: Literal["member", "viewer"] = "member"


class AutoJoinReply(Shape, frozen=True):
    """Whoever has a verified address of one of the domains joins the workspace. No domains: off."""

    domains: list[str]
    workspace_id: UUID | None
    role: Role | None


class AutoJoins:
    """The endpoints."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def get(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """The tenant's setting."""
        setting = await self._services.auto_joins.get(exchange.signed_in().tenant_id)
        return Reply.of_json(200, auto_join_reply(setting), {"Cache-Control": "no-store"})

    async def put(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """Replace the setting.

        Each domain must be that of the caller's own verified address, and no other tenant's (409). Only for a
        workspace that the caller owns.
        """
        services, identity = self._services, exchange.signed_in()
        body = parse(AutoJoinBody, await exchange.request.json())
        setting = await self._checked(exchange, body)
        async with services.database.tenant(identity.tenant_id) as scope:
            try:
                await services.auto_joins.put(scope, setting, identity.user_id)
            except DomainTaken:
                text = "Another organisation uses one of these domains."
                raise Refused(409, "domain_taken", text) from None
            details = {"domains": body.domains, "workspaceId": body.workspace_id, "role": body.role}
            target = f"tenant/{identity.tenant_id}"
            await record_in(scope, services, exchange, identity.user_id, "tenant.auto_join", target, details)
        return Reply.of_json(200, auto_join_reply(setting), {"Cache-Control": "no-store"})

    async def _checked(self, exchange: Exchange, body: AutoJoinBody) -> AutoJoin | None:
        """The setting. Raises Refused 400 for domains that are not the caller's to give, 403, 404."""
        if not body.domains:
            return None
        identity, services = exchange.signed_in(), self._services
        if body.workspace_id is None:
            raise invalid({"workspaceId": "Required with domains."})
        role = await services.members.role(identity.tenant_id, body.workspace_id, identity.user_id)
        if role is None:
            raise Refused(404, "workspace_not_found", "There is no such workspace.")
        if role is not Role.OWNER:
            raise Refused(403, "forbidden", f"Your role in this workspace ({role}) does not allow this.")
        domains = tuple(dict.fromkeys(domain.strip().lower() for domain in body.domains))
        own = await services.auto_joins.verified_domain(identity.tenant_id, identity.user_id)
        known = await services.auto_joins.get(identity.tenant_id)
        kept = known.domains if known is not None else ()  # another owner has proven those
        problems = domain_problems(domains, {*kept, *([own] if own is not None else [])})
        if problems:
            raise invalid(problems)
        return AutoJoin(domains, body.workspace_id, Role(body.role))


def auto_join_reply(setting: AutoJoin | None) -> AutoJoinReply:
    """The JSON of a setting."""
    if setting is None:
        return AutoJoinReply(domains=[], workspace_id=None, role=None)
    return AutoJoinReply(domains=list(setting.domains), workspace_id=setting.workspace_id, role=setting.role)
