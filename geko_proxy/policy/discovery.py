"""What LibreChat's discovery replies become under a workspace's configuration (contract §5). Pure.

Every function takes a decoded reply and returns the one for the client. Raises UnexpectedShape where the reply is not
what LibreChat v0.8.7 sends: nothing that was not understood is passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from geko_proxy.policy.librechat_view import order_of
from geko_proxy.policy.selection import AGENTS, servers_of_tools
from geko_proxy.workspaces.config import WorkspaceConfig, matches

Allows = Callable[[str], bool]

# Permissions of LibreChat's role that reach beyond the workspace, or that GEKO does not serve (contract traps 1, 8).
ROLE_OFF: Final[Mapping[str, Collection[str] | None]] = {
    "PEOPLE_PICKER": None,
    "MARKETPLACE": None,
    "REMOTE_AGENTS": None,
    "MCP_SERVERS": ("CREATE", "SHARE"),
}
INTERFACE_OFF: Final[Mapping[str, Collection[str] | None]] = {
    "peoplePicker": None,
    "marketplace": None,
    "remoteAgents": None,
    "mcpServers": ("create", "share"),
}
NO_SOCIAL_LOGINS: Final[Mapping[str, Any]] = {}
PUBLIC: Final = ("SHARE_PUBLIC", "public")


class UnexpectedShape(ValueError):
    """A reply that is not what LibreChat sends."""


def filter_user(
    value: Any,
    *,
    name: str,
    email: str,
    username: str,
    favorites: list[Any] | None,
    avatar: str | None = None,
    two_factor: bool = False,
) -> Any:
    """GET /api/user: the person, not the shadow account. Its id stays: paths are built with it (contract trap 25).

    avatar: None: the picture that was uploaded in LibreChat's own settings stays.
    """
    user = {
        **_object(value),
        "name": name,
        "email": email,
        "username": username,
        "twoFactorEnabled": two_factor,
    }
    if avatar is not None:
        user["avatar"] = avatar
    if favorites is not None and "favorites" in user:
        user["favorites"] = favorites
    return user


def filter_config(
    value: Any,
    *,
    registration: bool,
    public_url: str,
    specs: Collection[str] | None,
    config: WorkspaceConfig,
    social: Mapping[str, Any] = NO_SOCIAL_LOGINS,
    mail: bool = False,
    min_password: int = 8,
    balance: bool = False,
) -> Any:
    """GET /api/config, signed in or not. specs: names of the model specs to keep, None for all of them.

    social: members that show buttons of identity providers (social_logins). mail: GEKO can send mail, so passwords
    can be reset. min_password: length that the page's forms ask for.
    balance: the page shows what is left of a limit (GET /api/balance).
    """
    result: dict[str, Any] = {
        key: False if key.endswith("LoginEnabled") and key != "emailLoginEnabled" else each
        for key, each in _object(value).items()
        if key != "rum"  # its routes are refused
    }
    result |= {
        "serverDomain": public_url,
        "emailLoginEnabled": True,
        "registrationEnabled": registration,
        "passwordResetEnabled": mail,
        "emailEnabled": False,
        "minPasswordLength": min_password,
        "openidAutoRedirect": False,
        "socialLogins": [],
        "ldap": {"enabled": False},
        "turnstile": {},
        **social,
    }
    if "balance" in result or balance:  # LibreChat's own is its money; never told to who isn't signed in
        result["balance"] = {"enabled": balance}
    for key in ("publicSharedLinksEnabled", "openidReuseTokens", "allowAccountDeletion"):
        if key in result:
            result[key] = False
    if result.get("interface") is not None:
        result["interface"] = _switch_off(_object(result["interface"]), INTERFACE_OFF)
    if result.get("modelSpecs") is not None:
        result["modelSpecs"] = _filter_specs(_object(result["modelSpecs"]), specs, config)
    return result


def filter_endpoints(value: Any, config: WorkspaceConfig) -> Any:
    """GET /api/endpoints: those that a model may be used of, and "agents"; the default model's one first."""
    endpoints = {
        name: each for name, each in _object(value).items() if name == AGENTS or allows_endpoint(config, name)
    }
    first = _default(config)[0]
    if first not in endpoints:
        return endpoints
    ordered = sorted(endpoints, key=lambda name: (name != first, order_of(endpoints[name])))
    if ordered == sorted(endpoints, key=lambda name: order_of(endpoints[name])):
        return endpoints
    return {name: {**_object(endpoints[name]), "order": place} for place, name in enumerate(ordered)}


