"""What each discovery reply becomes; the shapes are those that LibreChat v0.8.7 sends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from geko_proxy.policy import discovery
from geko_proxy.policy.discovery import UnexpectedShape
from geko_proxy.workspaces.config import WorkspaceConfig

OPEN = WorkspaceConfig()
SMALL = WorkspaceConfig(
    models=("Mock/gpt-4o-mini", "Mock/o3"), default_model="Mock/o3", mcp_servers=("good",)
)
MODELS = {"openAI": ["gpt-5.5"], "assistants": [], "Mock": ["gpt-4o", "gpt-4o-mini", "o3"]}
ENDPOINTS: dict[str, Any] = {
    "agents": {"order": 1, "capabilities": ["tools"]},
    "Mock": {"order": 2, "type": "custom"},
    "Other": {"order": 0, "type": "custom"},
}
CONFIG: dict[str, Any] = {
    "appTitle": "LibreChat",
    "discordLoginEnabled": True,
    "openidLoginEnabled": True,
    "samlLoginEnabled": True,
    "socialLoginEnabled": True,
    "openidAutoRedirect": True,
    "serverDomain": "http://localhost:3080",
    "emailLoginEnabled": False,
    "registrationEnabled": False,
    "passwordResetEnabled": True,
    "socialLogins": ["google"],
    "turnstile": {"siteKey": "x"},
    "rum": {"url": "x"},
    "buildInfo": {"commit": "c"},
}
SIGNED_IN: dict[str, Any] = CONFIG | {
    "allowAccountDeletion": True,
    "publicSharedLinksEnabled": True,
    "sharedLinksEnabled": True,
    "balance": {"enabled": True},
    "interface": {
        "modelSelect": True,
        "marketplace": {"use": True},
        "remoteAgents": {"use": True, "public": True},
        "mcpServers": {"use": True, "create": True, "share": True, "public": True},
        "agents": {"use": True, "public": True},
    },
    "modelSpecs": {
        "enforce": True,
        "list": [{"name": "keep"}, {"name": "drop"}],
        "addedEndpoints": ["Mock", "openAI", "agents"],
    },
}


def config_of(value: Any, config: WorkspaceConfig = SMALL, specs: set[str] | None = None) -> Any:
    return discovery.filter_config(
        value, registration=True, public_url="https://geko.test", specs=specs, config=config
    )


def test_the_account_shows_the_person_and_keeps_its_id() -> None:
    account = {"_id": "a", "id": "a", "name": "shadow", "email": "s@x", "role": "USER", "favorites": [1]}
    found = discovery.filter_user(account, name="Pat", email="p@acme.test", username="pat", favorites=[])
    assert found == {
        "_id": "a", "id": "a", "name": "Pat", "email": "p@acme.test", "username": "pat",
        "role": "USER", "favorites": [], "twoFactorEnabled": False,
    }  # fmt: skip


def test_the_configuration_offers_gekos_own_sign_in_only() -> None:
    assert config_of(CONFIG) == {
        "appTitle": "LibreChat",
        "discordLoginEnabled": False,
        "openidLoginEnabled": False,
        "samlLoginEnabled": False,
        "socialLoginEnabled": False,
        "openidAutoRedirect": False,
        "serverDomain": "https://geko.test",
        "emailLoginEnabled": True,
        "emailEnabled": False,
        "registrationEnabled": True,
        "passwordResetEnabled": False,
        "minPasswordLength": 8,
        "socialLogins": [],
        "ldap": {"enabled": False},
        "turnstile": {},
        "buildInfo": {"commit": "c"},
    }


def test_the_configuration_of_an_account_is_cut_down() -> None:
    found = config_of(SIGNED_IN, specs={"keep"})
    assert (found["allowAccountDeletion"], found["publicSharedLinksEnabled"]) == (False, False)
    assert (found["sharedLinksEnabled"], found["balance"]) == (True, {"enabled": False})
    assert found["interface"] == {
        "modelSelect": True,
        "marketplace": {"use": False},
        "remoteAgents": {"use": False, "public": False},
        "mcpServers": {"use": True, "create": False, "share": False, "public": False},
        "agents": {"use": True, "public": False},
    }
    assert found["modelSpecs"] == {
        "enforce": True,
        "list": [{"name": "keep"}],
        "addedEndpoints": ["Mock", "agents"],
    }
    assert config_of(SIGNED_IN, OPEN)["modelSpecs"] == SIGNED_IN["modelSpecs"]


def test_models_are_cut_down_with_the_default_first() -> None:
    assert discovery.filter_models(MODELS, SMALL) == {"Mock": ["o3", "gpt-4o-mini"]}
    ordered = discovery.filter_models(MODELS, WorkspaceConfig(default_model="Mock/o3"))
    assert list(ordered) == ["Mock", "openAI", "assistants"]
    assert ordered["Mock"] == ["o3", "gpt-4o", "gpt-4o-mini"]


def test_without_lists_and_default_nothing_changes() -> None:
    assert list(discovery.filter_models(MODELS, OPEN).items()) == list(MODELS.items())
    assert discovery.filter_endpoints(ENDPOINTS, OPEN) == ENDPOINTS


@pytest.mark.parametrize(
    ("config", "endpoints"),
    [
        (SMALL, {"Mock": 0, "agents": 1}),
        (WorkspaceConfig(models=("Mock/x",)), {"agents": 1, "Mock": 2}),
        (WorkspaceConfig(models=("*/x",)), {"agents": 1, "Mock": 2, "Other": 0}),
        (WorkspaceConfig(models=()), {"agents": 1}),
        (WorkspaceConfig(default_model="Mock/o3"), {"Mock": 0, "Other": 1, "agents": 2}),
        (WorkspaceConfig(default_model="Other/x"), {"agents": 1, "Mock": 2, "Other": 0}),
    ],
)
def test_endpoints_with_the_defaults_one_first(config: WorkspaceConfig, endpoints: dict[str, int]) -> None:
    found = discovery.filter_endpoints(ENDPOINTS, config)
    assert {name: each["order"] for name, each in found.items()} == endpoints
    assert all(each.keys() == ENDPOINTS[name].keys() for name, each in found.items())


def test_token_config_is_cut_down() -> None:
    value = {"openAI": {"gpt-5.5": {"context": 1}}, "Mock": {"o3": {"context": 2}, "gpt-4o": {"context": 3}}}
    assert discovery.filter_token_config(value, SMALL) == {"Mock": {"o3": {"context": 2}}}


def test_the_role_loses_what_reaches_beyond_the_workspace() -> None:
    role = {
        "name": "USER",
        "permissions": {
            "AGENTS": {"USE": True, "SHARE": True, "SHARE_PUBLIC": True},
            "MARKETPLACE": {"USE": True},
            "PEOPLE_PICKER": {"VIEW_USERS": True},
            "REMOTE_AGENTS": {"USE": True, "CREATE": True},
            "MCP_SERVERS": {"USE": True, "CREATE": True, "SHARE": True},
            "SHARED_LINKS": {"CREATE": True, "SHARE_PUBLIC": True},
        },
    }
    assert discovery.filter_role(role)["permissions"] == {
        "AGENTS": {"USE": True, "SHARE": True, "SHARE_PUBLIC": False},
        "MARKETPLACE": {"USE": False},
        "PEOPLE_PICKER": {"VIEW_USERS": False},
        "REMOTE_AGENTS": {"USE": False, "CREATE": False},
        "MCP_SERVERS": {"USE": True, "CREATE": False, "SHARE": False},
        "SHARED_LINKS": {"CREATE": True, "SHARE_PUBLIC": False},
    }


def test_mcp_servers_that_are_not_allowed_vanish() -> None:
    named = {"good": {"a": 1}, "bad": {"b": 1}}
    kept = {"good": {"a": 1}}
    allows = SMALL.allows_mcp
    assert discovery.filter_servers(named, allows) == kept
    assert discovery.filter_mcp_tools({"servers": named}, allows) == {"servers": kept}
    status = {"success": True, "connectionStatus": named, "oauthTimeout": 1}
    assert discovery.filter_mcp_status(status, allows) == status | {"connectionStatus": kept}
    tools = [{"pluginKey": "dalle"}, {"pluginKey": "x_mcp_good"}, {"pluginKey": "x_mcp_bad"}]
    assert discovery.filter_tools(tools, allows) == tools[:2]


@pytest.mark.parametrize(
    ("allowed", "first", "last"), [({"a", "c"}, "a", "c"), ({"b"}, "b", "b"), (set(), None, None)]
)
def test_a_list_of_agents_keeps_its_shape(allowed: set[str], first: str | None, last: str | None) -> None:
    listed = [{"id": name} for name in "abc"]
    value = {
        "object": "list",
        "data": listed,
        "first_id": "a",
        "last_id": "c",
        "has_more": True,
        "after": "x",
    }
    assert discovery.ids_of_agents(value) == ["a", "b", "c"]
    found = discovery.filter_agents(value, allowed)
    assert [each["id"] for each in found["data"]] == sorted(allowed)
    assert (found["first_id"], found["last_id"], found["has_more"]) == (first, last, True)
    assert "first_id" not in discovery.filter_agents({"data": listed}, allowed)


@pytest.mark.parametrize(
    ("function", "value"),
    [
        (lambda v: discovery.filter_models(v, SMALL), []),
        (lambda v: discovery.filter_models(v, SMALL), {"Mock": "gpt-4o"}),
        (lambda v: discovery.filter_models(v, SMALL), {"Mock": [{"name": "gpt-4o"}]}),
        (lambda v: discovery.filter_endpoints(v, SMALL), "Mock"),
        (lambda v: discovery.filter_token_config(v, SMALL), {"Mock": []}),
        (discovery.filter_role, {"permissions": None}),
        (discovery.filter_role, None),
        (lambda v: discovery.filter_servers(v, SMALL.allows_mcp), ["bad"]),
        (lambda v: discovery.filter_mcp_tools(v, SMALL.allows_mcp), {"servers": ["bad"]}),
        (lambda v: discovery.filter_mcp_status(v, SMALL.allows_mcp), {}),
        (lambda v: discovery.filter_tools(v, SMALL.allows_mcp), [{}]),
        (discovery.ids_of_agents, {"data": [{"name": "x"}]}),
        (discovery.ids_of_agents, {"agents": []}),
        (discovery.list_of, {}),
        (discovery.object_of, []),
        (config_of, []),
        (config_of, {"modelSpecs": []}),
        (config_of, {"interface": []}),
    ],
)
def test_what_is_not_understood_is_not_passed_on(function: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(UnexpectedShape):
        function(value)


def test_endpoints_for_hidden_work_are_never_shown_nor_used() -> None:
    config = WorkspaceConfig(hidden_endpoints=frozenset({"Mock title"}))
    both = {"Mock": {"order": 0}, "Mock title": {"order": 1}}
    assert set(discovery.filter_endpoints(both, config)) == {"Mock"}
    assert discovery.filter_models({"Mock": ["a"], "Mock title": ["a"]}, config) == {"Mock": ["a"]}
    sizes: dict[str, Any] = {"Mock": {"a": {}}, "Mock title": {"a": {}}}
    assert set(discovery.filter_token_config(sizes, config)) == {"Mock"}
    assert config.allows_model("Mock", "a")
    assert not config.allows_model("Mock title", "a")
    assert not config.lists_models
