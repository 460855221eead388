"""Nothing that a workspace does not allow is reached, whatever a chat body says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geko_proxy.errors import Refused
from geko_proxy.policy.guard import Guard
from geko_proxy.policy.librechat_view import Caller, LibreChatView
from geko_proxy.workspaces.config import WorkspaceConfig
from tests.fake_services import FakeLibreChat, agent

SMALL = WorkspaceConfig(models=("Mock/gpt-4o-mini",), mcp_servers=("good",))
OPEN = WorkspaceConfig()

AGENTS = {
    "agent_ok": agent(tools=["search_mcp_good"]),
    "agent_big": agent("gpt-4o"),
    "agent_leads": agent(edges=[{"from": "agent_leads", "to": "agent_big"}]),
    "agent_tool": agent(tools=["search_mcp_bad"]),
    "agent_kwargs": agent(model_parameters={"modelKwargs": {"model": "gpt-4o"}}),
}
SPECS = [
    {"name": "fine", "preset": {"endpoint": "Mock", "model": "gpt-4o-mini"}, "mcpServers": ["good"]},
    {"name": "big", "preset": {"endpoint": "Mock", "model": "gpt-4o"}},
    {"name": "server", "preset": {"endpoint": "Mock", "model": "gpt-4o-mini"}, "mcpServers": ["bad"]},
    {"name": "agent", "preset": {"endpoint": "agents", "agent_id": "agent_big"}},
    {"name": "no agent", "preset": {"endpoint": "agents"}},
    {"name": "half", "preset": {"endpoint": "Mock"}},
    {
        "name": "sub",
        "preset": {"endpoint": "Mock", "model": "gpt-4o-mini"},
        "subagents": {"enabled": True},
    },
]
MINI = {"endpoint": "Mock", "model": "gpt-4o-mini"}


def guard_of(
    config: WorkspaceConfig = SMALL,
    agents: dict[str, Any] = AGENTS,
    specs: list[Any] = SPECS,
    *,
    enforce: bool = False,
) -> Guard:
    librechat = FakeLibreChat(
        agents=agents, config={"modelSpecs": {"list": specs, "enforce": enforce}} if specs else {}
    )
    return Guard(config, LibreChatView(librechat.as_client()), Caller("a1", "bearer"))


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (MINI, "Mock/gpt-4o-mini"),
        ({"endpoint": "Mock"}, "Mock/gpt-4o-mini"),
        ({}, "Mock/gpt-4o-mini"),
        ({"model": "gpt-4o-mini"}, "Mock/gpt-4o-mini"),
        ({"endpoint": "agents", "agent_id": "agent_ok", "model": "gpt-4o"}, "Mock/gpt-4o-mini"),
        ({"agent_id": "agent_ok"}, "Mock/gpt-4o-mini"),
        (MINI | {"spec": "fine"}, "Mock/gpt-4o-mini"),
        ({"spec": "fine"}, "Mock/gpt-4o-mini"),
        (MINI | {"agent_id": "agent_big"}, "Mock/gpt-4o-mini"),  # LibreChat ignores it, and it is taken out
        (MINI | {"addedConvo": MINI}, "Mock/gpt-4o-mini"),
        (MINI | {"addedConvo": [MINI, {"agent_id": "agent_ok"}]}, "Mock/gpt-4o-mini"),
    ],
)
async def test_what_is_allowed_passes(body: dict[str, Any], model: str) -> None:
    cleaned, found = await guard_of().check_chat(body, None)
    assert found == model
    assert "agent_big" not in str(cleaned)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"endpoint": "Mock", "model": "gpt-4o"}, "model_not_allowed"),
        ({"endpoint": "Other", "model": "gpt-4o-mini"}, "model_not_allowed"),
        ({"endpoint": "mock", "model": "gpt-4o-mini"}, "model_not_allowed"),
        ({"endpoint": "Other"}, "no_model"),
        ({"model": "gpt-4o"}, "model_not_allowed"),
        ({"endpoint": "agents", "agent_id": "agent_big"}, "model_not_allowed"),
        ({"endpoint": "agents", "agent_id": "agent_leads"}, "model_not_allowed"),
        ({"endpoint": "agents", "agent_id": "agent_tool"}, "mcp_server_not_allowed"),
        ({"endpoint": "agents", "agent_id": "agent_kwargs"}, "agent_not_allowed"),
        ({"endpoint": "agents", "agent_id": "agent_unknown"}, "agent_not_allowed"),
        (MINI | {"spec": "big"}, "model_not_allowed"),
        (MINI | {"spec": "server"}, "mcp_server_not_allowed"),
        (MINI | {"spec": "sub"}, "spec_not_allowed"),
        (MINI | {"spec": "half"}, "spec_not_allowed"),
        (MINI | {"spec": "unknown"}, "spec_not_allowed"),
        ({"endpoint": "agents", "agent_id": "agent_ok", "spec": "agent"}, "model_not_allowed"),
        ({"endpoint": "agents", "agent_id": "agent_ok", "spec": "no agent"}, "spec_not_allowed"),
        (MINI | {"addedConvo": {"endpoint": "Mock", "model": "gpt-4o"}}, "model_not_allowed"),
        (MINI | {"addedConvo": [MINI, {"endpoint": "Mock", "model": "gpt-4o"}]}, "model_not_allowed"),
        (MINI | {"addedConvo": MINI | {"agent_id": "agent_big"}}, "model_not_allowed"),
        (
            MINI | {"addedConvo": {"endpoint": "Mock", "model": "gpt-4o", "agent_id": "agent_ok"}},
            "model_not_allowed",
        ),
        (MINI | {"addedConvo": MINI | {"spec": "server"}}, "mcp_server_not_allowed"),
    ],
)
async def test_what_is_not_allowed_is_refused(body: dict[str, Any], code: str) -> None:
    with pytest.raises(Refused) as refused:
        await guard_of().check_chat(body, None)
    assert (refused.value.status, refused.value.code) == (403, code)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (MINI, "openAI"),
        (MINI | {"endpoint": ["Mock"]}, None),
        (MINI | {"model": {"$ne": 1}}, None),
        ({"endpoint": "agents", "agent_id": "ephemeral"}, None),
        ({"endpoint": "agents"}, "agents"),
        (MINI | {"addedConvo": 1}, None),
        (MINI | {"addedConvo": {"endpoint": "Mock"}}, None),
        (MINI | {"addedConvo": {"endpoint": "agents", "model": "gpt-4o"}}, None),
        ({"endpoint": "agents", "agent_id": "agent_ok", "spec": "fine"}, None),
    ],
)
async def test_what_makes_no_sense_is_bad(body: dict[str, Any], path: str | None) -> None:
    with pytest.raises(Refused) as refused:
        await guard_of().check_chat(body, path)
    assert (refused.value.status, refused.value.code) == (400, "invalid_body")


async def test_a_refused_model_is_named_as_librechats_client_wants_it() -> None:
    with pytest.raises(Refused) as refused:
        await guard_of().check_chat({"endpoint": "Mock", "model": "gpt-4o"}, "Mock")
    assert refused.value.librechat is not None
    assert refused.value.librechat["type"] == "illegal_model_request"
    assert refused.value.librechat["info"] == "Mock|gpt-4o"


async def test_an_endpoint_only_in_the_path_counts() -> None:
    cleaned, model = await guard_of().check_chat({"model": "gpt-4o-mini"}, "Mock")
    assert (cleaned["endpoint"], model) == ("Mock", "Mock/gpt-4o-mini")


async def test_a_completed_body_can_be_read_by_librechat() -> None:
    cleaned, _ = await guard_of().check_chat({"text": "hi"}, None)
    assert cleaned == {"text": "hi", **MINI, "endpointType": "custom"}


async def test_an_enforced_spec_gives_the_model() -> None:
    specs = [{"name": "s", "preset": {"endpoint": "Mock", "model": "gpt-4o-mini"}}]
    wide = WorkspaceConfig(models=("Mock/*",))
    body = {"endpoint": "Mock", "model": "gpt-4o", "spec": "s"}
    _, loose = await guard_of(wide, specs=specs).check_chat(body, None)
    _, forced = await guard_of(wide, specs=specs, enforce=True).check_chat(body, None)
    assert (loose, forced) == ("Mock/gpt-4o", "Mock/gpt-4o-mini")


@pytest.mark.parametrize(
    ("body", "model"),
    [
        ({"endpoint": "Any", "model": "thing", "spec": "unknown"}, "Any/thing"),
        ({"endpoint": "agents", "agent_id": "agent_tool"}, "Mock/gpt-4o-mini"),
        ({"endpoint": "agents", "agent_id": "agent_unknown"}, "agents/agent_unknown"),
        (MINI | {"addedConvo": {"endpoint": "Any"}}, "Mock/gpt-4o-mini"),
    ],
)
async def test_a_workspace_without_lists_is_not_restricted(body: dict[str, Any], model: str) -> None:
    assert (await guard_of(OPEN).check_chat(body, None))[1] == model


async def test_a_message_that_names_its_model_costs_no_call() -> None:
    librechat = FakeLibreChat()
    guard = Guard(SMALL, LibreChatView(librechat.as_client()), Caller("a1", "bearer"))
    await guard.check_chat(MINI, "Mock")
    assert librechat.calls == []


# What LibreChat v0.8.7 would run for a body, written down from its source and apart from ours:
# middleware/buildEndpointOption.js, agents/load.ts, added.ts, discovery.ts, initialize.js.

Reached = set[tuple[str, str]]


class LibreChatModel:
    """Collects models and MCP servers that a body reaches."""

    def __init__(self, agents: dict[str, Any], specs: list[Any], enforce: bool) -> None:
        self.agents, self.specs, self.enforce = agents, specs, enforce
        self.models: Reached = set()
        self.servers: set[str] = set()

    def run(self, body: dict[str, Any]) -> None:
        endpoint, model, agent_id = body.get("endpoint"), body.get("model"), body.get("agent_id")
        spec = self.find(body.get("spec"))
        if self.specs and self.enforce:
            if spec is None or spec["preset"].get("endpoint") != endpoint:
                return
            model, agent_id = spec["preset"].get("model"), spec["preset"].get("agent_id")
        elif spec is not None and spec["preset"].get("endpoint") != endpoint:
            return
        if endpoint == "agents":
            self.agent(agent_id)
        else:
            self.ephemeral(endpoint, model, body, spec)
        added = body.get("addedConvo")
        if isinstance(added, dict):
            if str(added.get("agent_id") or "").startswith("agent_"):
                self.agent(added["agent_id"])
            else:
                found = self.find(added.get("spec"))
                self.ephemeral(added.get("endpoint"), added.get("model"), added, found)

    def find(self, name: Any) -> dict[str, Any] | None:
        return next((spec for spec in self.specs if name and spec["name"] == name), None)

    def ephemeral(self, endpoint: Any, model: Any, body: dict[str, Any], spec: dict[str, Any] | None) -> None:
        if not endpoint or not model:
            return
        self.models.add((endpoint, model))
        self.servers.update((body.get("ephemeralAgent") or {}).get("mcp") or ())
        if spec is not None:
            self.servers.update(spec.get("mcpServers") or ())
            if (spec.get("subagents") or {}).get("enabled"):
                for agent_id in spec["subagents"].get("agent_ids", ()):
                    self.agent(agent_id)

    def agent(self, agent_id: Any, seen: frozenset[str] = frozenset()) -> None:
        document = self.agents.get(agent_id)
        if document is None or agent_id in seen:
            return
        model = (document["model_parameters"].get("modelKwargs") or {}).get("model") or document["model"]
        self.models.add((document["provider"], model))
        for tool in document["tools"]:
            parts = tool.split("_mcp_")
            self.servers.update({parts[1], parts[-1]} if len(parts) > 1 else ())
        leads = [*document.get("agent_ids", ()), *(edge["to"] for edge in document.get("edges", ()))]
        if (document.get("subagents") or {}).get("enabled"):
            leads += document["subagents"]["agent_ids"]
        for each in leads:
            self.agent(each, seen | {agent_id})


words = st.sampled_from(["Mock", "Other", "agents", "mock", "gpt-4o", "gpt-4o-mini", "good", "bad"])
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=4,
)
agent_ids = st.sampled_from(["agent_1", "agent_2", "agent_3"])
servers = st.lists(st.sampled_from(["good", "bad", "x_mcp_bad"]), max_size=2)


def one_field(name: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({name: values})


def merged(
    base: st.SearchStrategy[Any], attacks: st.SearchStrategy[Any], most: int
) -> st.SearchStrategy[dict[str, Any]]:
    """Something harmless with a few fields set on top: random fields alone are nearly always refused."""
    return st.builds(
        lambda first, more: {key: value for each in (first, *more) for key, value in each.items()},
        base,
        st.lists(attacks, max_size=most),
    )


attacks = st.one_of(
    one_field("endpoint", st.sampled_from(["Other", "agents", "mock", "", None])),
    one_field("model", st.sampled_from(["gpt-4o", "gpt-4o-mini", "", None])),
    one_field("agent_id", agent_ids | st.sampled_from(["agent_none", "ephemeral", "", None])),
    one_field("spec", st.sampled_from(["s1", "s2", "s1", "s2", "none", "", None])),
    one_field("ephemeralAgent", st.fixed_dictionaries({"mcp": servers}) | junk),
    st.dictionaries(
        st.sampled_from(["endpoint", "model", "agent_id", "spec", "endpointType", "preset", "addedConvo"]),
        junk,
        max_size=1,
    ),
)
conversations = merged(st.sampled_from([MINI, {"endpoint": "agents", "agent_id": "agent_1"}, {}]), attacks, 2)
bodies = merged(
    conversations,
    st.one_of(attacks, one_field("addedConvo", conversations | st.lists(conversations, max_size=2))),
    1,
)
documents = merged(
    st.just(agent(tools=["a_mcp_good"])),
    st.one_of(
        one_field("provider", st.just("Other")),
        one_field("model", st.just("gpt-4o")),
        one_field("model_parameters", st.just({"modelKwargs": {"model": "gpt-4o"}})),
        one_field("agent_ids", st.lists(agent_ids, max_size=2)),
        one_field("edges", st.lists(one_field("to", agent_ids), max_size=2)),
        one_field(
            "subagents",
            st.fixed_dictionaries({"enabled": st.booleans(), "agent_ids": st.lists(agent_ids, max_size=2)}),
        ),
        one_field(
            "tools",
            st.lists(st.sampled_from(["a_mcp_bad", "a_mcp_good_mcp_bad", "a_mcp_bad_mcp_good"]), max_size=1),
        ),
    ),
    1,
)
presets = st.sampled_from(
    [
        MINI,
        MINI,
        MINI | {"model": "gpt-4o"},
        {"endpoint": "Mock"},
        {"endpoint": "agents", "agent_id": "agent_2"},
        {"endpoint": "agents"},
    ]
)
spec_documents = st.fixed_dictionaries(
    {"name": st.sampled_from(["s1", "s2"]), "preset": presets},
    optional={"mcpServers": servers, "subagents": st.just({"enabled": True, "agent_ids": ["agent_1"]})},
)


def shown(spec: dict[str, Any]) -> dict[str, Any]:
    """A spec as LibreChat shows it to accounts: the ids of its sub-agents are left out."""
    subagents = spec.get("subagents")
    return {**spec, "subagents": {"enabled": subagents["enabled"]}} if subagents else spec


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    body=bodies,
    agents=st.fixed_dictionaries(dict.fromkeys(["agent_1", "agent_2", "agent_3"], documents)),
    specs=st.lists(spec_documents, max_size=2),
    enforce=st.sampled_from([False, False, True]),
    path=st.sampled_from([None, None, None, "Mock"]),
    config=st.sampled_from(
        [
            SMALL,
            WorkspaceConfig(models=("Mock/gpt-4o-mini",)),
            WorkspaceConfig(models=("Mock/*",), default_model="Mock/gpt-4o-mini", mcp_servers=()),
            WorkspaceConfig(mcp_servers=("good",)),
        ]
    ),
)
async def test_no_body_smuggles_a_model_or_a_server(
    body: Any, agents: Any, specs: Any, enforce: bool, path: str | None, config: WorkspaceConfig
) -> None:
    guard = guard_of(config, agents, [shown(spec) for spec in specs], enforce=enforce)
    try:
        cleaned, _ = await guard.check_chat(body, path)
    except Refused:
        return
    librechat = LibreChatModel(agents, specs, enforce)
    librechat.run(cleaned)
    assert all(config.allows_model(*pair) for pair in librechat.models), cleaned
    assert all(config.allows_mcp(name) for name in librechat.servers), cleaned
