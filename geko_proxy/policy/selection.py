"""What a request body or a document of LibreChat selects: endpoints, models, agents, specs, MCP servers.

Pure reading; what is allowed is decided in `guard`. The rules are LibreChat's own (contract §4.1–4.2, traps 9, 10).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from geko_proxy.workspaces.config import WorkspaceConfig

AGENTS: Final = "agents"
AGENT_PREFIX: Final = "agent_"  # any other agent id names no stored agent
MCP_DELIMITER: Final = "_mcp_"

BUILT_IN_ENDPOINTS: Final = frozenset(
    {"openAI", "azureOpenAI", "google", "anthropic", "bedrock", AGENTS, "assistants", "azureAssistants"}
)
NOT_FOR_CHAT: Final = frozenset({AGENTS, "assistants", "azureAssistants"})

# A model call says by the form of its message's id that it is for a request of the Agents API (decision 0069).
MESSAGE_IDS: Final = ("messageId", "responseMessageId", "overrideParentMessageId", "conversationId")
AGENTS_API_IDS: Final = ("chatcmpl-", "resp_")
# overrideConvoId escapes LibreChat's owner check; without streaming nothing can be cut; presets are only stored data
DROPPED: Final = frozenset(
    {"overrideConvoId", "overrideUserMessageId", "disableStreaming", "preset", "presets"}
)

# LibreChat hands every other parameter of an agent to the provider's client, where `modelKwargs: {"model": …}`
# switches the model (seen on v0.8.7).
AGENT_PARAMETERS: Final = frozenset(
    "model modelLabel chatGptLabel promptPrefix system temperature top_p topP topK top_k frequency_penalty "
    "presence_penalty max_tokens maxTokens maxOutputTokens maxContextTokens fileTokenLimit stop resendFiles "
    "imageDetail reasoning_effort reasoning_summary verbosity useResponsesApi web_search url_context "
    "disableStreaming thinking thinkingBudget thinkingLevel thinkingDisplay effort promptCache promptCacheTtl "
    "region".split()
)

MAX_NAME_LENGTH: Final = 256


class BadSelection(ValueError):
    """A selecting field has a type or value that LibreChat's own client never sends."""


class Model(NamedTuple):
    """A model of an endpoint, both named as LibreChat names them."""

    endpoint: str
    model: str

    def __str__(self) -> str:
        return f"{self.endpoint}/{self.model}"


@dataclass(frozen=True, slots=True)
class Choice:
    """What one conversation selects. agent_id: only of a stored agent. None: not named."""

    endpoint: str | None = None
    model: str | None = None
    agent_id: str | None = None
    spec: str | None = None


@dataclass(frozen=True, slots=True)
class AgentChoice:
    """What one agent selects, without the agents it leads to.

    agents: ids of those. parameters: names of model parameters that no client sets. complete: False for the short
    document that LibreChat may give to accounts without the right to edit. subagents: it may start some.
    streams: False for one that answers in one piece.
    """

    endpoint: str | None
    model: str | None
    servers: frozenset[str]
    agents: frozenset[str]
    parameters: tuple[str, ...]
    complete: bool
    subagents: bool = False
    streams: bool = True


@dataclass(frozen=True, slots=True)
class SpecChoice:
    """What a model spec selects. opaque: it leads to agents that LibreChat does not name to accounts."""

    name: str
    choice: Choice
    servers: frozenset[str]
    opaque: bool


def read_choice(conversation: Mapping[str, Any], place: str = "") -> Choice:
    """What a conversation (a chat body, an added one, a preset) selects. Raises BadSelection."""
    agent_id = read_name(conversation, "agent_id", place)
    read_name(conversation, "endpointType", place)
    return Choice(
        endpoint=read_name(conversation, "endpoint", place),
        model=read_name(conversation, "model", place),
        agent_id=agent_id if agent_id is not None and agent_id.startswith(AGENT_PREFIX) else None,
        spec=read_name(conversation, "spec", place),
    )


def read_name(source: Mapping[str, Any], key: str, place: str = "") -> str | None:
    """A text field; None when absent, null or empty. Raises BadSelection for anything that is no name."""
    value = source.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise BadSelection(f"{place}{key} must be a text")
    if len(value) > MAX_NAME_LENGTH or any(char < " " or char == "\x7f" for char in value):
        raise BadSelection(f"{place}{key} is no name")
    return value


def clean_chat(body: Mapping[str, Any], allows_mcp: Callable[[str], bool]) -> dict[str, Any]:
    """A chat body without what must not reach LibreChat. Raises BadSelection.

    MCP servers that are not allowed are taken out of the tool picks without a word: LibreChat's client sends what was
    picked long ago, in another workspace even, and its user could not unpick what no longer shows.
    """
    for name in MESSAGE_IDS:
        if str(body.get(name, "")).startswith(AGENTS_API_IDS):
            raise BadSelection(f"{name} looks like an id of the Agents API")
    cleaned = _clean_conversation(body, "", allows_mcp)
    added = body.get("addedConvo")
    if isinstance(added, list):
        cleaned["addedConvo"] = [_clean_added(each, allows_mcp) for each in added]
    elif added is not None:
        cleaned["addedConvo"] = _clean_added(added, allows_mcp)
    if cleaned.get("endpoint") != AGENTS and read_choice(body).agent_id is not None:
        del cleaned[
            "agent_id"
        ]  # LibreChat ignores it unless the endpoint is "agents"; so nothing needs to be checked
    return cleaned