def filter_models(value: Any, config: WorkspaceConfig) -> Any:
    """GET /api/models. The client takes the first one as its default, so the workspace's default is put first."""
    first, default = _default(config)
    result: dict[str, list[str]] = {}
    for endpoint, names in _object(value).items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UnexpectedShape(f"the models of {endpoint} are no list of texts")
        if endpoint in config.hidden_endpoints:
            continue
        allowed = [name for name in names if config.allows_model(endpoint, name)]
        if endpoint == first:
            allowed.sort(key=lambda name: name != default)
        if allowed or not config.lists_models:
            result[endpoint] = allowed
    return dict(sorted(result.items(), key=lambda item: item[0] != first))


def filter_token_config(value: Any, config: WorkspaceConfig) -> Any:
    """GET /api/endpoints/token-config: sizes and prices of the models that may be used."""
    result = {}
    for endpoint, models in _object(value).items():
        kept = {name: each for name, each in _object(models).items() if config.allows_model(endpoint, name)}
        if kept:
            result[endpoint] = kept
    return result


def filter_role(value: Any) -> Any:
    """GET /api/roles/{name}: the web client shows features by it."""
    role = _object(value)
    return {**role, "permissions": _switch_off(_object(role.get("permissions")), ROLE_OFF)}


def filter_servers(value: Any, allows: Allows) -> Any:
    """GET /api/mcp/servers: an object by server name."""
    return {name: each for name, each in _object(value).items() if allows(name)}


def filter_mcp_tools(value: Any, allows: Allows) -> Any:
    """GET /api/mcp/tools."""
    return {**_object(value), "servers": filter_servers(value.get("servers"), allows)}


def filter_mcp_status(value: Any, allows: Allows) -> Any:
    """GET /api/mcp/connection/status."""
    return {**_object(value), "connectionStatus": filter_servers(value.get("connectionStatus"), allows)}


def filter_tools(value: Any, allows: Allows) -> Any:
    """GET /api/agents/tools: a list of tools, those of MCP servers among them in some releases."""
    return [
        each for each in _objects(value) if all(map(allows, servers_of_tools([_text(each, "pluginKey")])))
    ]


def ids_of_agents(value: Any) -> list[str]:
    """The ids in a list of agents: {"data": [{"id": …}]}."""
    return [_text(each, "id") for each in _objects(_object(value).get("data"))]


def filter_agents(value: Any, allowed: Collection[str]) -> Any:
    """GET /api/agents, and the models of the Agents API: those whose id is allowed."""
    kept = [each for each in _objects(_object(value).get("data")) if each["id"] in allowed]
    result = {**value, "data": kept}
    for key, at in (("first_id", 0), ("last_id", -1)):
        if key in result:
            result[key] = kept[at]["id"] if kept else None
    return result


def list_of(value: Any) -> list[dict[str, Any]]:
    """A reply that is a list of objects (presets, favourites)."""
    return _objects(value)


def object_of(value: Any) -> dict[str, Any]:
    """A reply that is an object (an agent)."""
    return _object(value)


def allows_endpoint(config: WorkspaceConfig, endpoint: str) -> bool:
    """Whether some model of an endpoint may be used."""
    return endpoint not in config.hidden_endpoints and all(
        globs is None or any(matches(glob.partition("/")[0] + "/", endpoint, "") for glob in globs)
        for globs in (config.models, config.key_models)
    )


def _filter_specs(section: dict[str, Any], specs: Collection[str] | None, config: WorkspaceConfig) -> Any:
    result = dict(section)
    if specs is not None:
        result["list"] = [each for each in _objects(section.get("list", [])) if each.get("name") in specs]
    added = section.get("addedEndpoints")
    if isinstance(added, list):
        result["addedEndpoints"] = [
            name
            for name in added
            if isinstance(name, str) and (name == AGENTS or allows_endpoint(config, name))
        ]
    return result


def _switch_off(section: dict[str, Any], off: Mapping[str, Collection[str] | None]) -> dict[str, Any]:
    """Set to False what `off` names (None: all of a group), and all sharing with everybody."""
    result: dict[str, Any] = {}
    for name, group in section.items():
        if isinstance(group, dict):
            names = off.get(name, ())
            group = {
                key: False if names is None or key in names or key in PUBLIC else each
                for key, each in group.items()
            }
        elif name in off and isinstance(group, bool):
            group = False
        result[name] = group
    return result


def _default(config: WorkspaceConfig) -> tuple[str, str]:
    endpoint, _, model = (config.default_model or "").partition("/")
    return endpoint, model


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UnexpectedShape("an object was expected")
    return value


def _objects(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise UnexpectedShape("a list of objects was expected")
    return value


def _text(source: Mapping[str, Any], key: str) -> str:
    value = source.get(key)
    if not isinstance(value, str):
        raise UnexpectedShape(f"{key}: a text was expected")
    return value
