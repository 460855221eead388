"""The rest of /v1: what owners and admins set up, and what everybody may look up about the workspace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geko_proxy.admin_api.addresses import AddressBody, Addresses, AddressReply, TenantAddressReply
from geko_proxy.admin_api.api_keys import ApiKeyEndpoints, KeyChangeBody, NewKeyBody
from geko_proxy.admin_api.auto_join import AutoJoinBody, AutoJoinReply, AutoJoins
from geko_proxy.admin_api.invitations import InvitationReply, Invitations, InvitationsReply, InviteBody
from geko_proxy.admin_api.limit_bodies import LimitChangeBody, LimitReply, LimitsReply, NewLimitBody
from geko_proxy.admin_api.limits import Limits
from geko_proxy.admin_api.members import MemberReply, Members, MembersReply, RoleBody
from geko_proxy.admin_api.prices import NewPriceBody, PriceReply, Prices, PricesReply
from geko_proxy.admin_api.sessions import MemberSessions
from geko_proxy.admin_api.tenant import TenantChangeBody, TenantReply, Tenants
from geko_proxy.admin_api.usage import TenantUsageReply, Usage, UsageReply
from geko_proxy.admin_api.usage_events import UsageEvents, UsageEventsReply
from geko_proxy.admin_api.usage_reconcile import ReconcileReply, UsageReconcile
from geko_proxy.admin_api.usage_stream import UsageStream
from geko_proxy.admin_api.webhooks import (
    DeliveriesReply,
    NewWebhookBody,
    NoBody,
    WebhookChangeBody,
    WebhookReply,
    Webhooks,
    WebhooksReply,
    WebhookTestReply,
)
from geko_proxy.admin_api.workspaces import (
    ConfigBody,
    ConfigReply,
    NewWorkspaceBody,
    QuotaBody,
    QuotaReply,
    WorkspaceReply,
    Workspaces,
    WorkspacesReply,
)
from geko_proxy.client_api.rules import own
from geko_proxy.librechat import Rule
from geko_proxy.proxy import Endpoint
from geko_proxy.workspaces.access import SIGNED_IN, in_own_workspace, in_tenant, in_workspace
from geko_proxy.workspaces.roles import Permission

if TYPE_CHECKING:
    from geko_proxy.services import Services

READ = in_workspace(Permission.READ_SETTINGS)
WRITE = in_workspace(Permission.WRITE_SETTINGS)
READ_USAGE = in_workspace(Permission.READ_USAGE)
READ_ALL_USAGE = in_workspace(Permission.READ_ALL_USAGE)
OWNERS = in_tenant(Permission.WRITE_TENANT)
TABLE = ("application/json", "text/csv")
ALL, ONE = "/v1/workspaces", "/v1/workspaces/{workspaceId}"
Row = tuple[str, str, Rule, Endpoint]


def routes(services: Services) -> list[Row]:
    """The table of this folder: methods, path, rule with who may call it, endpoint."""
    return [
        *workspace_routes(services),
        *usage_routes(services),
        *member_routes(services),
        *joining_routes(services),
        *address_routes(services),
        *key_routes(services),
        *limit_routes(services),
        *tenant_routes(services),
        *webhook_routes(services),
    ]


def workspace_routes(services: Services) -> list[Row]:
    """Workspaces, and what each may use and has used."""
    workspaces = Workspaces(services)
    create = own("workspaces.create", OWNERS, NewWorkspaceBody, WorkspaceReply, 201)
    put_config = own("workspaces.config.put", WRITE, ConfigBody, ConfigReply)
    put_quota = own("workspaces.quota.put", WRITE, QuotaBody, QuotaReply)
    return [
        ("GET", ALL, own("workspaces.list", SIGNED_IN, None, WorkspacesReply), workspaces.list_mine),
        ("POST", ALL, create, workspaces.create),
        ("GET", ONE, own("workspaces.get", READ, None, WorkspaceReply), workspaces.get),
        (
            "GET",
            f"{ONE}/config",
            own("workspaces.config.get", READ, None, ConfigReply),
            workspaces.get_config,
        ),
        ("PUT", f"{ONE}/config", put_config, workspaces.put_config),
        ("GET", f"{ONE}/quota", own("workspaces.quota.get", READ, None, QuotaReply), workspaces.get_quota),
        ("PUT", f"{ONE}/quota", put_quota, workspaces.put_quota),
    ]


def usage_routes(services: Services) -> list[Row]:
    """What was used, and what is being used now."""
    usage, events, live = Usage(services), UsageEvents(services), UsageStream(services)
    reconcile = UsageReconcile(services)
    of_workspace = own("workspaces.usage", READ_USAGE, None, UsageReply, media=TABLE)
    of_tenant = own("usage.tenant", OWNERS, None, TenantUsageReply, media=TABLE)
    ledger = own("workspaces.usage.events", READ_USAGE, None, UsageEventsReply, media=TABLE)
    both = own("workspaces.usage.reconcile", READ_ALL_USAGE, None, ReconcileReply, media=TABLE)
    stream = own("usage.stream", in_own_workspace(Permission.READ_USAGE), media=("text/event-stream",))
    return [
        ("GET", f"{ONE}/usage", of_workspace, usage.get),
        ("GET", f"{ONE}/usage/events", ledger, events.list_page),
        ("GET", f"{ONE}/usage/reconcile", both, reconcile.report),
        ("GET", "/v1/usage", of_tenant, usage.get_tenant),
        ("GET", "/v1/usage/stream", stream, live.listen),
    ]


def member_routes(services: Services) -> list[Row]:
    """Who is in a workspace."""
    members, sessions = Members(services), MemberSessions(services)
    leave = in_workspace(Permission.WRITE_SETTINGS, or_self=True)
    member = f"{ONE}/members/{{userId}}"
    return [
        ("GET", f"{ONE}/members", own("members.list", READ, None, MembersReply), members.list_all),
        ("PATCH", member, own("members.role", WRITE, RoleBody, MemberReply), members.set_role),
        ("DELETE", member, own("members.remove", leave, None, None, 204), members.remove),
        ("DELETE", f"{member}/sessions", own("members.sessions.revoke", WRITE), sessions.revoke),
    ]


def joining_routes(services: Services) -> list[Row]:
    """How people get into a workspace."""
    invitations, auto_joins = Invitations(services), AutoJoins(services)
    every, one = f"{ONE}/invitations", f"{ONE}/invitations/{{invitationId}}"
    auto = "/v1/tenant/auto-join"
    put_auto = own("tenant.auto_join.put", OWNERS, AutoJoinBody, AutoJoinReply)
    return [
        ("GET", every, own("invitations.list", WRITE, None, InvitationsReply), invitations.list_open),
        (
            "POST",
            every,
            own("invitations.create", WRITE, InviteBody, InvitationReply, 201),
            invitations.create,
        ),
        ("DELETE", one, own("invitations.revoke", WRITE, None, None, 204), invitations.revoke),
        ("GET", auto, own("tenant.auto_join.get", OWNERS, None, AutoJoinReply), auto_joins.get),
        ("PUT", auto, put_auto, auto_joins.put),
    ]


def address_routes(services: Services) -> list[Row]:
    """Names in the addresses of workspaces."""
    addresses = Addresses(services)
    tenant = own("tenant.address", OWNERS, AddressBody, TenantAddressReply)
    workspace = own("workspaces.address", WRITE, AddressBody, AddressReply)
    return [
        ("PUT", "/v1/tenant/address", tenant, addresses.put_tenant),
        ("PUT", f"{ONE}/address", workspace, addresses.put_workspace),
    ]


def key_routes(services: Services) -> list[Row]:
    """API keys: one's own, and those of a workspace."""
    keys, mine = ApiKeyEndpoints(services), "/v1/api-keys/{keyId}"
    of_workspace = f"{ONE}/api-keys"
    delete_one = own("workspaces.api_keys.delete", WRITE, None, None, 204)
    return [
        ("POST", "/v1/api-keys", own("api_keys.create", SIGNED_IN, NewKeyBody, None, 201), keys.create),
        ("GET", "/v1/api-keys", own("api_keys.list", SIGNED_IN), keys.list_mine),
        ("GET", mine, own("api_keys.get", SIGNED_IN), keys.get),
        ("PATCH", mine, own("api_keys.change", SIGNED_IN, KeyChangeBody), keys.change),
        ("DELETE", mine, own("api_keys.delete", SIGNED_IN, None, None, 204), keys.delete),
        ("GET", of_workspace, own("workspaces.api_keys", WRITE), keys.list_of_workspace),
        ("DELETE", f"{of_workspace}/{{keyId}}", delete_one, keys.delete_of_workspace),
    ]


