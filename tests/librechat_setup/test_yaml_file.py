"""The librechat.yaml that GEKO writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from geko_proxy.config import load_settings
from geko_proxy.librechat_setup.plan import Choices, ModelChoice, make_plan
from geko_proxy.librechat_setup.yaml_file import HEADERS, NO_MODEL, write_yaml
from tests.librechat_setup.test_plan import provider, settings

ROOT = Path(__file__).parents[2]


def written(*given: Any, choices: Choices | None = None) -> dict[str, Any]:
    text = write_yaml(make_plan(settings(*given), choices or Choices()))
    assert "&id" not in text, "nobody should have to read anchors"
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def endpoints(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in document["endpoints"]["custom"]}


def test_every_way_to_a_model_leads_through_geko() -> None:
    choices = Choices(memory=ModelChoice("A", "m"), summary=ModelChoice("B", "s"), title_model="t")
    document = written(provider("A"), provider("B"), provider("C", "anthropic"), choices=choices)
    found = endpoints(document)
    assert sorted(found) == [
        "A",
        "A memory",
        "A title",
        "B",
        "B summary",
        "B title",
        "C",
        "C title",
    ]
    for name, each in found.items():
        assert each["apiKey"] == "${GEKO_LLM_KEY}"
        assert each["baseURL"].startswith(f"http://127.0.0.1:3003/llm/{name[0]}")
        assert HEADERS.items() <= each["headers"].items()
        assert each["models"] == {"default": [NO_MODEL], "fetch": len(name) == 1}
    assert set(document["endpoints"]) == {"agents", "allowedAddresses", "custom"}
    assert document["endpoints"]["allowedAddresses"] == ["127.0.0.1:3003"]
    assert document["endpoints"]["agents"]["allowedProviders"] == ["A", "B", "C"]


def test_hidden_work_is_told_apart() -> None:
    choices = Choices(memory=ModelChoice("A", "m"), summary=ModelChoice("A", "s"), title_model="t")
    document = written(provider("A"), choices=choices)
    found = endpoints(document)
    assert found["A"]["titleEndpoint"] == "A title"
    assert found["A"]["titleModel"] == "t"
    assert document["memory"]["agent"] == {"enabled": True, "provider": "A memory", "model": "m"}
    assert document["summarization"] == {"enabled": True, "provider": "A summary", "model": "s"}
    kinds = {name: each["headers"].get("x-geko-kind") for name, each in found.items()}
    assert kinds == {"A": None, "A title": "title", "A memory": "memory", "A summary": "summary"}


def test_what_is_not_chosen_takes_the_model_of_the_chat_or_is_off() -> None:
    one = written(provider("A"))
    assert one["memory"] == {"disabled": True}
    assert one["interface"]["memories"] is False
    assert endpoints(one)["A"]["titleModel"] == "current_model"
    assert one["summarization"] == {"enabled": True, "provider": "A summary"}
    # the model of a chat with B can't be had from A
    assert "summarization" not in written(provider("A"), provider("B"))


def test_apis_differ() -> None:
    found = endpoints(written(provider("A"), provider("C", "anthropic")))
    assert found["A"]["addParams"] == {"streamUsage": True, "maxRetries": 1}
    assert "provider" not in found["A"]
    assert found["C"]["provider"] == "anthropic"
    assert "addParams" not in found["C"]
    assert found["A"]["baseURL"].endswith("/llm/A/v1")
    assert found["C"]["baseURL"].endswith("/llm/C")


def test_what_reaches_beyond_a_workspace_is_off() -> None:
    document = written()
    interface = document["interface"]
    assert document["secureImageLinks"] is True
    assert document["registration"] == {"socialLogins": [], "allowedDomains": ["shadow.geko.invalid"]}
    assert interface["marketplace"] == {"use": False}
    assert interface["multiConvo"] is False
    assert not any(interface["peoplePicker"].values())
    assert not any(interface["remoteAgents"].values())
    for kind in ("agents", "prompts", "skills", "mcpServers"):
        assert not interface[kind]["share"]
        assert not interface[kind]["public"]
    opened = written(choices=Choices(agents_api=True))["interface"]["remoteAgents"]
    assert opened == {"use": True, "create": True, "share": False, "public": False}


def test_without_providers_librechat_calls_its_own() -> None:
    (only,) = endpoints(written()).values()
    assert only["apiKey"] == "${OPENAI_API_KEY}"
    assert only["addParams"] == {"streamUsage": True}


@pytest.mark.parametrize("name", ["A: b", "1e3", "yes", "null", "Ä-1 (x)"])
def test_any_name_survives(name: str) -> None:
    assert name in endpoints(written(provider(name)))


def test_the_file_of_compose_is_the_one_that_would_be_made() -> None:
    given = load_settings(ROOT / "config/compose.toml", {"OPENAI_API_KEY": "x"})
    made = write_yaml(make_plan(given, Choices(gateway_url="http://geko:3003")))
    assert (ROOT / "config/librechat.yaml").read_text("utf-8") == made


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://geko:3003", ["geko:3003"]),
        ("https://geko", ["geko:443"]),
        ("http://[::1]:3003", ["[::1]:3003"]),
        ("http://8.8.8.8:3003", None),
    ],
)
def test_a_private_address_is_allowed_and_a_public_one_not_listed(
    url: str, allowed: list[str] | None
) -> None:
    document = written(provider("A"), choices=Choices(gateway_url=url))
    assert document["endpoints"].get("allowedAddresses") == allowed