def added_conversations(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The conversations of a cleaned chat body that are answered beside the main one."""
    added = body.get("addedConvo")
    if added is None:
        return []
    return list(added) if isinstance(added, list) else [added]


def pick_model(
    config: WorkspaceConfig, available: Mapping[str, Sequence[str]], endpoint: str | None, model: str | None
) -> Model | None:
    """The model for a chat message that does not name both; None when none is allowed.

    available: LibreChat's models by endpoint, in its order. The workspace's default comes first where it fits.
    """
    for candidate in _candidates(config, available):
        fits = endpoint in (None, candidate.endpoint) and model in (None, candidate.model)
        if fits and candidate.endpoint not in NOT_FOR_CHAT and config.allows_model(*candidate):
            return candidate
    return None


def read_agent(document: Mapping[str, Any]) -> AgentChoice:
    """What an agent's document selects, stored or about to be. Raises BadSelection."""
    tools = document.get("tools")
    parameters = document.get("model_parameters") or {}
    if not isinstance(parameters, dict):
        raise BadSelection("model_parameters must be an object")
    named = _names(document.get("mcpServerNames"), "mcpServerNames")
    return AgentChoice(
        endpoint=read_name(document, "provider"),
        model=read_name(document, "model"),
        servers=frozenset({*named, *servers_of_tools(_names(tools, "tools"))}),
        agents=frozenset(each for each in _referenced(document) if each.startswith(AGENT_PREFIX)),
        parameters=tuple(key for key, value in parameters.items() if not _is_parameter(key, value)),
        complete=tools is not None,
        subagents=_has_subagents(document),
        streams=not _is_on(parameters.get("disableStreaming")),
    )


def servers_of_tools(tools: Iterable[str]) -> set[str]:
    """The MCP servers in names of tools ("search_mcp_Server", "sys__all__sys_mcp_Server").

    LibreChat takes the second part in one place and the last in another, so each of them counts.
    """
    return {server for tool in tools for server in tool.split(MCP_DELIMITER)[1:] if server}


def read_spec(spec: Mapping[str, Any]) -> SpecChoice:
    """What a model spec of LibreChat's configuration selects. Raises BadSelection."""
    preset = spec.get("preset")
    name = read_name(spec, "name")
    if name is None or not isinstance(preset, dict):
        raise BadSelection("a model spec has no name or no preset")
    subagents = spec.get("subagents")
    return SpecChoice(
        name=name,
        choice=read_choice(preset, "preset."),
        servers=frozenset(_names(spec.get("mcpServers"), "mcpServers")),
        opaque=_is_on(subagents.get("enabled")) if isinstance(subagents, dict) else subagents is not None,
    )


def _clean_conversation(
    conversation: Mapping[str, Any], place: str, allows_mcp: Callable[[str], bool]
) -> dict[str, Any]:
    cleaned = {key: value for key, value in conversation.items() if key not in DROPPED}
    tools = cleaned.get("ephemeralAgent")
    if tools is None:
        return cleaned
    if not isinstance(tools, dict):
        raise BadSelection(f"{place}ephemeralAgent must be an object")
    if tools.get("mcp") is not None:
        picked = _names(tools["mcp"], f"{place}ephemeralAgent.mcp")
        cleaned["ephemeralAgent"] = {**tools, "mcp": [name for name in picked if allows_mcp(name)]}
    return cleaned


def _clean_added(added: Any, allows_mcp: Callable[[str], bool]) -> dict[str, Any]:
    if not isinstance(added, dict):
        raise BadSelection("addedConvo must be an object")
    if added.get("addedConvo") is not None:
        raise BadSelection("addedConvo.addedConvo is not possible")
    return _clean_conversation(added, "addedConvo.", allows_mcp)


def _candidates(config: WorkspaceConfig, available: Mapping[str, Sequence[str]]) -> Iterator[Model]:
    first = ""
    if config.default_model is not None:
        first, _, model = config.default_model.partition("/")
        yield Model(first, model)
    for endpoint in sorted(available, key=lambda name: name != first):
        for model in available[endpoint]:
            yield Model(endpoint, model)


def _names(value: Any, place: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise BadSelection(f"{place} must be a list of texts")
    return value


def _referenced(document: Mapping[str, Any]) -> Iterator[str]:
    yield from _names(document.get("agent_ids"), "agent_ids")
    edges = document.get("edges")
    if edges is not None and not isinstance(edges, list):
        raise BadSelection("edges must be a list")
    for edge in edges or ():
        if not isinstance(edge, dict):
            raise BadSelection("edges must be a list of objects")
        for end in ("from", "to"):
            value = edge.get(end)
            yield from [value] if isinstance(value, str) else _names(value, f"edges.{end}")
    subagents = document.get("subagents")
    if subagents is None:
        return
    if not isinstance(subagents, dict):
        raise BadSelection("subagents must be an object")
    if _is_on(subagents.get("enabled")):
        yield from _names(subagents.get("agent_ids"), "subagents.agent_ids")


def _has_subagents(document: Mapping[str, Any]) -> bool:
    """Also when it names none: an agent can start itself."""
    subagents = document.get("subagents")
    return _is_on(subagents.get("enabled")) if isinstance(subagents, dict) else False


def _is_on(value: Any) -> bool:
    """Truth as JavaScript sees it: an empty object or list is true."""
    return isinstance(value, dict | list) or bool(value)


def _is_parameter(key: str, value: Any) -> bool:
    plain = not isinstance(value, dict) and not (
        isinstance(value, list) and any(isinstance(each, dict | list) for each in value)
    )
    return key in AGENT_PARAMETERS and plain
