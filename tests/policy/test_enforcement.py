"""The checks of requests, operation by operation, as the proxy classifies them."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import msgspec
import pytest

from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange
from geko_proxy.librechat import ROWS
from geko_proxy.policy.enforcement import CHECKS
from geko_proxy.policy.guard import Guard
from geko_proxy.policy.librechat_view import Caller, LibreChatView
from geko_proxy.workspaces.config import WorkspaceConfig
from tests.fake_services import WORKSPACE, FakeLibreChat, World, account_of, agent, exchange_of

SMALL = WorkspaceConfig(models=("Mock/gpt-4o-mini",), mcp_servers=("good",))
OPEN = WorkspaceConfig()
MATE, STRANGER = "a" * 24, "b" * 24
AGENTS = {
    "agent_ok": agent(versions=[agent("gpt-4o"), agent()]),
    "agent_big": agent("gpt-4o"),
}
ADD_MATE = {"updated": [{"type": "user", "id": MATE, "accessRoleId": "agent_viewer"}]}


async def check(exchange: Exchange, config: WorkspaceConfig = SMALL) -> dict[str, Any] | None:
    """Run the operation's check; return the body as LibreChat would get it."""
    world = World(
        librechat=FakeLibreChat(agents=dict(AGENTS)),
        accounts=[account_of(MATE, WORKSPACE), account_of(STRANGER, uuid4())],
    )
    view = LibreChatView(world.librechat.as_client())
    guard = Guard(config, view, Caller("a1", "bearer"))
    await CHECKS[exchange.operation](exchange, guard, world.services())
    body = exchange.request.body
    return msgspec.json.decode(body) if body else None


REFUSED: list[tuple[str, str, Any, int]] = [
    ("POST", "/api/agents/chat/Mock", {"endpoint": "Mock", "model": "gpt-4o"}, 403),
    ("POST", "/api/agents/chat/Other", {"endpoint": "Mock", "model": "gpt-4o-mini"}, 400),
    ("POST", "/api/agents/chat", {"endpoint": "Mock", "model": 1}, 400),
    ("POST", "/api/agents/chat", b"[]", 400),
    ("POST", "/api/agents/chat", b"{", 400),
    ("POST", "/api/endpoints/context-projection", {"endpoint": "Mock", "model": "gpt-4o"}, 403),
    ("POST", "/api/endpoints/context-projection", {"endpoint": "agents", "agentId": "agent_big"}, 403),
    ("POST", "/api/user/settings/favorites", {"favorites": {}}, 400),
    ("POST", "/api/user/plugins", {"pluginKey": "mcp_bad", "action": "install"}, 403),
    ("POST", "/api/user/plugins", {"pluginKey": ["mcp_bad"], "action": "install"}, 400),
    ("POST", "/api/mcp/bad/reinitialize", None, 403),
    ("GET", "/api/mcp/bad/auth-values", None, 403),
    ("GET", "/api/mcp/connection/status/bad", None, 403),
    ("POST", "/api/mcp/oauth/cancel/bad", None, 403),
    ("POST", "/api/agents", {"provider": "Mock", "model": "gpt-4o"}, 403),
    ("POST", "/api/agents", {"provider": "Mock", "model": ["gpt-4o-mini"]}, 400),
    ("POST", "/api/agents", agent(tools=["x_mcp_bad"]), 403),
    ("POST", "/api/agents", agent(edges=[{"from": "x", "to": "agent_big"}]), 403),
    ("POST", "/api/agents", agent(agent_ids=["agent_unknown"]), 403),
    ("POST", "/api/agents", agent(subagents={"enabled": True, "agent_ids": ["agent_big"]}), 403),
    ("POST", "/api/agents", agent(model_parameters={"modelKwargs": {"model": "x"}}), 403),
    ("POST", "/api/agents", agent(model_parameters="x"), 400),
    ("PATCH", "/api/agents/agent_ok", {"model": "gpt-4o"}, 403),
    ("PATCH", "/api/agents/agent_ok", {"provider": "Other"}, 403),
    ("PATCH", "/api/agents/agent_unknown", {"model": "gpt-4o-mini"}, 403),
    ("POST", "/api/agents/agent_big/duplicate", None, 403),
    ("POST", "/api/agents/agent_ok/revert", {"version_index": 0}, 403),
    ("POST", "/api/agents/agent_ok/revert", {"version_index": 2}, 400),
    ("POST", "/api/agents/agent_ok/revert", {"version_index": "1"}, 400),
    ("POST", "/api/agents/agent_unknown/revert", {"version_index": 0}, 403),
    ("PUT", "/api/permissions/agent/1", {"public": True, "publicAccessRoleId": "agent_viewer"}, 403),
    ("PUT", "/api/permissions/agent/1", {"public": 1}, 403),
    ("PUT", "/api/permissions/agent/1", {"updated": [{"type": "public"}]}, 403),
    ("PUT", "/api/permissions/agent/1", {"updated": [{"type": "role", "id": "USER"}]}, 403),
    ("PUT", "/api/permissions/agent/1", {"updated": [{"type": "group", "id": MATE}]}, 403),
    ("PUT", "/api/permissions/agent/1", {"updated": [{"type": "user", "id": STRANGER}]}, 403),
    ("PUT", "/api/permissions/agent/1", {"updated": [{"type": "user", "source": "entra"}]}, 403),
    ("PUT", "/api/permissions/agent/1", {"updated": {"0": {"type": "public"}}}, 400),
    ("POST", "/api/agents/tools/web_search/call", {}, 403),
    ("POST", "/api/agents/v1/chat/completions", {"model": "agent_big", "messages": []}, 403),
    ("POST", "/api/agents/v1/chat/completions", {"model": "gpt-4o-mini", "messages": []}, 403),
    ("POST", "/api/agents/v1/chat/completions", {"model": {"$ne": 1}}, 400),
    ("POST", "/api/agents/v1/Responses", {"model": "agent_unknown", "input": "x"}, 403),
    ("POST", "/api/agents/v1/new", {"model": "agent_ok"}, 404),
    ("DELETE", "/api/agents/v1/responses/1", None, 404),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), REFUSED)
