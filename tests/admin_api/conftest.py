"""A tenant with two workspaces and four people, and requests as the proxy hands them over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import msgspec
import pytest
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from geko_proxy.accounts.api_keys import ApiKeys
from geko_proxy.accounts.registration import Registered, Registration
from geko_proxy.accounts.tokens import Identity
from geko_proxy.accounts.users import UserStore
from geko_proxy.admin_api import routes
from geko_proxy.admin_api.access import guarded
from geko_proxy.config import Settings
from geko_proxy.exchange import Exchange, Request, Route
from geko_proxy.metering.limits import LimitStore
from geko_proxy.metering.usage_views import UsageViews
from geko_proxy.services import Services
from geko_proxy.storage.database import Database
from geko_proxy.workspaces.audit import Audit
from geko_proxy.workspaces.config import WorkspaceConfigStore
from geko_proxy.workspaces.members import MemberStore
from geko_proxy.workspaces.roles import Role
from geko_proxy.workspaces.tenants import TenantStore
from geko_proxy.workspaces.workspaces import Workspace, WorkspaceStore

PASSWORD = "Correct-Horse-9"


@dataclass
class Office:
    """owner: of both workspaces; admin, member, viewer: of the first; stranger: of another tenant."""

    services: Services
    first: Registered
    second: Workspace
    users: dict[str, UUID]
    stranger: Registered

    def call(
        self, who: str, workspace_id: object = None, body: Any = None, query: str = "", **headers: str
    ) -> tuple[Exchange, web.BaseRequest]:
        """A request of somebody about a workspace, the first one if none is named."""
        registered = self.stranger if who == "stranger" else self.first
        user_id = registered.user.user_id if who == "stranger" else self.users[who]
        request = Request(
            "PUT" if body is not None else "GET",
            "/",
            query,
            CIMultiDictProxy(CIMultiDict(headers)),
            client_ip="192.0.2.7",
            body=b"" if body is None else msgspec.json.encode(body),
        )
        named = self.first.workspace.workspace_id if workspace_id is None else workspace_id
        params: Mapping[str, str] = {"workspaceId": str(named)}
        exchange = Exchange("r1", request, Route.OWN, "test", params, 0.0)
        tenant, workspace = registered.tenant, registered.workspace
        # the role of the token's workspace must not matter for the one in the path
        exchange.user = Identity(user_id, tenant.tenant_id, workspace.workspace_id, Role.OWNER, user_id)
        exchange.tenant = tenant
        return exchange, cast(web.BaseRequest, None)


class Guarded:
    """Endpoints behind the access rules that the route table declares for them, as the proxy calls them."""

    def __init__(self, services: Services, endpoints: Any) -> None:
        self._services = services
        self._endpoints = endpoints
        self._rows = {row[3].__func__: row for row in routes(services)}  # type: ignore[attr-defined]  # bound methods

    def __getattr__(self, name: str) -> Any:
        endpoint = getattr(self._endpoints, name)
        _, path, rule, _ = self._rows[endpoint.__func__]
        return guarded(self._services, path, rule, endpoint)


@pytest.fixture
async def office(database: Database) -> Office:
    parts: dict[str, Any] = dict.fromkeys(Services.__dataclass_fields__)
    limits = LimitStore(database)
    registration, workspaces = Registration(database), WorkspaceStore(database)
    parts |= {
        "database": database,
        "tenants": TenantStore(database),
        "workspaces": workspaces,
        "members": MemberStore(database),
        "configs": WorkspaceConfigStore(database),
        "limits": limits,
        "usage": UsageViews.build(database, limits),
        "settings": Settings(),
        "audit": Audit(),
        "api_keys": ApiKeys(database),
        "users": UserStore(database),
    }
    first = await register(registration, "owner@a.example")
    stranger = await register(registration, "owner@b.example")
    users = {"owner": first.user.user_id}
    for role in (Role.ADMIN, Role.MEMBER, Role.VIEWER):
        added = await registration.add_member(
            first.tenant.tenant_id,
            first.workspace.workspace_id,
            f"{role}@a.example",
            PASSWORD,
            role.title(),
            role,
        )
        users[role.value] = added.user_id
    second = await workspaces.create(first.tenant.tenant_id, "Second", users["owner"])
    return Office(Services(**parts), first, second, users, stranger)


async def register(registration: Registration, email: str) -> Registered:
    return await registration.register(email=email, password=PASSWORD, name="Owner", token_limit=1000)


@pytest.fixture
def value() -> Callable[[Any], Any]:
    """Decodes a reply's body."""
    return lambda reply: msgspec.json.decode(reply.body)
