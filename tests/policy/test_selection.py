"""What bodies and documents select, field by field."""

from __future__ import annotations

from typing import Any

import pytest

from geko_proxy.policy.selection import (
    BadSelection,
    Choice,
    Model,
    clean_chat,
    pick_model,
    read_agent,
    read_choice,
    read_spec,
    servers_of_tools,
)
from geko_proxy.workspaces.config import WorkspaceConfig

AVAILABLE = {"Mock": ["gpt-4o", "gpt-4o-mini"], "Other": ["claude"], "agents": ["x"]}


def only_good(name: str) -> bool:
    return name == "good"


@pytest.mark.parametrize("field", ["endpoint", "endpointType", "model", "agent_id", "spec"])
@pytest.mark.parametrize("value", [1, True, 1.5, ["Mock"], {"$ne": None}, "a\0b", "a\nb", "x" * 257])
def test_a_selector_of_a_wrong_type_is_bad(field: str, value: Any) -> None:
    with pytest.raises(BadSelection, match=field):
        read_choice({"endpoint": "Mock", "model": "m", field: value})


@pytest.mark.parametrize("empty", [None, ""])
def test_empty_selectors_select_nothing(empty: str | None) -> None:
    fields = ("endpoint", "model", "agent_id", "spec")
    assert read_choice(dict.fromkeys(fields, empty)) == Choice()


def test_only_ids_of_stored_agents_are_agents() -> None:
    assert read_choice({"agent_id": "Mock__gpt-4o___Mock"}).agent_id is None
    assert read_choice({"agent_id": "agent_1"}).agent_id == "agent_1"


def test_a_chat_body_loses_what_librechat_must_not_see() -> None:
    body = {
        "endpoint": "Mock",
        "agent_id": "agent_1",
        "overrideConvoId": "c",
        "overrideUserMessageId": "m",
        "disableStreaming": True,
        "preset": {"model": "gpt-4o"},
        "presets": [],
        "editedContent": {"index": 0, "type": "text", "text": "x"},
        "ephemeralAgent": {"mcp": ["good", "bad", "good_mcp_bad"], "web_search": True},
        "addedConvo": {"endpoint": "Mock", "disableStreaming": True, "ephemeralAgent": {"mcp": ["bad"]}},
    }
    assert clean_chat(body, only_good) == {
        "endpoint": "Mock",
        "editedContent": {"index": 0, "type": "text", "text": "x"},
        "ephemeralAgent": {"mcp": ["good"], "web_search": True},
        "addedConvo": {"endpoint": "Mock", "ephemeralAgent": {"mcp": []}},
    }
    assert body["overrideConvoId"] == "c"  # the original is left alone


def test_each_of_several_added_conversations_is_cleaned() -> None:
    picked = {"ephemeralAgent": {"mcp": ["bad", "good"]}}
    assert (
        clean_chat({"addedConvo": [picked, picked]}, only_good)["addedConvo"]
        == [{"ephemeralAgent": {"mcp": ["good"]}}] * 2
    )


@pytest.mark.parametrize(
    "body",
    [
        {"ephemeralAgent": "mcp"},
        {"ephemeralAgent": {"mcp": "good"}},
        {"ephemeralAgent": {"mcp": [["good"]]}},
        {"ephemeralAgent": {"mcp": {"good": 1}}},
        {"addedConvo": "x"},
        {"addedConvo": [[]]},
        {"addedConvo": {"addedConvo": {}}},
        {"addedConvo": {"ephemeralAgent": []}},
    ],
)
def test_a_chat_body_of_an_odd_shape_is_bad(body: dict[str, Any]) -> None:
    with pytest.raises(BadSelection):
        clean_chat(body, only_good)


@pytest.mark.parametrize(
    ("models", "default", "endpoint", "model", "picked"),
    [
        (None, None, None, None, "Mock/gpt-4o"),
        (None, "Other/claude", None, None, "Other/claude"),
        (None, "Other/claude", "Mock", None, "Mock/gpt-4o"),
        (("Mock/gpt-4o-mini",), None, None, None, "Mock/gpt-4o-mini"),
        (("Mock/*",), "Mock/gpt-4o-mini", "Mock", None, "Mock/gpt-4o-mini"),
        (("Mock/*",), None, None, "gpt-4o-mini", "Mock/gpt-4o-mini"),
        (("Mock/*",), None, None, "claude", None),
        (("Mock/*",), None, "Other", None, None),
        ((), None, None, None, None),
        (("agents/*",), None, None, None, None),
        (None, "Hidden/new", None, None, "Hidden/new"),
    ],
)
def test_the_model_for_a_message_that_names_none(
    models: tuple[str, ...] | None,
    default: str | None,
    endpoint: str | None,
    model: str | None,
    picked: str | None,
) -> None:
    found = pick_model(WorkspaceConfig(models, default), AVAILABLE, endpoint, model)
    assert (str(found) if found else None) == picked


