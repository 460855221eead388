"""/v1/workspaces: which there are, what each may use, and its monthly quota."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from geko_proxy.accounts.registration import TENANT_NAME_LENGTH, text_problems
from geko_proxy.admin_api.access import entered, record, record_in
from geko_proxy.client_api.shapes import Shape
from geko_proxy.client_api.validation import Body, invalid, parse
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.workspaces.config import InvalidConfig, VersionConflict, WorkspaceConfig
from geko_proxy.workspaces.roles import Role
from geko_proxy.workspaces.workspaces import Workspace, insert_workspace

if TYPE_CHECKING:
    from geko_proxy.services import Services

TokenLimit = Annotated[int, Meta(ge=0, le=10**18)] | None
WorkspaceName = Annotated[str, Meta(min_length=1, max_length=120)]
Names = tuple[str, ...] | UnsetType | None

FIELDS: Final = {"default_model": "defaultModel", "mcp_servers": "mcpServers"}
PROBLEM: Final = re.compile(r"(\w+)(\[\d+\])?: (.*)", re.DOTALL)


class ConfigBody(Body, frozen=True):
    """PUT …/config. A field left out stays as it is; null allows everything.

    models: globs "Endpoint/model"; mcpServers: names; fallback: "Endpoint/model" in the order in which they stand in.
    version: the one that was read, to notice another's change.
    """

    models: Names = UNSET
    default_model: str | UnsetType | None = UNSET
    mcp_servers: Names = UNSET
    fallback: tuple[str, ...] | UnsetType = UNSET
    version: Annotated[int, Meta(ge=0, lt=2**31)] | None = None


class QuotaBody(Body, frozen=True):
    """PUT …/quota. tokenLimit: tokens a month; null: unlimited."""

    token_limit: TokenLimit


class NewWorkspaceBody(Body, frozen=True):
    """POST /v1/workspaces. tokenLimit: tokens a month; null: unlimited; left out: the installation's default."""

    name: WorkspaceName
    token_limit: TokenLimit | UnsetType = UNSET


class WorkspaceReply(Shape, frozen=True):
    """A workspace. role: the caller's; current: whether the caller's token is for it."""

    id: UUID
    name: str
    role: Role
    current: bool


class WorkspacesReply(Shape, frozen=True):
    """The caller's workspaces, oldest first."""

    workspaces: list[WorkspaceReply]


class ConfigReply(Shape, frozen=True):
    """What a workspace may use; null allows everything."""

    models: list[str] | None
    default_model: str | None
    mcp_servers: list[str] | None
    fallback: list[str]
    version: int


class QuotaReply(Shape, frozen=True):
    """Tokens a month; null: unlimited."""

    token_limit: int | None


