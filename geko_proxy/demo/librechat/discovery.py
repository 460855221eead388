"""What the client asks before it chats: config, endpoints, models, roles, MCP servers (contract §5)."""

from __future__ import annotations

from aiohttp import web

from geko_proxy.demo.librechat import recorded
from geko_proxy.demo.librechat.express import Json, empty_reply, encode, json_reply, send, text_reply
from geko_proxy.demo.librechat.llm.model_lists import listed_models
from geko_proxy.demo.librechat.routes import Call, Guard, Route

_RATES = {"context": 128_000, "prompt": 2.5, "completion": 10}


async def config(call: Call) -> web.Response:
    """GET /api/config, for anonymous callers a smaller one."""
    shown: Json = dict(recorded.CONFIG_START)
    shown["registrationEnabled"] = call.lc.settings.registration
    if call.account is not None:
        start = call.lc.settings.start_balance
        balance: Json = {"enabled": start is not None}
        if start is not None:
            balance |= {"startBalance": start, "autoRefillEnabled": False}
        shown |= {**recorded.CONFIG_LOGGED_IN, **recorded.CONFIG_INTERFACE, "balance": balance}
    says = call.lc.settings.says
    known = shown.keys() | recorded.CONFIG_END.keys()  # nobody is told what only an account is told
    return json_reply({**shown, **recorded.CONFIG_END, **{k: v for k, v in says.items() if k in known}})


async def endpoints(call: Call) -> web.Response:
    """GET /api/endpoints: JSON that says text/html (recorded)."""
    agents: Json = {**recorded.AGENTS_ENDPOINT, "order": len(call.lc.endpoints)}
    if call.lc.settings.capabilities is not None:
        agents["capabilities"] = list(call.lc.settings.capabilities)
    shown: Json = {"agents": agents}
    for order, endpoint in enumerate(call.lc.endpoints):
        shown[endpoint.name] = {
            "order": order,
            "type": "custom",
            "userProvide": False,
            "userProvideURL": False,
            "modelDisplayLabel": endpoint.name,
        }
    return send(encode(shown), 200, "text/html; charset=utf-8")


async def models(call: Call) -> web.Response:
    """GET /api/models"""
    return json_reply(await listed_models(call.lc, call.user.id))


async def token_config(call: Call) -> web.Response:
    """GET /api/endpoints/token-config"""
    return json_reply({e.name: dict.fromkeys(e.models, _RATES) for e in call.lc.endpoints})


async def context_projection(call: Call) -> web.Response:
    """POST /api/endpoints/context-projection: always null here."""
    return json_reply(None)


async def role(call: Call) -> web.Response:
    """GET /api/roles/:roleName: an ADMIN's permissions are all on."""
    name = call.params["roleName"].upper()
    if name not in ("USER", "ADMIN"):
        return json_reply({"message": "Role not found"}, 404)
    if name == "ADMIN" and call.user.role != "ADMIN":
        return json_reply({"message": "Unauthorized"}, 403)
    changed = call.lc.settings.permissions
    shown = {kind: {**rights, **changed.get(kind, {})} for kind, rights in recorded.USER_PERMISSIONS.items()}
    if name == "ADMIN":
        shown = {kind: dict.fromkeys(rights, True) for kind, rights in shown.items()}
    described = {"_id": call.lc.role_ids[name], "name": name, "description": "", "permissions": shown}
    return json_reply({**described, "__v": 0})


async def banner(call: Call) -> web.Response:
    """GET /api/banner: 200 with nothing in it."""
    return empty_reply()


async def search_enabled(call: Call) -> web.Response:
    """GET /api/search/enable"""
    return json_reply(False)


async def categories(call: Call) -> web.Response:
    """GET /api/categories"""
    return json_reply([{"label": "com_ui_idea", "value": "idea"}])


async def mcp_servers(call: Call) -> web.Response:
    """GET /api/mcp/servers"""
    shown = {name: {"type": "streamable-http", "title": name} for name in call.lc.settings.mcp_servers}
    return json_reply(shown)


