"""What becomes of LibreChat's replies that tell what may be used: one function an operation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange
from geko_proxy.metering.limits import EVERY_MEMBER, LimitScope
from geko_proxy.policy import discovery
from geko_proxy.policy.enforcement import MODELS_OF_AGENTS_API, allowed_favorites
from geko_proxy.policy.guard import Guard
from geko_proxy.policy.librechat_view import read_specs
from geko_proxy.policy.selection import BadSelection, read_agent, read_choice
from geko_proxy.policy.social_logins import social_logins
from geko_proxy.workspaces.config import WorkspaceConfig

if TYPE_CHECKING:
    from geko_proxy.services import Services

Rewrite = Callable[[Any, Exchange, Guard, "Services"], Awaitable[Any]]

CONCURRENT_CALLS: Final = 8


async def config(value: Any, exchange: Exchange, guard: Guard | None, services: Services) -> Any:
    """LibreChat's configuration; its sign-in page asks for it before there is an account (guard None)."""
    specs: set[str] | None = None
    if guard is not None and guard.restricted:
        found = read_specs(discovery.object_of(value)).by_name
        specs = {name for name, spec in found.items() if await guard.allows_spec(spec)}
    return discovery.filter_config(
        value,
        registration=services.settings.auth.registration,
        mail=services.settings.mail.transport != "off",
        min_password=services.settings.auth.password_min_length,
        public_url=services.settings.server.public_url or _own_address(exchange),
        specs=specs,
        config=guard.config if guard is not None else WorkspaceConfig(),
        social=social_logins(services.settings.oauth),
        balance=await _has_balance(exchange, services),
    )


async def _has_balance(exchange: Exchange, services: Services) -> bool:
    """Whether a limit holds for the caller whatever model is asked, so that the page can show what is left."""
    identity = exchange.user
    if identity is None:
        return False
    limits = await services.limits.list(identity.tenant_id, identity.workspace_id)
    mine = (EVERY_MEMBER, str(identity.user_id))
    return any(
        limit.amount is not None
        and (
            limit.scope is LimitScope.WORKSPACE
            or (limit.scope is LimitScope.MEMBER and limit.subject in mine)
        )
        for limit in limits
    )


async def user(value: Any, exchange: Exchange, guard: Guard, services: Services) -> Any:
    """The account; the person's name and address are GEKO's."""
    identity = exchange.signed_in()
    person = await services.users.get(identity.tenant_id, identity.user_id)
    if person is None or person.disabled_at is not None:
        raise Refused(401, "not_signed_in", "This account can't be used any more.")
    listed = discovery.object_of(value).get("favorites")
    favorites = None
    if guard.restricted and isinstance(listed, list):
        favorites = await allowed_favorites(listed, guard)
    return discovery.filter_user(
        value,
        name=person.name,
        email=person.email,
        username=person.username or "",
        favorites=favorites,
        avatar=person.avatar,
        two_factor=person.two_factor,
    )


async def endpoints(value: Any, exchange: Exchange, guard: Guard, services: Services) -> Any:
    """The endpoints."""
    return discovery.filter_endpoints(value, guard.config)


async def token_config(value: Any, exchange: Exchange, guard: Guard, services: Services) -> Any:
    """Sizes and prices of models."""
    return discovery.filter_token_config(value, guard.config)


async def models(value: Any, exchange: Exchange, guard: Guard, services: Services) -> Any:
    """The models of each endpoint."""
    return discovery.filter_models(value, guard.config)


async def role(value: Any, exchange: Exchange, guard: Guard, services: Services) -> Any:
    """The permissions by which the web client shows its features."""
    return discovery.filter_role(value)


async def agent_list(value: Any, exchange: Exchange, guard: Guard, services: Services) -> Any:
    """A list of agents. It does not name their models, so each is looked up."""
    return discovery.filter_agents(value, await _allowed_agents(discovery.ids_of_agents(value), guard))


