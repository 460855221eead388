"""Persistent agents: the store, and the routes of /api/agents but chat and v1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiohttp import web

from geko_proxy.demo.librechat.accounts import Account
from geko_proxy.demo.librechat.express import Json, json_reply, nanoid, now_iso, object_id
from geko_proxy.demo.librechat.routes import Call, Guard, Route

_NOT_FOUND = {"error": "Not Found", "message": "agent not found"}
_FORBIDDEN = {"error": "Forbidden", "message": "Insufficient permissions to access this agent"}
_LISTED = ("id", "name", "description", "avatar", "author", "category", "is_promoted", "_id", "updatedAt")
_BASIC = (
    "_id", "id", "name", "description", "avatar", "author", "provider", "model", "category", "is_promoted",
    "conversation_starters", "createdAt", "updatedAt",
)  # fmt: skip
_CATEGORIES = ("general", "hr", "rd", "finance", "it", "sales", "aftersales")


@dataclass(slots=True)
class Agent:
    """An agent's document; `public` as PUT /api/permissions sets it."""

    doc: Json
    public: bool = False

    @property
    def id(self) -> str:
        """`agent_…`"""
        return str(self.doc["id"])

    @property
    def name(self) -> str:
        """Its name, also the sender of its answers."""
        return str(self.doc.get("name") or "")

    @property
    def provider(self) -> str:
        """The endpoint whose model it uses."""
        return str(self.doc.get("provider"))

    @property
    def model(self) -> str:
        """Its model."""
        return str(self.doc.get("model") or "")

    @property
    def instructions(self) -> str:
        """Its system prompt."""
        return str(self.doc.get("instructions") or "")


class Agents:
    """All agents by id."""

    def __init__(self) -> None:
        self._by_id: dict[str, Agent] = {}

    def get(self, agent_id: str) -> Agent | None:
        """Whoever owns it."""
        return self._by_id.get(agent_id)

    def visible(self, account: Account, agent_id: str) -> Agent | None:
        """The agent, if the account may use it."""
        agent = self._by_id.get(agent_id)
        return agent if agent and (agent.public or agent.doc["author"] == account.id) else None

    def all_visible(self, account: Account) -> list[Agent]:
        """All that the account may use, the newest first."""
        return [a for a in reversed(self._by_id.values()) if self.visible(account, a.id)]

    def refusal(self, account: Account, agent_id: str, *, edit: bool = False) -> web.Response | None:
        """The reply to somebody without access, None for the others."""
        agent = self._by_id.get(agent_id)
        if agent is None:
            return json_reply(_NOT_FOUND, 404)
        allowed = agent.doc["author"] == account.id if edit else self.visible(account, agent_id)
        return None if allowed else json_reply(_FORBIDDEN, 403)

    def add(self, agent: Agent) -> None:
        """Keep a new agent."""
        self._by_id[agent.id] = agent

    def delete(self, agent_id: str) -> None:
        """Forget an agent."""
        self._by_id.pop(agent_id, None)


def _new(account: Account, given: Json) -> Agent:
    agent_id, now = nanoid("agent_"), now_iso()
    named = {k: v for k, v in given.items() if k != "model_parameters"}
    version = {**given, "id": agent_id, "createdAt": now, "updatedAt": now}
    defaults: dict[str, Any] = {
        "tools": [],
        "tool_kwargs": [],
        "author": account.id,
        "agent_ids": [],
        "edges": [],
        "conversation_starters": [],
        "versions": [version],
        "category": "general",
        "is_promoted": False,
        "mcpServerNames": _mcp_names(given.get("tools") or []),
    }
    ids = {"_id": object_id(), "createdAt": now, "updatedAt": now, "__v": 0}
    return Agent({"id": agent_id, **defaults, **named, **ids})


def _mcp_names(tools: list[object]) -> list[str]:
    return sorted({str(tool).partition("_mcp_")[2] for tool in tools if "_mcp_" in str(tool)})


async def create(call: Call) -> web.Response:
    """POST /api/agents"""
    missing = [name for name in ("provider", "model") if not call.body.get(name)]
    if missing:
        details = [{"path": [name], "message": "Required"} for name in missing]
        return json_reply({"error": "Invalid request data", "details": details}, 400)
    agent = _new(call.user, call.body)
    call.lc.agents.add(agent)
    return json_reply(agent.doc, 201)


