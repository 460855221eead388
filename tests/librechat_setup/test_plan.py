"""What may be asked of `geko librechat-config`."""

from __future__ import annotations

import dataclasses

import pytest

from geko_proxy.config import Settings
from geko_proxy.config.llm_settings import DeploymentSettings, LlmProviderSettings, LlmSettings
from geko_proxy.errors import ConfigError
from geko_proxy.librechat_setup.plan import Choices, ModelChoice, make_plan

DEPLOYMENTS = (DeploymentSettings(base_url="http://127.0.0.1:9/v1"),)


def provider(name: str, api: str = "openai", models: tuple[str, ...] = ()) -> LlmProviderSettings:
    return LlmProviderSettings(name=name, api=api, models=models, deployments=DEPLOYMENTS)


def settings(*providers: LlmProviderSettings, host: str = "127.0.0.1", port: int = 3003) -> Settings:
    return Settings(llm=LlmSettings(host=host, port=port), llm_providers=providers)


def test_the_address_is_that_of_the_listener_or_the_one_given() -> None:
    assert make_plan(settings(provider("A")), Choices()).gateway_url == "http://127.0.0.1:3003"
    assert make_plan(settings(provider("A"), host="::1"), Choices()).gateway_url == "http://[::1]:3003"
    given = make_plan(settings(provider("A"), host="0.0.0.0"), Choices(gateway_url="http://geko:3003/"))
    assert given.base_url(provider("My models")) == "http://geko:3003/llm/My%20models/v1"
    assert given.base_url(provider("Claude", "anthropic")) == "http://geko:3003/llm/Claude"


@pytest.mark.parametrize(
    ("given", "choices", "problem"),
    [
        (settings(provider("A"), host="0.0.0.0"), Choices(), "--gateway-url: needed"),
        (settings(provider("A"), port=0), Choices(), "--gateway-url: needed"),
        (settings(provider("A")), Choices(gateway_url="geko:3003"), "--gateway-url: expected"),
        (settings(provider("openAI")), Choices(), "openAI"),
        (settings(provider("A"), provider("A title")), Choices(), "A title"),
        (settings(provider("A")), Choices(memory=ModelChoice("B", "m")), "--memory-model: there is no"),
        (settings(provider("A", models=("m",))), Choices(summary=ModelChoice("A", "n")), "no model 'n'"),
        (settings(), Choices(memory=ModelChoice("B", "m")), "--memory-model: needs"),
        (settings(), Choices(gateway_url="http://geko:3003"), "--gateway-url: needs"),
        (settings(), Choices(title_model="m"), "--title-model: needs"),
    ],
)
def test_what_does_not_fit_is_told(given: Settings, choices: Choices, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(given, choices)
    assert len(caught.value.problems) == 1
    assert problem in caught.value.problems[0]


def test_all_problems_are_told_at_once() -> None:
    both = dataclasses.replace(Choices(), memory=ModelChoice("B", "m"), summary=ModelChoice("C", "m"))
    with pytest.raises(ConfigError) as caught:
        make_plan(settings(provider("A")), both)
    assert len(caught.value.problems) == 2
