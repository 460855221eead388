"""/v1/tenant/address and /v1/workspaces/{workspaceId}/address: the names in {workspace}.{tenant}.example.org."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from aiohttp import web
from msgspec import Meta

from geko_proxy.admin_api.access import entered, record_in
from geko_proxy.client_api.shapes import Shape
from geko_proxy.client_api.validation import Body, invalid, parse
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.workspaces.hosts import RESERVED, SLUG, SlugTaken

if TYPE_CHECKING:
    from geko_proxy.services import Services
    from geko_proxy.storage.database import Scope

Slug = Annotated[str, Meta(pattern=rf"^{SLUG}\Z")]


class AddressBody(Body, frozen=True):
    """PUT …/address. slug: lower case letters, digits and dashes; null: no address."""

    slug: Slug | None


class TenantAddressReply(Shape, frozen=True):
    """The tenant's name in its workspaces' addresses."""

    slug: str | None


class AddressReply(Shape, frozen=True):
    """A workspace's name in its address. host: null where there is none."""

    slug: str | None
    host: str | None


class Addresses:
    """The endpoints."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def put_tenant(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """Choose the tenant's name in addresses, which is unique over the installation (409)."""
        identity, hosts = exchange.signed_in(), self._services.hosts
        slug = parse(AddressBody, await exchange.request.json()).slug
        if slug in RESERVED:
            raise invalid({"slug": "This name is reserved."})
        target = f"tenant/{identity.tenant_id}"
        await self._change(
            exchange, "tenant.address", target, slug, lambda scope: hosts.set_tenant(scope, slug)
        )
        return Reply.of_json(200, TenantAddressReply(slug=slug), {"Cache-Control": "no-store"})

    async def put_workspace(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """Choose the workspace's name in its address, which is unique within the tenant (409)."""
        access, hosts = entered(exchange), self._services.hosts
        slug = parse(AddressBody, await exchange.request.json()).slug
        target, workspace_id = f"workspace/{access.workspace_id}", access.workspace_id
        await self._change(
            exchange, "workspace.address", target, slug,
            lambda scope: hosts.set_workspace(scope, workspace_id, slug),
        )  # fmt: skip
        return await self._shown(slug, access.tenant_id, workspace_id)

    async def _change(
        self,
        exchange: Exchange,
        action: str,
        target: str,
        slug: str | None,
        change: Callable[[Scope], Awaitable[None]],
    ) -> None:
        identity = exchange.signed_in()
        try:
            async with self._services.database.tenant(identity.tenant_id) as scope:
                await change(scope)
                await record_in(
                    scope, self._services, exchange, identity.user_id, action, target, {"slug": slug}
                )
        except SlugTaken:
            raise Refused(409, "slug_taken", "This name is in use.") from None

    async def _shown(self, slug: str | None, tenant_id: UUID, workspace_id: UUID) -> Reply:
        host = await self._services.hosts.address(tenant_id, workspace_id)
        return Reply.of_json(200, AddressReply(slug=slug, host=host), {"Cache-Control": "no-store"})
