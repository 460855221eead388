"""[llm] and [[llm_providers]]: what is read, secrets by reference, every problem with its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from geko_proxy.config import ConfigError, Settings, load_settings
from geko_proxy.config.llm_settings import DeploymentSettings, LlmProviderSettings
from tests.test_config import STRONG

URL = 'base_url = "https://api.example.test/v1"\n'
ONE = '[[llm_providers]]\nname = "Mock"\n[[llm_providers.deployments]]\n' + URL


def load(tmp_path: Path, toml: str, environ: Mapping[str, str] | None = None) -> Settings:
    path = tmp_path / "geko.toml"
    path.write_text("version = 1\n" + toml)
    return load_settings(path, environ or {}, None)


def problems(tmp_path: Path, toml: str) -> list[str]:
    with pytest.raises(ConfigError) as found:
        load(tmp_path, toml)
    return [each.replace(f"{tmp_path}/geko.toml: ", "") for each in found.value.problems]


def test_providers_with_secrets_by_reference(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from a file\n")
    toml = f"""
        [llm]
        port = 4003
        [[llm_providers]]
        name = "My Gateway (EU)"
        models = ["gpt-4o", "meta/llama-3"]
        retries = 0
        [[llm_providers.deployments]]
        base_url = "https://a.example.test/openai/v1?api-version=preview"
        key = {{ file = "{tmp_path}/key" }}
        weight = 3
        models = {{ "gpt-4o" = "azure-deployment-name" }}
        read_timeout_ms = 1000
        [[llm_providers.deployments]]
        base_url = "http://127.0.0.1:9000/v1/"
        headers = {{ X-Token = {{ env = "TOKEN" }}, file = "plain" }}
        [[llm_providers.deployments]]
        base_url = "http://127.0.0.1:9000/v1"
        [[llm_providers]]
        name = "Claude"
        api = "anthropic"
        [[llm_providers.deployments]]
        {URL}
    """
    settings = load(tmp_path, toml, {"TOKEN": "by name"})
    gateway, claude = settings.llm_providers
    assert settings.llm.port == 4003
    assert (gateway.name, gateway.models, gateway.retries) == (
        "My Gateway (EU)",
        ("gpt-4o", "meta/llama-3"),
        0,
    )
    azure, local, twin = gateway.deployments
    assert (azure.key, azure.weight, azure.read_timeout_ms) == ("from a file", 3, 1000)
    assert azure.models == {"gpt-4o": "azure-deployment-name"}
    assert (local.headers, local.models, local.key) == ({"x-token": "by name", "file": "plain"}, None, "")
    assert [each.name for each in gateway.deployments] == [
        "a.example.test",
        "127.0.0.1:9000",
        "127.0.0.1:9000 (2)",
    ]
    assert twin.connect_timeout_ms == 3000
    assert claude == LlmProviderSettings(
        name="Claude",
        api="anthropic",
        deployments=(DeploymentSettings(base_url="https://api.example.test/v1", name="api.example.test"),),
    )
    assert "from a file" not in repr(settings)
    assert "by name" not in repr(settings)
    assert load(tmp_path, "").llm_providers == ()


def test_every_problem_at_once_with_its_place(tmp_path: Path) -> None:
    toml = """
        [llm]
        unknown_accounts = "anybody"
        [[llm_providers]]
        nam = "x"
        api = "grpc"
        models = ["a", "a*"]
        [[llm_providers]]
        name = "a/b"
        retries = 11
        deployments = [5]
        [[llm_providers]]
        name = "One"
        models = ["a", "b"]
        [[llm_providers.deployments]]
        base_url = "https://key@x.test/v1"
        key = { env = "NOWHERE" }
        headers = { Host = "secret-value" }
        wieght = 2
        [[llm_providers]]
        name = "Two"
        models = ["a", "b"]
        [[llm_providers.deployments]]
        base_url = "https://x.test/v1"
        models = { a = "x", c = "y" }
        [[llm_providers]]
        name = "two"
        [[llm_providers.deployments]]
        base_url = "https://x.test/v1"
        name = "same"
        [[llm_providers]]
        name = "Three"
        [[llm_providers.deployments]]
        base_url = "https://x.test/v1/.."
        name = "same"
        [[llm_providers.deployments]]
        base_url = "ftp://x.test"
        key = "a\\nb"
    """
    found = problems(tmp_path, toml)
    assert [each.partition(": ")[0] for each in found] == [
        "llm.unknown_accounts",
        "llm_providers[0].nam",
        "llm_providers[0].name",
        "llm_providers[0].api",
        "llm_providers[0].models",
        "llm_providers[0].deployments",
        "llm_providers[1].name",
        "llm_providers[1].retries",
        "llm_providers[1].deployments[0]",
        "llm_providers[2].deployments[0].wieght",
        "llm_providers[2].deployments[0].base_url",
        "llm_providers[2].deployments[0].key",
        "llm_providers[2].deployments[0].headers",
        "llm_providers[3].deployments[0].models",
        "llm_providers[3].models",
        "llm_providers[4]",
        "llm_providers[5].deployments[0].base_url",
        "llm_providers[5].deployments[1].base_url",
        "llm_providers[5].deployments[1].key",
    ]
    assert "did you mean name?" in found[1]
    assert "secret-value" not in "\n".join(found)
    assert "c is not among the provider's models" in found[13]
    assert "no deployment serves b" in found[14]


@pytest.mark.parametrize(
    ("toml", "problem"),
    [
        ("llm_providers = 5", "llm_providers: expected [[llm_providers]] tables"),
        ("llm_providers = [5]", "llm_providers[0]: expected a table"),
        (
            ONE + 'name = "x"\n[[llm_providers.deployments]]\nname = "x"\n' + URL,
            "llm_providers[0].deployments: the deployment x is there twice",
        ),
    ],
)
def test_what_is_no_list_of_providers(tmp_path: Path, toml: str, problem: str) -> None:
    assert problems(tmp_path, toml) == [problem]


def test_serving_providers_wants_a_strong_key_of_its_own(tmp_path: Path) -> None:
    load(tmp_path, "", STRONG).require_secrets()
    load(
        tmp_path, ONE, STRONG | {"GEKO_LLM_KEY": "9f2c7a1be04d83566a7b1c9e5d20f4837c6e1a5b"}
    ).require_secrets()
    for key, fault in (("", "needed"), ("short", "too weak"), (STRONG["GEKO_AUTH_JWT_SECRET"], "different")):
        with pytest.raises(ConfigError, match=rf"llm\.key.*{fault}"):
            load(tmp_path, ONE, STRONG | {"GEKO_LLM_KEY": key}).require_secrets()