class Workspaces:
    """The endpoints."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def list_mine(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with the workspaces that the caller is a member of, oldest first."""
        identity = exchange.signed_in()
        found = await self._services.workspaces.list_for_user(identity.tenant_id, identity.user_id)
        if exchange.api_key is not None:  # it is for one workspace
            found = [each for each in found if each[0].workspace_id == identity.workspace_id]
        shapes = [workspace_shape(workspace, role, identity.workspace_id) for workspace, role in found]
        return Reply.of_json(200, {"workspaces": shapes}, {"Cache-Control": "no-store"})

    async def create(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """Create a workspace that the caller owns. For those who own a workspace of the tenant already."""
        services, identity = self._services, exchange.signed_in()
        body = parse(NewWorkspaceBody, await exchange.request.json())
        if problems := text_problems(body.name, TENANT_NAME_LENGTH):
            raise invalid({"name": " ".join(problems)})
        limit = body.token_limit
        if isinstance(limit, UnsetType):
            limit = services.settings.auth.default_token_limit or None
        async with services.database.tenant(identity.tenant_id) as scope:
            workspace = await insert_workspace(scope, body.name.strip(), identity.user_id, limit)
            details = {"name": workspace.name, "tokenLimit": limit}
            target = f"workspace/{workspace.workspace_id}"
            await record_in(scope, services, exchange, identity.user_id, "workspace.create", target, details)
        shape = workspace_shape(workspace, Role.OWNER, identity.workspace_id)
        return Reply.of_json(201, shape, {"Cache-Control": "no-store"})

    async def get(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with one workspace."""
        access = entered(exchange)
        workspace = await self._services.workspaces.get(access.tenant_id, access.workspace_id)
        if workspace is None:
            raise Refused(404, "workspace_not_found", "There is no such workspace.")
        shape = workspace_shape(workspace, access.role, exchange.signed_in().workspace_id)
        return Reply.of_json(200, shape, {"Cache-Control": "no-store"})

    async def get_config(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with what the workspace may use."""
        access = entered(exchange)
        config = await self._services.configs.get(access.tenant_id, access.workspace_id)
        return Reply.of_json(200, config_shape(config), {"Cache-Control": "no-store"})

    async def put_config(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with the new configuration; 409 when somebody else has changed it since it was read."""
        services = self._services
        access = entered(exchange)
        body = parse(ConfigBody, await exchange.request.json())
        current = await services.configs.get(access.tenant_id, access.workspace_id)
        # also without a version in the body: what it leaves out is taken from `current`
        version = current.version if body.version is None else body.version
        try:
            config = await services.configs.put(
                access.tenant_id, access.workspace_id, changed(current, body), expected_version=version
            )
        except InvalidConfig as error:
            raise invalid(problems_by_field(error)) from None
        except VersionConflict:
            text = "The configuration was changed meanwhile. Read it again."
            raise Refused(409, "version_conflict", text) from None
        shape = config_shape(config)
        await record(services, exchange, access, "workspace.config", shape)
        return Reply.of_json(200, shape, {"Cache-Control": "no-store"})

    async def get_quota(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with the monthly limit."""
        access = entered(exchange)
        limit = await self._services.limits.get_own(access.tenant_id, access.workspace_id)
        return Reply.of_json(200, {"tokenLimit": limit}, {"Cache-Control": "no-store"})

    async def put_quota(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with the new monthly limit, which answers that run now obey too."""
        services = self._services
        access = entered(exchange)
        body = parse(QuotaBody, await exchange.request.json())
        before = await services.limits.get_own(access.tenant_id, access.workspace_id)
        await services.limits.put_own(access.tenant_id, access.workspace_id, body.token_limit)
        shape = {"tokenLimit": body.token_limit}
        await record(services, exchange, access, "workspace.quota", {**shape, "before": before})
        return Reply.of_json(200, shape, {"Cache-Control": "no-store"})


def workspace_shape(workspace: Workspace, role: Role, current_id: UUID) -> dict[str, Any]:
    """The JSON of a workspace. role: the caller's; current: whether the caller's token is for it."""
    return {
        "id": workspace.workspace_id,
        "name": workspace.name,
        "role": role,
        "current": workspace.workspace_id == current_id,
    }


def config_shape(config: WorkspaceConfig) -> dict[str, Any]:
    """The JSON of a configuration."""
    return {
        "models": config.models,
        "defaultModel": config.default_model,
        "mcpServers": config.mcp_servers,
        "fallback": config.fallback,
        "version": config.version,
    }


def changed(current: WorkspaceConfig, body: ConfigBody) -> WorkspaceConfig:
    """The configuration with the fields of the body."""
    return WorkspaceConfig(
        models=current.models if isinstance(body.models, UnsetType) else body.models,
        default_model=current.default_model
        if isinstance(body.default_model, UnsetType)
        else body.default_model,
        mcp_servers=current.mcp_servers if isinstance(body.mcp_servers, UnsetType) else body.mcp_servers,
        fallback=current.fallback if isinstance(body.fallback, UnsetType) else body.fallback,
    )


def problems_by_field(error: InvalidConfig) -> dict[str, str]:
    """The store's problems ("mcp_servers[2]: …") under the names that the JSON has."""
    problems: dict[str, str] = {}
    for problem in error.problems:
        found = PROBLEM.fullmatch(problem)
        field, index, text = (found[1], found[2] or "", found[3]) if found else ("body", "", problem)
        problems.setdefault(FIELDS.get(field, field) + index, text)
    return problems