async def agent(value: Any, exchange: Exchange, guard: Guard, services: Services) -> Any:
    """One agent; hidden when it, or one it leads to, may not be used."""
    document = discovery.object_of(value)
    try:
        choice = read_agent(document)
    except BadSelection as error:
        raise discovery.UnexpectedShape(str(error)) from None
    try:
        guard.check_choice(choice)
        await guard.check_agents(choice.agents if choice.complete else [exchange.params["id"]])
    except Refused:
        hidden = {"error": "Not Found", "message": "agent not found"}
        raise Refused(404, "not_found", "agent not found", librechat=hidden) from None
    return document


async def servers(value: Any, exchange: Exchange, guard: Guard, services: Services) -> Any:
    """The MCP servers."""
    return discovery.filter_servers(value, guard.config.allows_mcp)


async def mcp_tools(value: Any, exchange: Exchange, guard: Guard, services: Services) -> Any:
    """The tools of MCP servers."""
    return discovery.filter_mcp_tools(discovery.object_of(value), guard.config.allows_mcp)


async def mcp_status(value: Any, exchange: Exchange, guard: Guard, services: Services) -> Any:
    """Which MCP servers are connected."""
    return discovery.filter_mcp_status(discovery.object_of(value), guard.config.allows_mcp)


async def tools(value: Any, exchange: Exchange, guard: Guard, services: Services) -> Any:
    """The tools for agents."""
    return discovery.filter_tools(value, guard.config.allows_mcp)


async def presets(value: Any, exchange: Exchange, guard: Guard, services: Services) -> Any:
    """The stored presets that can be used."""
    return [each for each in discovery.list_of(value) if await _allows_preset(each, guard)]


async def favorites(value: Any, exchange: Exchange, guard: Guard, services: Services) -> Any:
    """The favourites that can be used."""
    return await allowed_favorites(discovery.list_of(value), guard)


async def agents_api(value: Any, exchange: Exchange, guard: Guard, services: Services) -> Any:
    """The models of the OpenAI-like API: agents, or one of them."""
    if exchange.params["rest"].lower() in MODELS_OF_AGENTS_API:
        return await agent_list(value, exchange, guard, services)
    model = discovery.object_of(value).get("id")
    if not isinstance(model, str) or not await guard.allows_agent(model):
        raise Refused(404, "model_not_found", "There is no such model.")
    return value


ALWAYS: Final[Mapping[str, Rewrite]] = {"user": user, "role": role}
ORDERED: Final[Mapping[str, Rewrite]] = {"endpoints": endpoints, "models": models}
RESTRICTED: Final[Mapping[str, Rewrite]] = {
    "token_config": token_config,
    "agents.list": agent_list,
    "agents.get": agent,
    "agents.expanded": agent,
    "agents.tools": tools,
    "mcp.servers": servers,
    "mcp.tools": mcp_tools,
    "mcp.status": mcp_status,
    "presets": presets,
    "favorites": favorites,
}


def find_rewrite(exchange: Exchange, guard: Guard) -> Rewrite | None:
    """The function for an operation's reply; None: nothing in it depends on the workspace as it is configured."""
    operation = exchange.operation
    if operation in ALWAYS:
        return ALWAYS[operation]
    config = guard.config
    if operation in ORDERED and (
        guard.restricted or config.default_model is not None or config.hidden_endpoints
    ):
        return ORDERED[operation]
    if not guard.restricted:
        return None
    if operation == "agents_api" and exchange.request.method == "GET":
        path = exchange.params["rest"].lower()
        return agents_api if path in MODELS_OF_AGENTS_API or path.startswith("models/") else None
    return RESTRICTED.get(operation)


async def _allowed_agents(ids: Sequence[str], guard: Guard) -> set[str]:
    free = asyncio.Semaphore(CONCURRENT_CALLS)

    async def check(agent_id: str) -> bool:
        async with free:
            return await guard.allows_agent(agent_id)

    verdicts = await asyncio.gather(*map(check, ids))
    return {agent_id for agent_id, allowed in zip(ids, verdicts, strict=True) if allowed}


async def _allows_preset(preset: Mapping[str, Any], guard: Guard) -> bool:
    try:
        return await guard.allows_data(read_choice(preset))
    except BadSelection:
        return False


def _own_address(exchange: Exchange) -> str:
    scheme = "https" if exchange.request.secure else "http"
    return f"{scheme}://{exchange.request.headers.get('Host', 'localhost')}"
