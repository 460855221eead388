"""Which replies are rewritten, and what needs a look into agents."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Route
from geko_proxy.librechat import ROWS
from geko_proxy.metering.limits import Limit, LimitScope
from geko_proxy.policy import replies
from geko_proxy.policy.discovery import UnexpectedShape
from geko_proxy.policy.guard import Guard
from geko_proxy.policy.librechat_view import Caller, LibreChatView
from geko_proxy.workspaces.config import WorkspaceConfig
from tests.fake_services import TENANT, USER, WORKSPACE, FakeLibreChat, World, agent, exchange_of

SMALL = WorkspaceConfig(models=("Mock/gpt-4o-mini",), mcp_servers=("good",))
OPEN = WorkspaceConfig()
AGENTS = {
    "agent_ok": agent(),
    "agent_big": agent("gpt-4o"),
    "agent_leads": agent(agent_ids=["agent_big"]),
}
SPECS = {
    "list": [
        {"name": "fine", "preset": {"endpoint": "Mock", "model": "gpt-4o-mini"}},
        {"name": "big", "preset": {"endpoint": "Mock", "model": "gpt-4o"}},
        {"name": "agent", "preset": {"endpoint": "agents", "agent_id": "agent_leads"}},
        {"name": "odd"},
    ]
}


async def rewrite(
    exchange: Exchange, value: Any, config: WorkspaceConfig = SMALL, world: World | None = None
) -> Any:
    """The reply as the client gets it."""
    world = world or World()
    world.librechat = FakeLibreChat(agents=AGENTS, config={"modelSpecs": SPECS})
    guard = Guard(config, LibreChatView(world.librechat.as_client()), Caller("a1", "bearer"))
    found = replies.find_rewrite(exchange, guard)
    return value if found is None else await found(value, exchange, guard, world.services())


def test_every_discovery_route_is_rewritten_in_a_workspace_with_lists() -> None:
    guard = Guard(SMALL, LibreChatView(FakeLibreChat().as_client()), Caller("a1", "bearer"))
    for methods, _, rule in ROWS:
        if rule.route is Route.DISCOVERY and rule.operation != "config":
            exchange = exchange_of(methods, "/")
            exchange.operation = rule.operation
            assert replies.find_rewrite(exchange, guard) is not None, rule.operation


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("/api/models", {"Mock": ["gpt-4o", "gpt-4o-mini"], "Other": ["x"]}, {"Mock": ["gpt-4o-mini"]}),
        ("/api/endpoints", {"Mock": {}, "Other": {}}, {"Mock": {}}),
        ("/api/endpoints/token-config", {"Mock": {"gpt-4o": {}}}, {}),
        ("/api/mcp/servers", {"good": {}, "bad": {}}, {"good": {}}),
        ("/api/mcp/tools", {"servers": {"bad": {}}}, {"servers": {}}),
        ("/api/mcp/connection/status", {"connectionStatus": {"bad": 1}}, {"connectionStatus": {}}),
        ("/api/agents/tools", [{"pluginKey": "a_mcp_bad"}], []),
        ("/api/user/settings/favorites", [{"agentId": "agent_big"}, {"spec": "fine"}], [{"spec": "fine"}]),
        (
            "/api/agents",
            {"data": [{"id": "agent_ok"}, {"id": "agent_big"}, {"id": "agent_leads"}, {"id": "agent_x"}]},
            {"data": [{"id": "agent_ok"}]},
        ),
        ("/api/agents/v1/models", {"data": [{"id": "agent_big"}]}, {"data": []}),
        ("/api/agents/v1/models/agent_ok", {"id": "agent_ok"}, {"id": "agent_ok"}),
        ("/api/agents/agent_ok/expanded", agent(), agent()),
        (
            "/api/presets",
            [
                {"endpoint": "Mock", "model": "gpt-4o-mini"},
                {"endpoint": "Mock", "model": "gpt-4o"},
                {"endpoint": "agents", "agent_id": "agent_leads"},
                {"endpoint": "Mock", "model": "gpt-4o-mini", "spec": "big"},
                {"endpoint": "Mock", "model": 5},
            ],
            [{"endpoint": "Mock", "model": "gpt-4o-mini"}],
        ),
    ],
)  # fmt: skip
async def test_cut_down(path: str, value: Any, expected: Any) -> None:
    assert await rewrite(exchange_of("GET", path), value) == expected
    assert await rewrite(exchange_of("GET", path), value, OPEN) == value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/api/agents/agent_big", agent("gpt-4o")),
        ("/api/agents/agent_leads/expanded", agent(agent_ids=["agent_big"])),
        ("/api/agents/agent_unknown", {"provider": "Mock", "model": "gpt-4o-mini"}),  # tools are not shown
        ("/api/agents/v1/models/agent_big", {"id": "agent_big"}),
    ],
)
async def test_an_agent_that_may_not_be_used_is_not_there(path: str, value: Any) -> None:
    with pytest.raises(Refused) as refused:
        await rewrite(exchange_of("GET", path), value)
    assert refused.value.status == 404


async def test_an_agent_that_cannot_be_read_is_not_passed_on() -> None:
    with pytest.raises(UnexpectedShape):
        await rewrite(exchange_of("GET", "/api/agents/agent_ok"), agent(tools="odd"))


async def test_the_account_shows_the_person_with_usable_favourites() -> None:
    account = {"id": "a", "name": "s", "email": "s@x", "favorites": [{"agentId": "agent_big"}]}
    person = {"name": "Pat", "email": "p@acme.test", "username": ""}
    found = await rewrite(exchange_of("GET", "/api/user"), account)
    assert found == account | person | {"favorites": [], "twoFactorEnabled": False}
    assert await rewrite(exchange_of("GET", "/api/user"), account, OPEN) == account | person | {
        "twoFactorEnabled": False
    }


async def test_the_account_of_somebody_who_was_disabled_is_not_shown() -> None:
    world = World()
    assert world.user is not None
    world.user = replace(world.user, disabled_at=datetime.now(UTC))
    with pytest.raises(Refused) as refused:
        await rewrite(exchange_of("GET", "/api/user"), {"id": "a"}, world=world)
    assert refused.value.status == 401


@pytest.mark.parametrize("config", [SMALL, OPEN])
async def test_model_specs_are_cut_down_with_the_agents_they_start(config: WorkspaceConfig) -> None:
    world = World(librechat=FakeLibreChat(agents=AGENTS))
    guard = Guard(config, LibreChatView(world.librechat.as_client()), Caller("a1", "bearer"))
    found = await replies.config(
        {"modelSpecs": SPECS}, exchange_of("GET", "/api/config"), guard, world.services()
    )
    names = [each["name"] for each in found["modelSpecs"]["list"]]
    assert names == (["fine"] if config is SMALL else ["fine", "big", "agent", "odd"])


@pytest.mark.parametrize(
    ("limits", "shown"),
    [
        ([], False),
        ([Limit(WORKSPACE, WORKSPACE, LimitScope.WORKSPACE, amount=None)], False),
        ([Limit(WORKSPACE, WORKSPACE, LimitScope.WORKSPACE, amount=0)], True),
        ([Limit(USER, WORKSPACE, LimitScope.MEMBER, "*", amount=5)], True),
        ([Limit(USER, WORKSPACE, LimitScope.MEMBER, str(USER), amount=5)], True),
        ([Limit(USER, WORKSPACE, LimitScope.MEMBER, str(TENANT), amount=5)], False),
        ([Limit(USER, WORKSPACE, LimitScope.MODEL, "Mock/*", amount=5)], False),
    ],
)
async def test_the_page_shows_a_balance_when_a_limit_holds_for_the_caller(
    limits: list[Limit], shown: bool
) -> None:
    world = World(limits=tuple(limits))
    guard = Guard(OPEN, LibreChatView(world.librechat.as_client()), Caller("a1", "bearer"))
    value = {"balance": {"enabled": not shown, "startBalance": 7}}
    found = await replies.config(value, exchange_of("GET", "/api/config"), guard, world.services())
    assert found["balance"] == {"enabled": shown}


async def test_the_sign_in_page_gets_its_configuration_without_an_account() -> None:
    exchange = exchange_of("GET", "/api/config", anonymous=True)
    found = await replies.config({"appTitle": "x"}, exchange, None, World().services())
    assert (found["serverDomain"], found["registrationEnabled"]) == ("http://geko.test", True)