def test_an_agent_selects_by_everything_it_holds() -> None:
    choice = read_agent(
        {
            "provider": "Mock",
            "model": "gpt-4o",
            "tools": ["execute_code", "search_mcp_web", "sys__all__sys_mcp_files", "a_mcp_b_mcp_c"],
            "mcpServerNames": ["named"],
            "edges": [{"from": "agent_a", "to": ["agent_b"]}, {"from": ["agent_c"], "to": "end"}],
            "agent_ids": ["agent_d"],
            "subagents": {"enabled": True, "agent_ids": ["agent_e"]},
            "model_parameters": {"temperature": 1, "modelKwargs": {"model": "x"}, "stop": ["a"]},
        }
    )
    assert (choice.endpoint, choice.model, choice.complete) == ("Mock", "gpt-4o", True)
    assert choice.servers == {"web", "files", "b", "c", "named"}
    assert choice.agents == {"agent_a", "agent_b", "agent_c", "agent_d", "agent_e"}
    assert choice.parameters == ("modelKwargs",)


@pytest.mark.parametrize("value", [{"model": "x"}, [{"model": "x"}], [["x"]]])
def test_a_known_parameter_must_be_plain(value: Any) -> None:
    assert read_agent({"model_parameters": {"stop": value}}).parameters == ("stop",)


@pytest.mark.parametrize(
    ("subagents", "reached"),
    [({"enabled": False}, set()), ({}, set()), ({"enabled": {}}, {"agent_e"}), (None, set())],
)
def test_sub_agents_count_when_javascript_finds_them_enabled(
    subagents: dict[str, Any] | None, reached: set[str]
) -> None:
    listed = {**subagents, "agent_ids": ["agent_e"]} if subagents is not None else None
    assert read_agent({"subagents": listed}).agents == reached


def test_a_short_document_is_not_complete() -> None:
    assert not read_agent({"provider": "Mock", "model": "gpt-4o"}).complete


@pytest.mark.parametrize(
    "document",
    [
        {"model": {}},
        {"provider": 1},
        {"tools": "x"},
        {"tools": [1]},
        {"edges": {}},
        {"edges": ["agent_a"]},
        {"edges": [{"to": 1}]},
        {"edges": [{"to": [["agent_a"]]}]},
        {"agent_ids": "agent_a"},
        {"subagents": []},
        {"subagents": {"enabled": True, "agent_ids": "agent_a"}},
        {"model_parameters": ["x"]},
    ],
)
def test_an_agent_of_an_odd_shape_is_bad(document: dict[str, Any]) -> None:
    with pytest.raises(BadSelection):
        read_agent(document)


def test_every_part_of_a_tools_name_can_be_the_server() -> None:
    assert servers_of_tools(["a_mcp_b", "_mcp_c", "web_search", "x_mcp_"]) == {"b", "c"}


def test_a_spec_selects_by_its_preset_and_servers() -> None:
    spec = read_spec(
        {
            "name": "s",
            "preset": {"endpoint": "agents", "agent_id": "agent_1"},
            "mcpServers": ["web"],
            "subagents": {"enabled": True},
        }
    )
    assert spec.choice == Choice("agents", None, "agent_1")
    assert spec.servers == {"web"}
    assert spec.opaque
    with pytest.raises(BadSelection):
        read_spec({"name": "s"})


def test_a_model_reads_as_people_write_it() -> None:
    assert str(Model("Mock", "org/model")) == "Mock/org/model"


@pytest.mark.parametrize("name", ["messageId", "responseMessageId", "conversationId"])
@pytest.mark.parametrize("value", ["chatcmpl-1", "resp_1"])
def test_nobody_chooses_ids_that_stand_for_a_request_of_the_agents_api(name: str, value: str) -> None:
    with pytest.raises(BadSelection, match=name):
        clean_chat({"endpoint": "Mock", "model": "m", name: value}, lambda _: True)
