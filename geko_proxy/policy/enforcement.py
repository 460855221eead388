"""What requests other than chat messages may select, checked before they reach LibreChat: one function an operation.

Bodies that were checked are sent on as GEKO read them: LibreChat also takes form-encoded bodies, and the same bytes
can be harmless JSON and a harmful form.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange
from geko_proxy.llm.call import model_call_of
from geko_proxy.policy.guard import Guard, agent_refused, bad_selection, model_refused
from geko_proxy.policy.librechat_view import UnresolvableAgent
from geko_proxy.policy.selection import (
    AGENT_PREFIX,
    AGENTS,
    AgentChoice,
    BadSelection,
    read_agent,
    read_choice,
    read_name,
)

if TYPE_CHECKING:
    from geko_proxy.services import Services

Check = Callable[[Exchange, Guard, "Services"], Awaitable[None]]

MCP_PLUGIN: Final = "mcp_"
CALLABLE_TOOLS: Final = frozenset({"execute_code"})
MAX_LISTED: Final = 200  # each may cost a call to LibreChat
AGENT_FIELDS: Final = ("provider", "model")
MODELS_OF_AGENTS_API: Final = frozenset({"models", "responses/models"})


async def check_chat(exchange: Exchange, guard: Guard, services: Services) -> None:
    """Check a chat message in every field that selects; note its model for the quota."""
    named = exchange.params.get("endpoint")
    body, exchange.model = await guard.check_chat(
        await exchange.request.json(), unquote(named) if named is not None else None
    )
    send_body(exchange, body)


def check_model_call(exchange: Exchange) -> None:
    """A call of a model that LibreChat makes: the last wall for agents, presets, and what nobody has sent.

    What an API key may use holds for the answers to its messages; LibreChat chooses the models of titles and the like.
    """
    call = model_call_of(exchange)
    if call is None or exchange.config is None:
        return
    parent = call.origin.parent
    if call.origin.makes_answer and parent is not None and parent.key_models is not None:
        exchange.config = replace(exchange.config, key_models=parent.key_models)
    if not exchange.config.allows_model(call.provider, call.shape.model):
        raise model_refused(call.provider, call.shape.model)


async def check_projection(exchange: Exchange, guard: Guard, services: Services) -> None:
    """The context gauge: it calls no model, but tells of one."""
    if not guard.restricted:
        return
    body = await exchange.request.json()
    try:
        choice = read_choice({**body, "agent_id": body.get("agentId")})
    except BadSelection as error:
        raise bad_selection(error) from None
    await guard.check_data(choice)
    send_body(exchange, body)


async def drop_favorites(exchange: Exchange, guard: Guard, services: Services) -> None:
    """Leave out favourites that can't be used: the client sends the whole list, with what it knew before."""
    if not guard.restricted:
        return
    body = await exchange.request.json()
    listed = body.get("favorites")
    if not isinstance(listed, list) or len(listed) > MAX_LISTED:
        raise bad_selection(f"favorites must be a list of at most {MAX_LISTED}")
    send_body(exchange, {**body, "favorites": await allowed_favorites(listed, guard)})


async def allowed_favorites(listed: list[Any], guard: Guard) -> list[Any]:
    """The favourites that may be used: agents, models, specs."""
    return [each for each in listed if isinstance(each, dict) and await _allows_favorite(each, guard)]


async def check_plugin(exchange: Exchange, guard: Guard, services: Services) -> None:
    """Credentials for a tool or an MCP server; taking them away is always possible."""
    if guard.config.mcp_servers is None:
        return
    body = await exchange.request.json()
    try:
        key = read_name(body, "pluginKey") or ""
    except BadSelection as error:
        raise bad_selection(error) from None
    if key.startswith(MCP_PLUGIN) and body.get("action") != "uninstall":
        guard.check_servers([key.removeprefix(MCP_PLUGIN)])
    send_body(exchange, body)


async def check_mcp_server(exchange: Exchange, guard: Guard, services: Services) -> None:
    """A call that names an MCP server in its path."""
    guard.check_servers([unquote(exchange.params["name"])])


async def check_agent_write(exchange: Exchange, guard: Guard, services: Services) -> None:
    """A new or changed agent: its model, its tools, and every agent it leads to."""
    body = await exchange.request.json()
    parameters = body.get("model_parameters")
    if isinstance(parameters, dict) and "disableStreaming" in parameters:
        kept = {key: value for key, value in parameters.items() if key != "disableStreaming"}
        body = {**body, "model_parameters": kept}  # nothing could be cut in flight
    agent_id = exchange.params.get("id")
    if agent_id is not None:
        guard.view.forget_agent(agent_id)
    if guard.restricted:
        choice = _read_agent(await _with_stored_model(body, agent_id, guard))
        guard.check_choice(choice)
        await guard.check_agents(choice.agents - {agent_id})
    send_body(exchange, body)


async def check_agent_copy(exchange: Exchange, guard: Guard, services: Services) -> None:
    """Duplicating an agent: the copy selects what the original does."""
    if guard.restricted:
        await guard.check_agents([exchange.params["id"]])