async def listed(call: Call) -> web.Response:
    """GET /api/agents: no model, tools or provider in it (contract §1.4)."""
    docs = [a.doc for a in call.lc.agents.all_visible(call.user)]
    data = [{k: doc[k] for k in _LISTED if k in doc} for doc in docs]
    ends = (
        {"first_id": data[0]["id"], "last_id": data[-1]["id"]}
        if data
        else {"first_id": None, "last_id": None}
    )
    return json_reply({"object": "list", "data": data, **ends, "has_more": False, "after": None})


async def one(call: Call) -> web.Response:
    """GET /api/agents/:id: provider and model, no tools"""
    refused = call.lc.agents.refusal(call.user, call.params["id"])
    agent = call.lc.agents.get(call.params["id"])
    if refused is not None or agent is None:
        return refused or json_reply(_NOT_FOUND, 404)
    basic = {k: agent.doc[k] for k in _BASIC if k in agent.doc}
    return json_reply({**basic, "isPublic": agent.public, "version": len(agent.doc["versions"])})


async def expanded(call: Call) -> web.Response:
    """GET /api/agents/:id/expanded"""
    refused = call.lc.agents.refusal(call.user, call.params["id"], edit=True)
    agent = call.lc.agents.get(call.params["id"])
    if refused is not None or agent is None:
        return refused or json_reply(_NOT_FOUND, 404)
    return json_reply({**agent.doc, "version": len(agent.doc["versions"])})


async def change(call: Call) -> web.Response:
    """PATCH /api/agents/:id"""
    refused = call.lc.agents.refusal(call.user, call.params["id"], edit=True)
    agent = call.lc.agents.get(call.params["id"])
    if refused is not None or agent is None:
        return refused or json_reply(_NOT_FOUND, 404)
    agent.doc |= {**call.body, "id": agent.id, "updatedAt": now_iso()}
    agent.doc["mcpServerNames"] = _mcp_names(agent.doc.get("tools") or [])
    agent.doc["versions"].append({**call.body, "updatedAt": agent.doc["updatedAt"]})
    return json_reply(agent.doc)


async def duplicate(call: Call) -> web.Response:
    """POST /api/agents/:id/duplicate"""
    refused = call.lc.agents.refusal(call.user, call.params["id"])
    agent = call.lc.agents.get(call.params["id"])
    if refused is not None or agent is None:
        return refused or json_reply(_NOT_FOUND, 404)
    own = ("id", "_id", "author", "versions", "createdAt", "updatedAt", "__v")
    copy = _new(call.user, {k: v for k, v in agent.doc.items() if k not in own})
    call.lc.agents.add(copy)
    return json_reply({"agent": copy.doc, "actions": []}, 201)


async def delete(call: Call) -> web.Response:
    """DELETE /api/agents/:id"""
    refused = call.lc.agents.refusal(call.user, call.params["id"], edit=True)
    if refused is not None:
        return refused
    call.lc.agents.delete(call.params["id"])
    return json_reply({"message": "Agent deleted"})


async def categories(call: Call) -> web.Response:
    """GET /api/agents/categories"""
    return json_reply([{"value": v, "label": v, "description": "", "custom": False} for v in _CATEGORIES])


async def tools(call: Call) -> web.Response:
    """GET /api/agents/tools"""
    return json_reply(
        [{"name": "Calculator", "pluginKey": "calculator", "description": "", "authConfig": []}]
    )


async def tool_auth(call: Call) -> web.Response:
    """GET /api/agents/tools/:tool/auth"""
    return json_reply({"authenticated": False})


async def tool_calls(call: Call) -> web.Response:
    """GET /api/agents/tools/calls"""
    return json_reply([])


ROUTES = (
    Route("POST", "/api/agents", create, Guard.BROWSER),
    Route("GET", "/api/agents", listed, Guard.BROWSER),
    Route("GET", "/api/agents/categories", categories, Guard.BROWSER),
    Route("GET", "/api/agents/tools", tools, Guard.BROWSER),
    Route("GET", "/api/agents/tools/calls", tool_calls, Guard.BROWSER),
    Route("GET", "/api/agents/tools/:tool/auth", tool_auth, Guard.BROWSER),
    Route("GET", "/api/agents/:id/expanded", expanded, Guard.BROWSER),
    Route("POST", "/api/agents/:id/duplicate", duplicate, Guard.BROWSER),
    Route("GET", "/api/agents/:id", one, Guard.BROWSER),
    Route("PATCH", "/api/agents/:id", change, Guard.BROWSER),
    Route("DELETE", "/api/agents/:id", delete, Guard.BROWSER),
)