async def test_refused(method: str, path: str, body: Any, status: int) -> None:
    with pytest.raises(Refused) as refused:
        await check(exchange_of(method, path, body))
    assert refused.value.status == status


PASSED: list[tuple[str, str, Any]] = [
    ("POST", "/api/agents/chat/Mock", {"endpoint": "Mock", "model": "gpt-4o-mini", "text": "hi"}),
    ("POST", "/api/endpoints/context-projection", {"endpoint": "Mock", "model": "gpt-4o-mini"}),
    ("POST", "/api/user/plugins", {"pluginKey": "mcp_good", "action": "install", "auth": {}}),
    ("POST", "/api/user/plugins", {"pluginKey": "mcp_bad", "action": "uninstall", "auth": {}}),
    ("POST", "/api/user/plugins", {"pluginKey": "dalle", "action": "install", "auth": {}}),
    ("POST", "/api/mcp/good/reinitialize", None),
    ("POST", "/api/mcp/%67ood/reinitialize", None),
    ("POST", "/api/agents", agent(edges=[{"from": "agent_ok", "to": "agent_ok"}])),
    (
        "PATCH",
        "/api/agents/agent_ok",
        {"model": "gpt-4o-mini", "edges": [{"from": "agent_ok", "to": "agent_ok"}]},
    ),
    ("PATCH", "/api/agents/agent_big", {"name": "only a name"}),
    ("POST", "/api/agents/agent_ok/duplicate", None),
    ("POST", "/api/agents/agent_ok/revert", {"version_index": 1}),
    ("PUT", "/api/permissions/agent/1", ADD_MATE | {"removed": [], "public": False}),
    ("POST", "/api/agents/tools/execute_code/call", None),
    ("POST", "/api/agents/v1/chat/completions", {"model": "agent_ok", "messages": [], "stream": True}),
    ("GET", "/api/agents/v1/models", None),
    ("GET", "/api/agents/v1/responses/resp_1", None),
]


@pytest.mark.parametrize(("method", "path", "body"), PASSED)
async def test_passed_as_it_was(method: str, path: str, body: Any) -> None:
    exchange = exchange_of(method, path, body)
    assert await check(exchange) == body
    if body is not None:
        assert exchange.request.overrides["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/endpoints/context-projection", {"endpoint": "Mock", "model": "gpt-4o"}),
        ("POST", "/api/user/plugins", {"pluginKey": "mcp_bad", "action": "install"}),
        ("POST", "/api/mcp/bad/reinitialize", None),
        ("POST", "/api/agents", agent("gpt-4o", tools=["x_mcp_bad"])),
        ("POST", "/api/agents/agent_big/duplicate", None),
        ("POST", "/api/agents/agent_ok/revert", {"version_index": 0}),
    ],
)
async def test_a_workspace_without_lists_is_not_restricted(method: str, path: str, body: Any) -> None:
    assert await check(exchange_of(method, path, body), OPEN) == body


async def test_what_is_checked_is_what_librechat_reads() -> None:
    """The same bytes as a form would select gpt-4o (seen on LibreChat v0.8.7)."""
    raw = b'{"x":"&endpoint=Mock&model=gpt-4o&y=","endpoint":"Mock","model":"gpt-4o","model":"gpt-4o-mini"}'
    exchange = exchange_of("POST", "/api/agents/chat/Mock", raw)
    body = await check(exchange)
    assert exchange.request.body is not None
    assert exchange.request.body.count(b'"model"') == 1
    assert body is not None
    assert body["model"] == "gpt-4o-mini"
    assert exchange.request.overrides["content-type"] == "application/json"


async def test_the_model_of_a_chat_message_is_noted() -> None:
    exchange = exchange_of("POST", "/api/agents/chat/agents", {"endpoint": "agents", "agent_id": "agent_ok"})
    await check(exchange)
    assert exchange.model == "Mock/gpt-4o-mini"


async def test_favourites_that_cannot_be_used_are_left_out() -> None:
    good: list[Any] = [{"agentId": "agent_ok"}, {"model": "gpt-4o-mini", "endpoint": "Mock"}]
    bad: list[Any] = [
        {"agentId": "agent_big"},
        {"model": "gpt-4o", "endpoint": "Mock"},
        {"spec": "unknown"},
        {"model": ["gpt-4o"]},
        7,
    ]
    exchange = exchange_of("POST", "/api/user/settings/favorites", {"favorites": [*bad, *good]})
    assert await check(exchange) == {"favorites": good}


async def test_an_agent_is_never_stored_without_streaming() -> None:
    body = agent(model_parameters={"disableStreaming": True, "temperature": 1})
    found = await check(exchange_of("POST", "/api/agents", body), OPEN)
    assert found == agent(model_parameters={"temperature": 1})


def test_every_check_belongs_to_a_route() -> None:
    assert CHECKS.keys() <= {rule.operation for _, _, rule in ROWS}