async def check_agent_revert(exchange: Exchange, guard: Guard, services: Services) -> None:
    """Going back to an earlier version of an agent: that version is checked."""
    agent_id = exchange.params["id"]
    guard.view.forget_agent(agent_id)
    if not guard.restricted:
        return
    body = await exchange.request.json()
    index = body.get("version_index")
    try:
        document = await guard.view.agent_document(guard.caller, agent_id)
    except UnresolvableAgent:
        raise agent_refused() from None
    versions = document.get("versions")
    if not isinstance(versions, list) or type(index) is not int or not 0 <= index < len(versions):
        raise bad_selection("version_index names no version")
    choice = _read_agent({**document, **versions[index]} if isinstance(versions[index], dict) else {})
    guard.check_choice(choice)
    await guard.check_agents(choice.agents - {agent_id})
    send_body(exchange, body)


async def check_permissions(exchange: Exchange, guard: Guard, services: Services) -> None:
    """Sharing: never with everybody, never with accounts of another workspace (contract trap 8)."""
    body = await exchange.request.json()
    if body.get("public") or body.get("publicAccessRoleId"):
        raise Refused(403, "no_public_sharing", "Sharing with everybody is not possible here.")
    updated = body.get("updated") or []
    if not isinstance(updated, list):
        raise bad_selection("updated must be a list")
    for principal in updated:
        if not await _is_colleague(principal, exchange, services):
            raise Refused(403, "not_a_member", "Sharing is possible with members of this workspace only.")
    send_body(exchange, body)


async def check_tool_call(exchange: Exchange, guard: Guard, services: Services) -> None:
    """A direct call of a tool."""
    if unquote(exchange.params["toolId"]) not in CALLABLE_TOOLS:
        raise Refused(403, "tool_not_allowed", "This tool can't be called here.")


async def check_agents_api(exchange: Exchange, guard: Guard, services: Services) -> None:
    """LibreChat's OpenAI-like API: its "model" is an agent."""
    path = exchange.params["rest"].lower()
    method = exchange.request.method
    if method in ("GET", "HEAD"):
        if path in MODELS_OF_AGENTS_API or path.startswith(("models/", "responses/")):
            return
    elif method == "POST" and path in ("chat/completions", "responses"):
        body = await exchange.request.json()
        try:
            agent_id = read_name(body, "model")
        except BadSelection as error:
            raise bad_selection(error) from None
        if agent_id is None or not agent_id.startswith(AGENT_PREFIX):
            raise Refused(403, "model_not_allowed", "The model must be an agent's id.")
        _, exchange.model = await guard.check_chat({"endpoint": AGENTS, "agent_id": agent_id}, None)
        await _check_can_be_metered(agent_id, guard)
        send_body(exchange, body)
        return
    raise Refused(404, "not_found", "Endpoint not found")


async def _check_can_be_metered(agent_id: str, guard: Guard) -> None:
    """Refuse what the Agents API reports nothing of: sub-agents, and answers that do not stream (docs/metering.md)."""
    try:
        await guard.view.agent(guard.caller, agent_id)
    except UnresolvableAgent:
        return  # LibreChat will say that there is no such agent for this account
    try:
        found = await guard.view.reachable(guard.caller, [agent_id])
    except UnresolvableAgent:
        reason = "it can't be looked into, and agents that use sub-agents are not metered there"
        raise _not_metered(reason) from None
    if any(each.subagents for each in found):
        raise _not_metered("it uses sub-agents, which are not metered there")
    if not all(each.streams for each in found):
        raise _not_metered("it does not stream")


def _not_metered(reason: str) -> Refused:
    text = f"This agent can't be used by the Agents API: {reason}. Use it in a chat."
    return Refused(403, "agent_not_metered", text)


CHECKS: Final[Mapping[str, Check]] = {
    "chat": check_chat,
    "context_projection": check_projection,
    "favorites.write": drop_favorites,
    "user.plugins": check_plugin,
    "mcp.use": check_mcp_server,
    "agents.write": check_agent_write,
    "agents.duplicate": check_agent_copy,
    "agents.revert": check_agent_revert,
    "permissions.write": check_permissions,
    "tools.call": check_tool_call,
    "agents_api": check_agents_api,
}


def send_body(exchange: Exchange, body: dict[str, Any]) -> None:
    """Send the body on as it was read."""
    try:
        exchange.request.set_json(body)
    except RecursionError:
        raise bad_selection("the body is nested too deep") from None


async def _allows_favorite(favorite: Mapping[str, Any], guard: Guard) -> bool:
    try:
        choice = read_choice({**favorite, "agent_id": favorite.get("agentId")})
    except BadSelection:
        return False
    return await guard.allows_data(choice)


def _read_agent(document: Mapping[str, Any]) -> AgentChoice:
    try:
        return read_agent(document)
    except BadSelection as error:
        raise bad_selection(error) from None


async def _with_stored_model(body: dict[str, Any], agent_id: str | None, guard: Guard) -> dict[str, Any]:
    """The body of a change with what it leaves as it is: a model alone says nothing without its endpoint."""
    missing = [name for name in AGENT_FIELDS if body.get(name) in (None, "")]
    if agent_id is None or len(missing) != 1:
        return body
    try:
        document = await guard.view.agent_document(guard.caller, agent_id)
    except UnresolvableAgent:
        raise agent_refused() from None
    return {**body, missing[0]: document.get(missing[0])}


async def _is_colleague(principal: Any, exchange: Exchange, services: Services) -> bool:
    if not isinstance(principal, dict) or principal.get("type") != "user":
        return False
    account_id = principal.get("id")
    if not isinstance(account_id, str):
        return False
    identity = exchange.signed_in()
    owner = await services.shadow_store.find_owner(identity.tenant_id, account_id)
    return owner is not None and owner.workspace_id == identity.workspace_id