async def mcp_tools(call: Call) -> web.Response:
    """GET /api/mcp/tools"""
    servers = {name: _mcp_server(name, tools) for name, tools in call.lc.settings.mcp_servers.items()}
    return json_reply({"servers": servers})


def _mcp_server(name: str, tools: tuple[str, ...]) -> Json:
    shown = [{"name": t, "pluginKey": f"{t}_mcp_{name}", "description": f"{t} of {name}"} for t in tools]
    return {"name": name, "icon": None, "authenticated": True, "authConfig": [], "tools": shown}


async def mcp_status(call: Call) -> web.Response:
    """GET /api/mcp/connection/status"""
    state = {"requiresOAuth": False, "connectionState": "connected"}
    return json_reply(
        {"success": True, "connectionStatus": dict.fromkeys(call.lc.settings.mcp_servers, state)}
    )


async def mcp_status_of(call: Call) -> web.Response:
    """GET /api/mcp/connection/status/:name"""
    name = call.params["name"]
    if name not in call.lc.settings.mcp_servers:
        return json_reply({"error": f"MCP server '{name}' not found in configuration"}, 404)
    shown = {"success": True, "serverName": name, "connectionStatus": "connected", "requiresOAuth": False}
    return json_reply(shown)


async def mcp_reinitialize(call: Call) -> web.Response:
    """POST /api/mcp/:name/reinitialize"""
    name = call.params["name"]
    if name not in call.lc.settings.mcp_servers:
        return json_reply({"error": f"MCP server '{name}' not found in configuration"}, 404)
    text = f"MCP server '{name}' reinitialized successfully"
    return json_reply({"success": True, "message": text, "serverName": name, "oauthRequired": False})


async def mcp_auth_values(call: Call) -> web.Response:
    """GET /api/mcp/:name/auth-values"""
    return json_reply({"success": True, "serverName": call.params["name"], "authValueFlags": {}})


async def permissions(call: Call) -> web.Response:
    """GET /api/permissions/:type/effective/all"""
    mine = {a.doc["_id"]: 15 for a in call.lc.agents.all_visible(call.user)}
    return json_reply(mine if call.params["type"] == "agent" else {})


async def set_permissions(call: Call) -> web.Response:
    """PUT /api/permissions/:type/:id: for agents, `public` is all that counts."""
    wanted = call.params["id"]
    agent = next((a for a in call.lc.agents.all_visible(call.user) if wanted in (a.id, a.doc["_id"])), None)
    if agent is None or agent.doc["author"] != call.user.id:
        return json_reply({"error": "Forbidden", "message": "Insufficient permissions"}, 403)
    agent.public = bool(call.body.get("public"))
    return json_reply({"message": "Permissions updated successfully", "results": {"public": agent.public}})


async def health(call: Call) -> web.Response:
    """GET /health, /livez, /readyz"""
    return text_reply("OK")


ROUTES = (
    Route("GET", "/api/config", config, Guard.OPTIONAL),
    Route("GET", "/api/endpoints", endpoints),
    Route("GET", "/api/endpoints/token-config", token_config),
    Route("POST", "/api/endpoints/context-projection", context_projection),
    Route("GET", "/api/models", models),
    Route("GET", "/api/roles/:roleName", role),
    Route("GET", "/api/banner", banner, Guard.OPTIONAL),
    Route("GET", "/api/search/enable", search_enabled),
    Route("GET", "/api/categories", categories),
    Route("GET", "/api/mcp/servers", mcp_servers),
    Route("GET", "/api/mcp/tools", mcp_tools),
    Route("GET", "/api/mcp/connection/status", mcp_status),
    Route("GET", "/api/mcp/connection/status/:name", mcp_status_of),
    Route("POST", "/api/mcp/:name/reinitialize", mcp_reinitialize),
    Route("GET", "/api/mcp/:name/auth-values", mcp_auth_values),
    Route("GET", "/api/permissions/:type/effective/all", permissions, Guard.BROWSER),
    Route("PUT", "/api/permissions/:type/:id", set_permissions, Guard.BROWSER),
    Route("GET", "/health", health, Guard.OPEN),
    Route("GET", "/livez", health, Guard.OPEN),
    Route("GET", "/readyz", health, Guard.OPEN),
)
