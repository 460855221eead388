"""What the operator decides about the LibreChat behind GEKO, checked against GEKO's settings."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

from geko_proxy.config import Settings
from geko_proxy.config.llm_settings import LlmProviderSettings
from geko_proxy.errors import ConfigError
from geko_proxy.llm.hidden import hidden_names

# LibreChat refuses a librechat.yaml whose custom endpoint has one of these names (EModelEndpoint in its
# packages/data-provider/src/schemas.ts).
RESERVED_NAMES: Final = frozenset(
    "azureOpenAI openAI google anthropic assistants azureAssistants agents custom bedrock".split()
)
EVERYWHERE: Final = frozenset({"0.0.0.0", "::", "[::]", ""})


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model for hidden work."""

    provider: str
    model: str

    @classmethod
    def read(cls, text: str) -> ModelChoice:
        """Read "Provider/model". Raises ValueError."""
        provider, _, model = text.partition("/")
        if not provider or not model:
            raise ValueError('expected "Provider/model"')
        return cls(provider, model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """gateway_url: where LibreChat reaches GEKO's internal listener; empty: where that listens.

    title_model: None makes titles with the model of the chat, which its workspace may use by definition.
    memory: the model of the memory agent; None switches memories off.
    summary: the model that shortens long conversations; None does it with the model of the chat.
    agents_api: whether the Agents API (/api/agents/v1) is open.
    """

    gateway_url: str = ""
    title_model: str | None = None
    memory: ModelChoice | None = None
    summary: ModelChoice | None = None
    agents_api: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings and choices that fit together."""

    settings: Settings
    choices: Choices
    gateway_url: str  # without a slash at its end; empty without providers

    @property
    def providers(self) -> tuple[LlmProviderSettings, ...]:
        """The model providers that LibreChat reaches through GEKO; none: it calls its own itself."""
        return self.settings.llm_providers

    def base_url(self, provider: LlmProviderSettings) -> str:
        """Where LibreChat calls a provider: Anthropic's client appends /v1 itself, OpenAI's does not."""
        url = f"{self.gateway_url}/llm/{quote(provider.name, safe='')}"
        return url if provider.api == "anthropic" else f"{url}/v1"


def make_plan(settings: Settings, choices: Choices) -> Plan:
    """Check everything. Raises ConfigError with every problem."""
    problems = list(_problems(settings, choices))
    if problems:
        raise ConfigError(problems)
    url = ""
    if settings.llm_providers:
        host = f"[{settings.llm.host}]" if ":" in settings.llm.host else settings.llm.host
        url = choices.gateway_url or f"http://{host}:{settings.llm.port}"
    return Plan(settings, choices, url.rstrip("/"))


def _problems(settings: Settings, choices: Choices) -> Iterator[str]:
    if not settings.llm_providers:
        for option in ("gateway_url", "title_model", "memory", "summary"):
            if getattr(choices, option):
                yield f"--{_OPTIONS[option]}: needs [[llm_providers]] in GEKO's settings"
        return
    yield from _address_problems(settings, choices)
    yield from _name_problems({each.name for each in settings.llm_providers})
    for option, choice in (("memory", choices.memory), ("summary", choices.summary)):
        if choice is not None:
            yield from _choice_problems(settings, f"--{_OPTIONS[option]}", choice)


def _name_problems(names: Collection[str]) -> Iterator[str]:
    folded = {name.casefold() for name in names}
    for name in names:
        if name in RESERVED_NAMES:
            yield f'llm_providers: LibreChat keeps the name "{name}" for itself; choose another'
    for name in sorted(hidden_names(names)):
        if name.casefold() in folded:
            yield f'llm_providers: "{name}" is the name of an endpoint for hidden work'


def _choice_problems(settings: Settings, option: str, choice: ModelChoice) -> Iterator[str]:
    provider = next((each for each in settings.llm_providers if each.name == choice.provider), None)
    if provider is None:
        yield f"{option}: there is no provider {choice.provider!r} in [[llm_providers]]"
    elif provider.models and choice.model not in provider.models:
        yield f"{option}: {choice.provider} has no model {choice.model!r}"


def _address_problems(settings: Settings, choices: Choices) -> Iterator[str]:
    if choices.gateway_url:
        parts = _split(choices.gateway_url)
        if parts is None or parts.query or parts.fragment or parts.username:
            yield "--gateway-url: expected a URL like http://geko:3003"
    elif settings.llm.host in EVERYWHERE or not settings.llm.port:
        yield "--gateway-url: needed, llm.host and llm.port do not say where LibreChat reaches GEKO"


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError for one that is no number or too large
    except ValueError:
        return None
    return parts if parts.scheme in ("http", "https") and parts.hostname else None


_OPTIONS: Final = {
    "gateway_url": "gateway-url",
    "title_model": "title-model",
    "memory": "memory-model",
    "summary": "summary-model",
}
