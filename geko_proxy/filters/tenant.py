"""The tenant: may it work, and does the picture or shared link that is asked for belong to it.

LibreChat shows shared links to every account and agents' pictures to everybody who is signed in (contract traps 7, 12).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from geko_proxy.errors import UpstreamError
from geko_proxy.filters.base import Exchange, Filter, Refused, Reply, Route
from geko_proxy.storage.recent import Recent
from geko_proxy.workspaces.shared_links import SharedLink
from geko_proxy.workspaces.tenants import Tenant, TenantStatus

if TYPE_CHECKING:
    from geko_proxy.accounts.tokens import Identity
    from geko_proxy.services import Services

ANONYMOUS: Final = frozenset({"config", "banner"})  # LibreChat's sign-in page asks for them
AGENT_PICTURE: Final = "agent-"
LINK_OPERATIONS: Final = frozenset({"shares.create", "shares.write", "shares.of_conversation"})
REACHES: Final = ("workspace", "tenant")


@dataclass(frozen=True, slots=True)
class TenantOptions:
    """shared_links: who may open a shared link: "workspace", its maker's; "tenant", every workspace of the tenant."""

    shared_links: str = "workspace"

    def __post_init__(self) -> None:
        if self.shared_links not in REACHES:
            raise ValueError(f"shared_links: expected one of {', '.join(REACHES)}, got {self.shared_links!r}")


class TenantFilter(Filter):
    """Refuses callers whose tenant is not active, and pictures and links of others; sets `exchange.tenant`."""

    name: ClassVar[str] = "tenant"
    Options: ClassVar[type] = TenantOptions
    routes: ClassVar[frozenset[Route]] = frozenset(
        {
            Route.CHAT,
            Route.STREAM,
            Route.CONTROL,
            Route.DISCOVERY,
            Route.API,
            Route.AGENTS_API,
            Route.MEDIA,
            Route.OWN,
            Route.LLM,
        }
    )

    def __init__(self, options: TenantOptions, services: Services) -> None:
        super().__init__(options, services)
        self._within_workspace = options.shared_links == "workspace"
        self._tenants = services.tenants
        self._recent: Recent[Tenant] = Recent(services.tenants)

    async def on_request(self, exchange: Exchange) -> Reply | None:
        if exchange.user is None and exchange.operation in ANONYMOUS:
            return None
        identity = exchange.signed_in()
        exchange.tenant = self._recent.get(identity.tenant_id) or await self._active(identity)
        if exchange.route is Route.MEDIA:
            await self._check_picture(exchange, identity)
        elif exchange.operation == "shares.read":
            await self._check_link(exchange, identity)
        elif exchange.operation in LINK_OPERATIONS:
            exchange.request.set_header("accept-encoding", "identity")  # the reply's share id is read
        return None

    async def _active(self, identity: Identity) -> Tenant:
        stamp = self._recent.stamp()
        tenant = await self._tenants.get(identity.tenant_id)
        if tenant is None or tenant.status is not TenantStatus.ACTIVE:
            raise Refused(403, "tenant_not_active", "Your organisation's access is suspended.")
        self._recent.put(identity.tenant_id, tenant, stamp)
        return tenant

    async def on_reply(self, exchange: Exchange) -> Reply | None:
        reply = exchange.reply
        if exchange.operation not in LINK_OPERATIONS or reply is None or reply.status != 200:
            return None
        if exchange.request.method != "HEAD":
            await self._record(exchange, await reply.json())
        return None

    async def _record(self, exchange: Exchange, value: Any) -> None:
        identity = exchange.signed_in()
        links = self.services.shared_links
        old = exchange.params.get("shareId")
        if old is not None:  # a changed link gets a new id; a deleted one none
            await links.delete(identity.tenant_id, old)
            if exchange.request.method == "DELETE":
                return
        share_id = value.get("shareId") if isinstance(value, dict) else None
        if isinstance(share_id, str) and share_id:
            link = SharedLink(identity.tenant_id, share_id, identity.workspace_id, identity.user_id)
            await links.put(link)
        elif exchange.operation != "shares.of_conversation":  # that one may find that there is none
            raise UpstreamError("LibreChat made a shared link without an id")

    async def _check_link(self, exchange: Exchange, identity: Identity) -> None:
        link = await self.services.shared_links.get(identity.tenant_id, exchange.params["shareId"])
        if link is None or (self._within_workspace and link.workspace_id != identity.workspace_id):
            raise Refused(404, "not_found", "Shared link not found")

    async def _check_picture(self, exchange: Exchange, identity: Identity) -> None:
        """Only pictures of the caller's own account, and agents' pictures of the tenant."""
        account_id, file = exchange.params["userId"], exchange.params["file"]
        shadow = await self.services.shadows.get(identity.tenant_id, identity.workspace_id, identity.user_id)
        if account_id == shadow.librechat_user_id:
            return
        if file.startswith(AGENT_PICTURE) and "/" not in file:
            owner = await self.services.shadow_store.find_owner(identity.tenant_id, account_id)
            if owner is not None:
                return
        raise Refused(403, "forbidden", "Access Denied")
