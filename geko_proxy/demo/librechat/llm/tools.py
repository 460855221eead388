"""The tools that a turn offers to its model, and what they answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from geko_proxy.demo.librechat.chat.provider import ToolCall
from geko_proxy.demo.librechat.express import Json
from geko_proxy.demo.librechat.library.agents import Agent

if TYPE_CHECKING:
    from geko_proxy.demo.librechat.server import StandIn

OUTPUT: Final = "Nothing was found in the archive of the old oak by the river."
SUBAGENT: Final = "subagent"
_SELF: Final = "self"
_MARKERS: Final = ("file_search", "web_search", "execute_code")  # capabilities that need more than a function


@dataclass(frozen=True, slots=True)
class Child:
    """A sub-agent that may be called: `kind` is its subagent_type."""

    kind: str
    agent: Agent


def of_agent(agent: Agent) -> list[Json]:
    """Definitions of an agent's own tools."""
    names = [str(name) for name in agent.doc.get("tools") or [] if name not in _MARKERS]
    return [definition(name) for name in names]


def of_request(lc: StandIn, body: Json) -> list[Json]:
    """Definitions of the tools that a chat without an agent asks for: those of MCP servers (contract §4.1)."""
    asked = body.get("ephemeralAgent")
    servers = (asked.get("mcp") or []) if isinstance(asked, dict) else []
    known = lc.settings.mcp_servers
    return [definition(f"{tool}_mcp_{name}") for name in servers if name in known for tool in known[name]]


def definition(name: str) -> Json:
    """A function with one text as its argument."""
    schema = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
    return {
        "type": "function",
        "function": {"name": name, "description": f"Use {name}.", "parameters": schema},
    }


def children(lc: StandIn, agent: Agent, models: dict[str, list[str]]) -> list[Child]:
    """Who may be called by an agent; those whose model is not listed are dropped silently (contract §4.2)."""
    wanted = agent.doc.get("subagents")
    if not isinstance(wanted, dict) or not wanted.get("enabled"):
        return []
    found = [Child(_SELF, agent)] if wanted.get("allowSelf") is not False else []
    for agent_id in wanted.get("agent_ids") or []:
        child = lc.agents.get(str(agent_id))
        if child is not None and child.id != agent.id and child.model in models.get(child.provider, ()):
            found.append(Child(child.id, child))
    return found


def subagent_definition(found: list[Child]) -> Json:
    """The tool that calls a sub-agent (@librechat/agents tools/SubagentTool)."""
    properties = {
        "description": {"type": "string", "description": "Complete task description for the subagent."},
        "subagent_type": {"type": "string", "enum": [child.kind for child in found]},
    }
    schema = {"type": "object", "properties": properties, "required": ["description", "subagent_type"]}
    told = "Delegate a task to a specialized subagent that runs in an isolated context window."
    return {"type": "function", "function": {"name": SUBAGENT, "description": told, "parameters": schema}}


def arguments_of(asked: ToolCall) -> Json:
    """The arguments; empty when the model wrote no JSON object."""
    try:
        found = msgspec.json.decode(asked.args or "{}")
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def asked_message(text: str, asked: list[ToolCall]) -> Json:
    """The assistant's message that asks for tools."""
    calls = [
        {"id": each.id, "type": "function", "function": {"name": each.name, "arguments": each.args}}
        for each in asked
    ]
    return {"role": "assistant", "content": text, "tool_calls": calls}


def answered_message(asked: ToolCall, output: str) -> Json:
    """A tool's message."""
    return {"role": "tool", "content": output, "name": asked.name, "tool_call_id": asked.id}
