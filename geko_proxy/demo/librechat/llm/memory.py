"""The memory agent: a hidden call beside each turn, never streamed, never tried again (pkg/agents/memory.ts)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geko_proxy.demo.librechat.chat.provider import ModelCall, ProviderDied, ProviderError, text_of
from geko_proxy.demo.librechat.express import Json
from geko_proxy.demo.librechat.llm.tools import arguments_of

if TYPE_CHECKING:
    from geko_proxy.demo.librechat.chat.runs import Run

_WINDOW = 5  # messages, `messageWindowSize`
_INSTRUCTIONS = (
    "Use the `set_memory` tool to save important information about the user, but ONLY when the user has requested you "
    "to remember something.\n\n# Existing memory:\n"
)
_KEY = {"type": "string", "description": "The key identifier for this memory"}
_VALUE = {"type": "string", "description": "Value MUST be a complete sentence."}


def _tool(name: str, properties: Json) -> Json:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": name, "parameters": schema}}


TOOLS = [_tool("set_memory", {"key": _KEY, "value": _VALUE}), _tool("delete_memory", {"key": _KEY})]


async def remember(run: Run, messages: list[Json]) -> None:
    """Let the memory agent read the last messages; a failure is only logged by LibreChat."""
    if run.lc.settings.memory is None:
        return
    endpoint, model = run.lc.settings.memory
    known = run.lc.memories.setdefault(run.user.id, {})
    kept = "\n".join(f"{key}: {value}" for key, value in known.items()) or "No existing memories"
    thread = "\n".join(f"{_who(m)}: {_said(m)}" for m in messages[-_WINDOW:])
    call = ModelCall(
        model=model,
        messages=[
            {"role": "system", "content": _INSTRUCTIONS + kept},
            {"role": "user", "content": f"# Current Chat:\n\n{thread}"},
        ],
        purpose="memory",
        endpoint=endpoint,
        user_id=run.user.id,
        conversation_id=run.conversation_id,
        message_id=run.response_id,
        tools=TOOLS,
    )
    try:
        await run.lc.provider.complete(call)
    except (ProviderError, ProviderDied):
        return
    for asked in call.asked_tools:
        given = arguments_of(asked)
        if asked.name == "set_memory" and given.get("key"):
            known[str(given["key"])] = str(given.get("value") or "")
        elif asked.name == "delete_memory":
            known.pop(str(given.get("key")), None)


def _who(message: Json) -> str:
    return "Human" if message["isCreatedByUser"] else "AI"


def _said(message: Json) -> str:
    content = [part for part in message.get("content") or [] if part.get("type") == "text"]
    return text_of(content) or str(message.get("text") or "")
