"""Hand-written stand-ins for the stores and for LibreChat's client, and builders for exchanges. Not a test."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import msgspec
from multidict import CIMultiDict, CIMultiDictProxy

from geko_proxy.accounts.shadow import Shadow
from geko_proxy.accounts.shadow_store import ShadowAccount
from geko_proxy.accounts.tokens import Identity
from geko_proxy.accounts.users import User
from geko_proxy.config import Settings
from geko_proxy.exchange import Exchange, Reply, Request, Route
from geko_proxy.librechat import Classifier
from geko_proxy.librechat_client import Answer, LibreChatClient
from geko_proxy.metering.limits import Limit
from geko_proxy.services import Services
from geko_proxy.workspaces.config import WorkspaceConfig
from geko_proxy.workspaces.hosts import WorkspaceHosts
from geko_proxy.workspaces.roles import Role
from geko_proxy.workspaces.shared_links import SharedLink
from geko_proxy.workspaces.tenants import Tenant, TenantStatus
from geko_proxy.workspaces.workspaces import Workspace

TENANT, WORKSPACE, USER = uuid4(), uuid4(), uuid4()
OPEN = WorkspaceConfig()
ACME = Tenant(TENANT, "Acme", "UTC", TenantStatus.ACTIVE)
DEFAULT = Workspace(TENANT, WORKSPACE, "Default", None)
PAT = User(TENANT, USER, "p@acme.test", "Pat", None, datetime.now(UTC), None)
ACCOUNT = "6b032e55267c468b9988490f"
MODELS = {
    "openAI": ["gpt-5.5"],  # listed, but switched off
    "Mock": ["gpt-4o", "gpt-4o-mini"],
    "Other": ["claude", "gpt-4o-mini"],
}
ENDPOINTS = {"agents": {"order": 0}, "Other": {"order": 2}, "Mock": {"order": 1, "type": "custom"}}


class FakeLibreChat:
    """LibreChat's client, answering from what the test puts in. calls: what was asked for."""

    def __init__(self, *, agents: dict[str, Any] | None = None, config: dict[str, Any] | None = None) -> None:
        self.agents = agents or {}
        self.configuration = config or {}
        self.calls: list[str] = []

    async def agent(self, bearer: str, agent_id: str) -> Any:
        self.calls.append(f"agent {agent_id}")
        return self.agents.get(agent_id)

    async def models(self, bearer: str) -> Any:
        self.calls.append("models")
        return MODELS

    async def config(self, bearer: str) -> Any:
        self.calls.append("config")
        return self.configuration

    async def call(self, method: str, path: str, *, bearer: str) -> Answer:
        self.calls.append(f"{method} {path}")
        return Answer(200, ENDPOINTS)

    def as_client(self) -> LibreChatClient:
        return cast(LibreChatClient, self)


@dataclass
class World:
    """What the fake stores know; a test changes it at will."""

    librechat: FakeLibreChat = field(default_factory=FakeLibreChat)
    config: WorkspaceConfig = OPEN
    role: Role | None = Role.MEMBER
    tenant: Tenant | None = ACME
    workspace: Workspace | None = DEFAULT
    user: User | None = PAT
    links: dict[tuple[UUID, str], SharedLink] = field(default_factory=dict)
    accounts: list[ShadowAccount] = field(default_factory=list)
    settings: Settings = field(default_factory=Settings)
    limits: tuple[Limit, ...] = ()
    reads: list[str] = field(default_factory=list)

    def services(self) -> Services:
        """The services whose methods the tenant and workspace filters call."""
        return cast(
            Services,
            SimpleNamespace(
                client=self.librechat,
                settings=self.settings,
                tenants=SimpleNamespace(generation=None, get=self._returns("tenant")),
                workspaces=SimpleNamespace(get=self._returns("workspace")),
                members=SimpleNamespace(generation=None, role=self._returns("role")),
                configs=SimpleNamespace(generation=None, get=self._returns("config")),
                limits=SimpleNamespace(list=self._returns("limits")),
                users=SimpleNamespace(get=self._returns("user")),
                shadows=SimpleNamespace(get=self._shadow, bearer=self._bearer),
                shadow_store=SimpleNamespace(find_owner=self._find_owner),
                hosts=WorkspaceHosts(cast(Any, None), None, ""),
                shared_links=SimpleNamespace(get=self._link, put=self._put, delete=self._delete),
            ),
        )

    def _returns(self, name: str) -> Any:
        async def get(*ids: UUID) -> Any:
            assert ids == (TENANT, WORKSPACE, USER)[: len(ids)] or ids == (TENANT, USER)
            self.reads.append(name)
            return getattr(self, name)

        return get

    async def _shadow(self, tenant_id: UUID, workspace_id: UUID, user_id: UUID) -> Shadow:
        return Shadow(ACCOUNT, "shadow@geko.test")

    async def _bearer(self, shadow: Shadow) -> str:
        return "bearer"

    async def _find_owner(self, tenant_id: UUID, account_id: str) -> ShadowAccount | None:
        for account in self.accounts:
            if (account.tenant_id, account.librechat_user_id) == (tenant_id, account_id):
                return account
        return None

    async def _link(self, tenant_id: UUID, share_id: str) -> SharedLink | None:
        return self.links.get((tenant_id, share_id))

    async def _put(self, link: SharedLink) -> None:
        self.links.setdefault((link.tenant_id, link.share_id), link)

    async def _delete(self, tenant_id: UUID, share_id: str) -> None:
        self.links.pop((tenant_id, share_id), None)


def identity() -> Identity:
    """The caller."""
    return Identity(USER, TENANT, WORKSPACE, Role.MEMBER, uuid4(), 2e9)


def account_of(account_id: str, workspace_id: UUID, tenant_id: UUID = TENANT) -> ShadowAccount:
    """A shadow account of somebody."""
    return ShadowAccount(tenant_id, workspace_id, uuid4(), account_id, "s@geko.test", datetime.now(UTC))


def exchange_of(
    method: str, path: str, body: Any = None, *, user: Identity | None = None, anonymous: bool = False
) -> Exchange:
    """An exchange as the proxy classifies it."""
    rule, params = Classifier([]).classify(method, path)
    raw = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
    headers = CIMultiDictProxy(CIMultiDict({"Host": "geko.test"}))
    request = Request(method, path, "", headers, body=raw if raw is not None else b"")
    exchange = Exchange("x1", request, rule.route, rule.operation, params, 0.0)
    exchange.user = None if anonymous else user or identity()
    return exchange


def own_exchange(operation: str) -> Exchange:
    """An exchange for an endpoint of GEKO's own."""
    request = Request("GET", "/v1/x", "", CIMultiDictProxy(CIMultiDict()))
    exchange = Exchange("x1", request, Route.OWN, operation, {}, 0.0)
    exchange.user = identity()
    return exchange


def reply_of(value: Any, status: int = 200) -> Reply:
    """A reply of LibreChat's, with the headers that must not survive a change."""
    return Reply.of_json(status, value, {"ETag": 'W/"1"', "Content-Length": "9999"})


def agent(model: str = "gpt-4o-mini", provider: str = "Mock", **more: Any) -> dict[str, Any]:
    """An agent's document."""
    return {"provider": provider, "model": model, "tools": [], "model_parameters": {}, **more}
