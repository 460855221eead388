"""The .env lines that GEKO writes."""

from __future__ import annotations

from dataclasses import replace

from geko_proxy.config import LibreChatSettings, ServerSettings
from geko_proxy.config.llm_settings import LlmSettings
from geko_proxy.librechat_setup.env_file import write_env
from geko_proxy.librechat_setup.plan import Choices, make_plan
from tests.librechat_setup.test_plan import provider, settings

FULL = replace(
    settings(provider("A")),
    server=ServerSettings(public_url="https://chat.example.org"),
    librechat=LibreChatSettings(jwt_secret="secret-1", jwt_refresh_secret="secret-2"),
    llm=LlmSettings(key="secret-3"),
)


def values(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_a_private_file_holds_what_both_share() -> None:
    found = values(write_env(make_plan(FULL, Choices()), with_secrets=True))
    assert (found["JWT_SECRET"], found["JWT_REFRESH_SECRET"], found["GEKO_LLM_KEY"]) == (
        "secret-1",
        "secret-2",
        "secret-3",
    )
    assert found["DOMAIN_CLIENT"] == found["DOMAIN_SERVER"] == "https://chat.example.org"
    assert found["BAN_VIOLATIONS"] == "false"
    assert found["TRUST_PROXY"] == "1"
    assert "CREDS_KEY" not in found, "what nobody knows must not get a value that looks like one"


def test_nothing_secret_is_printed() -> None:
    text = write_env(make_plan(FULL, Choices()), with_secrets=False)
    assert "secret-" not in text
    assert "# JWT_SECRET=\n" in text


def test_without_providers_librechat_has_a_key_of_its_own() -> None:
    text = write_env(make_plan(replace(FULL, llm_providers=()), Choices()), with_secrets=True)
    assert "GEKO_LLM_KEY" not in text
    assert "# OPENAI_API_KEY=\n" in text
