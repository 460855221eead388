"""compose.yaml, as far as it can be checked without a Docker engine: what belongs together, and who is reachable."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from geko_proxy.config import load_settings
from geko_proxy.config.llm_settings import LlmSettings
from geko_proxy.librechat_setup.env_file import FIXED

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
    return document


def test_whatever_is_named_is_there(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert set(service["networks"]) <= set(compose["networks"]), name
        assert set(service.get("depends_on", ())) <= set(compose["services"]), name
        assert {each["source"] for each in service.get("configs", ())} <= set(compose["configs"]), name
        volumes = {each.split(":")[0] for each in service.get("volumes", ())}
        assert volumes <= set(compose["volumes"]), name
    for config in compose["configs"].values():
        assert (ROOT / config["file"]).is_file()


def test_only_geko_has_a_port_and_not_the_internal_one(compose: dict[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert ports == {"geko": ["${GEKO_PORT:-3002}:3002"]}
    assert LlmSettings().port == 3003


def test_librechat_reaches_geko_and_its_database_alone(compose: dict[str, Any]) -> None:
    networks = compose["networks"]
    own = compose["services"]["librechat"]["networks"]
    assert all(networks[name]["internal"] for name in own)
    beside = {
        name
        for name, service in compose["services"].items()
        if name != "librechat" and set(service["networks"]) & set(own)
    }
    assert beside == {"geko", "mongodb"}


def test_librechat_gets_what_geko_says_it_needs(compose: dict[str, Any]) -> None:
    environment = compose["services"]["librechat"]["environment"]
    expected = {line.name: line.value for line in FIXED}
    assert {name: environment.get(name) for name in expected} == expected
    geko = compose["services"]["geko"]["environment"]
    for theirs, ours in (
        ("JWT_SECRET", "GEKO_LIBRECHAT_JWT_SECRET"),
        ("JWT_REFRESH_SECRET", "GEKO_LIBRECHAT_JWT_REFRESH_SECRET"),
        ("GEKO_LLM_KEY", "GEKO_LLM_KEY"),
    ):
        assert environment[theirs] == geko[ours]
    assert environment["DOMAIN_CLIENT"] == environment["DOMAIN_SERVER"] == geko["GEKO_SERVER_PUBLIC_URL"]


def test_its_settings_are_valid_and_every_secret_is_asked_for(compose: dict[str, Any]) -> None:
    text = (ROOT / "compose.yaml").read_text("utf-8")
    asked = set(re.findall(r"\$\{(\w+):\?", text))
    listed = set(re.findall(r"(\w+)=(?= |$)", text[: text.index("\nname:")], re.MULTILINE))
    assert asked <= listed
    given = {
        name: re.sub(r"\$\{(\w+)(:[?-][^}]*)?\}", lambda found: f"{found[1]:x<40}", str(value))
        for name, value in compose["services"]["geko"]["environment"].items()
    }
    given |= {"GEKO_SERVER_PUBLIC_URL": "http://localhost:3002", "GEKO_SERVER_TRUSTED_PROXIES": ""}
    settings = load_settings(ROOT / "config/compose.toml", given)
    assert (settings.llm.host, settings.llm.port) == ("0.0.0.0", 3003)
    assert [each.name for each in settings.llm_providers] == ["Models"]
    assert all(each.key for provider in settings.llm_providers for each in provider.deployments)
