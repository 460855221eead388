"""A workspace that may use Mock/gpt-4o-mini can't reach gpt-4o, however it asks."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from tests.e2e.people import Person
from tests.e2e.processes import Running


@pytest.fixture
async def carol(alice: Person) -> Person:
    """Alice before her workspace is restricted has an agent on gpt-4o and a preset for it."""
    return alice


async def model_calls(stand_in: Running) -> list[dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.get(stand_in.url + "/__standin__/log") as reply:
        found: list[dict[str, Any]] = await reply.json()
        return found


async def restricted(person: Person) -> None:
    await person.set_config(models=["Mock/gpt-4o-mini"], mcpServers=[])


SELECTIONS: dict[str, dict[str, Any]] = {
    "endpoint": {"endpoint": "MockUsage", "model": "gpt-4o-mini"},
    "model": {"endpoint": "Mock", "model": "gpt-4o"},
    "built-in endpoint": {"endpoint": "openAI", "endpointType": None, "model": "gpt-4o"},
    "spec": {"endpoint": "Mock", "model": "gpt-4o-mini", "spec": "some-spec"},
    "added conversation": {
        "endpoint": "Mock", "model": "gpt-4o-mini", "addedConvo": {"endpoint": "Mock", "model": "gpt-4o"},
    },
    "added conversations": {
        "endpoint": "Mock", "model": "gpt-4o-mini", "addedConvo": [{"endpoint": "Mock", "model": "gpt-4o"}],
    },
}  # fmt: skip


@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS)
async def test_a_chat_message(alice: Person, selection: dict[str, Any]) -> None:
    await restricted(alice)
    answer = await alice.post_chat("let me [[tokens=3]]", **selection)
    assert answer.status in (400, 403), answer
    assert answer.json["message"]
    assert (await alice.usage())["used"] == 0


async def test_the_url_does_not_decide(alice: Person) -> None:
    await restricted(alice)
    body = {"text": "x", "endpoint": "Mock", "model": "gpt-4o", "conversationId": None}
    assert (await alice.call("POST", "/api/agents/chat/Mock", body)).status == 403
    body["model"] = "gpt-4o-mini"
    assert (await alice.call("POST", "/api/agents/chat/openAI", body)).status in (400, 403)
    started = await alice.post_chat("fine [[tokens=3]]", endpoint="Mock", model="gpt-4o-mini")
    assert started.status == 200


async def test_agents_and_what_they_lead_to(alice: Person) -> None:
    agent = {"name": "Big", "provider": "Mock", "model": "gpt-4o", "model_parameters": {}, "tools": []}
    big = (await alice.call("POST", "/api/agents", agent)).json["id"]
    small = (
        await alice.call("POST", "/api/agents", {**agent, "name": "Small", "model": "gpt-4o-mini"})
    ).json["id"]
    edges = [{"from": small, "to": big, "edgeType": "handoff"}]
    await alice.call("PATCH", f"/api/agents/{small}", {"edges": edges})
    plain = (
        await alice.call("POST", "/api/agents", {**agent, "name": "Plain", "model": "gpt-4o-mini"})
    ).json["id"]
    await restricted(alice)

    chat: dict[str, Any] = {"endpoint": "agents", "endpointType": None, "model": ...}
    assert (await alice.post_chat("x [[tokens=3]]", **chat, agent_id=big)).status == 403
    assert (await alice.post_chat("x [[tokens=3]]", **chat, agent_id=small)).status == 403
    assert (await alice.post_chat("x [[tokens=3]]", **chat, agent_id="agent_unknown")).status == 403
    assert (await alice.post_chat("x [[tokens=3]]", **chat, agent_id=plain)).status == 200
    added = {"endpoint": "agents", "agent_id": big}
    assert (await alice.post_chat("x", endpoint="Mock", model="gpt-4o-mini", addedConvo=added)).status == 403

    listed = (await alice.call("GET", "/api/agents?requiredPermission=1")).json["data"]
    assert [each["id"] for each in listed] == [plain]
    assert (await alice.call("POST", "/api/agents", agent)).status == 403
    assert (await alice.call("PATCH", f"/api/agents/{plain}", {"model": "gpt-4o"})).status == 403

    completion = {"model": big, "messages": [{"role": "user", "content": "hi"}]}
    answer = await alice.call("POST", "/api/agents/v1/chat/completions", completion)
    assert answer.status in (401, 403, 404)
    assert answer.json["error"]["message"]


async def test_no_refused_model_was_ever_called(alice: Person, stand_in: Running) -> None:
    await restricted(alice)
    account = (await alice.call("GET", "/api/user")).json["id"]
    for selection in SELECTIONS.values():
        await alice.post_chat("let me [[tokens=3]]", **selection)
    await alice.chat("fine [[tokens=3]]", endpoint="Mock", model="gpt-4o-mini")
    mine = [each for each in await model_calls(stand_in) if account in str(each)]
    assert mine
    assert all("gpt-4o-mini" in str(each) for each in mine)


async def test_presets_are_cut_down_when_read(alice: Person) -> None:
    for model in ("gpt-4o", "gpt-4o-mini"):
        preset = {"title": model, "endpoint": "Mock", "model": model}
        assert (await alice.call("POST", "/api/presets", preset)).status in (200, 201)
    await restricted(alice)
    assert [each["model"] for each in (await alice.call("GET", "/api/presets")).json] == ["gpt-4o-mini"]


async def test_discovery_tells_only_what_may_be_used(alice: Person) -> None:
    await restricted(alice)
    models = (await alice.call("GET", "/api/models")).json
    assert {name: found for name, found in models.items() if found} == {"Mock": ["gpt-4o-mini"]}
    endpoints = (await alice.call("GET", "/api/endpoints")).json
    assert "MockUsage" not in endpoints
    assert "Mock" in endpoints
    config = (await alice.call("GET", "/api/config")).json
    assert config["allowAccountDeletion"] is False
    assert config["socialLoginEnabled"] is False
    role = (await alice.call("GET", "/api/roles/USER")).json["permissions"]
    assert role["MCP_SERVERS"]["CREATE"] is False
    assert role["SHARED_LINKS"]["SHARE_PUBLIC"] is False
    assert (await alice.call("GET", "/api/models", If_None_Match="*")).status == 200


async def test_a_missing_model_becomes_the_default(alice: Person) -> None:
    await alice.set_config(models=["Mock*/gpt-4o-mini"], defaultModel="MockUsage/gpt-4o-mini")
    await alice.chat("default [[tokens=5 prompt=5]]", model=...)
    (used,) = (await alice.usage())["byModel"]
    assert (used["model"], used["tokens"]) == ("gpt-4o-mini", 10)


async def test_viewers_read_and_members_do_not_administer(alice: Person) -> None:
    for path, body in (
        (f"/v1/workspaces/{alice.workspace_id}/config", {"models": [7]}),
        (f"/v1/workspaces/{alice.workspace_id}/config", {"modles": []}),
        (f"/v1/workspaces/{alice.workspace_id}/quota", {"tokenLimit": -1}),
        (f"/v1/workspaces/{alice.workspace_id}/quota", {"tokenLimit": "many"}),
    ):
        answer = await alice.call("PUT", path, body)
        assert answer.status == 400, answer
        assert answer.json["error"]["details"]


async def test_another_tenants_workspace_does_not_exist(alice: Person, bob: Person) -> None:
    for suffix in ("", "/usage", "/config", "/quota"):
        assert (await bob.call("GET", f"/v1/workspaces/{alice.workspace_id}{suffix}")).status == 404
    body = {"tokenLimit": None}
    assert (await bob.call("PUT", f"/v1/workspaces/{alice.workspace_id}/quota", body)).status == 404
    assert (await bob.call("GET", "/v1/workspaces/not-a-uuid/usage")).status in (400, 404)