def limit_routes(services: Services) -> list[Row]:
    """What may be used, beside the workspace's quota."""
    limits = Limits(services)
    every, one = f"{ONE}/limits", f"{ONE}/limits/{{limitId}}"
    create = own("limits.create", WRITE, NewLimitBody, LimitReply, 201)
    return [
        ("GET", every, own("limits.list", READ, None, LimitsReply), limits.list_all),
        ("POST", every, create, limits.create),
        ("GET", one, own("limits.get", READ, None, LimitReply), limits.get),
        ("PATCH", one, own("limits.change", WRITE, LimitChangeBody, LimitReply), limits.change),
        ("DELETE", one, own("limits.delete", WRITE, None, None, 204), limits.delete),
    ]


def tenant_routes(services: Services) -> list[Row]:
    """The organisation: its time zone, and what models cost it."""
    tenants, prices = Tenants(services), Prices(services)
    change = own("tenant.change", OWNERS, TenantChangeBody, TenantReply)
    create = own("prices.create", OWNERS, NewPriceBody, PriceReply, 201)
    delete = own("prices.delete", OWNERS, None, None, 204)
    return [
        ("GET", "/v1/tenant", own("tenant.get", SIGNED_IN, None, TenantReply), tenants.get),
        ("PATCH", "/v1/tenant", change, tenants.change),
        ("GET", "/v1/prices", own("prices.list", OWNERS, None, PricesReply), prices.list_all),
        ("POST", "/v1/prices", create, prices.create),
        ("DELETE", "/v1/prices/{priceId}", delete, prices.delete),
    ]


def webhook_routes(services: Services) -> list[Row]:
    """Who is told of quotas: for one workspace, and for all of the tenant."""
    found: list[Row] = []
    for base, name, rule in ((ONE, "workspaces.webhooks", WRITE), ("/v1/tenant", "tenant.webhooks", OWNERS)):
        webhooks = Webhooks(services, of_tenant=rule is OWNERS)
        every, one = f"{base}/webhooks", f"{base}/webhooks/{{webhookId}}"
        create = own(f"{name}.create", rule, NewWebhookBody, WebhookReply, 201)
        change = own(f"{name}.change", rule, WebhookChangeBody, WebhookReply)
        deliveries = own(f"{name}.deliveries", rule, None, DeliveriesReply)
        found += [
            ("GET", every, own(f"{name}.list", rule, None, WebhooksReply), webhooks.list_all),
            ("POST", every, create, webhooks.create),
            ("PATCH", one, change, webhooks.change),
            ("DELETE", one, own(f"{name}.delete", rule, None, None, 204), webhooks.delete),
            ("POST", f"{one}/test", own(f"{name}.test", rule, NoBody, WebhookTestReply, 202), webhooks.test),
            ("GET", f"{one}/deliveries", deliveries, webhooks.deliveries),
        ]
    return found
