"""What is asked of LibreChat, how often, and what is made of it."""

from __future__ import annotations

import pytest

from geko_proxy.policy.librechat_view import MAX_AGENTS, Caller, LibreChatView, UnresolvableAgent, read_specs
from tests.fake_services import FakeLibreChat, agent

CALLER = Caller("a1", "bearer")


async def test_models_are_those_of_endpoints_that_are_on_in_menu_order() -> None:
    librechat = FakeLibreChat()
    view = LibreChatView(librechat.as_client())
    assert list(await view.models(CALLER)) == ["Mock", "Other"]
    calls = len(librechat.calls)
    await view.models(CALLER)
    assert len(librechat.calls) == calls
    await view.models(Caller("a2", "bearer"))
    assert len(librechat.calls) > calls  # another account may see other models


async def test_an_agent_is_followed_to_all_that_it_leads_to() -> None:
    agents = {
        "agent_a": agent(edges=[{"from": "agent_a", "to": "agent_b"}]),
        "agent_b": agent("gpt-4o", agent_ids=["agent_c"]),
        "agent_c": agent("o3", subagents={"enabled": True, "agent_ids": ["agent_a"]}),
    }
    view = LibreChatView(FakeLibreChat(agents=agents).as_client())
    found = await view.reachable(CALLER, ["agent_a"])
    assert [each.model for each in found] == ["gpt-4o-mini", "gpt-4o", "o3"]


@pytest.mark.parametrize(
    "agents",
    [
        {},
        {"agent_a": agent(agent_ids=["agent_gone"])},
        {"agent_a": {"provider": "Mock", "model": "gpt-4o-mini"}},  # the short document: tools unknown
        {"agent_a": agent(tools="odd")},
        {f"agent_{at}": agent(agent_ids=[f"agent_{at + 1}"]) for at in range(MAX_AGENTS + 2)}
        | {"agent_a": agent(agent_ids=["agent_0"])},
    ],
)
async def test_an_agent_that_cannot_be_seen_whole_is_not_resolved(agents: dict[str, object]) -> None:
    view = LibreChatView(FakeLibreChat(agents=agents).as_client())
    with pytest.raises(UnresolvableAgent):
        await view.reachable(CALLER, ["agent_a"])


async def test_an_agent_is_remembered_until_it_is_changed() -> None:
    librechat = FakeLibreChat(agents={"agent_a": agent()})
    view = LibreChatView(librechat.as_client())
    await view.agent(CALLER, "agent_a")
    librechat.agents["agent_a"] = agent("gpt-4o")
    assert (await view.agent(CALLER, "agent_a")).model == "gpt-4o-mini"
    view.forget_agent("agent_a")
    assert (await view.agent(CALLER, "agent_a")).model == "gpt-4o"


def test_specs_that_cannot_be_read_are_left_out_and_the_first_of_a_name_counts() -> None:
    good = {"name": "s", "preset": {"endpoint": "Mock", "model": "gpt-4o"}}
    later = {"name": "s", "preset": {"endpoint": "Mock", "model": "o3"}}
    specs = read_specs({"modelSpecs": {"enforce": True, "list": [None, {"name": 1}, good, later]}})
    assert specs.enforced
    assert {name: spec.choice.model for name, spec in specs.by_name.items()} == {"s": "gpt-4o"}
    assert read_specs({}).by_name == {}
