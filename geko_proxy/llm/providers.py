"""A provider as GEKO calls it: its deployments, and how many calls wait for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from geko_proxy.config.llm_settings import LlmProviderSettings, LlmSettings
from geko_proxy.llm.breaker import BreakerOptions
from geko_proxy.llm.deployments import Deployment


@dataclass(slots=True)
class Provider:
    """One provider. models: those that may be asked for, empty: any; waiting: calls that wait for room there."""

    name: str
    api: str
    models: tuple[str, ...]
    retries: int
    deployments: tuple[Deployment, ...]
    waiting: int = 0

    def serving(self, model: str) -> list[Deployment]:
        """The deployments to which calls for a model may go."""
        if self.models and model not in self.models:
            return []
        return [each for each in self.deployments if each.serves(model)]

    def configured_models(self) -> tuple[str, ...]:
        """The models that the settings name, in their order."""
        mapped = [model for each in self.deployments for model in each.settings.models or ()]
        return self.models or tuple(dict.fromkeys(mapped))

    def must_be_asked(self) -> bool:
        """Whether the settings leave open which models there are."""
        return not self.models and any(each.settings.models is None for each in self.deployments)


def build_providers(settings: LlmSettings, entries: Sequence[LlmProviderSettings]) -> dict[str, Provider]:
    """The providers of the settings by name. Nothing is connected yet."""
    breaker = BreakerOptions(settings.breaker_failures, cooldown_s=settings.breaker_cooldown_ms / 1000)
    return {
        entry.name: Provider(
            entry.name,
            entry.api,
            entry.models,
            entry.retries,
            tuple(Deployment(entry.name, entry.api, each, breaker) for each in entry.deployments),
        )
        for entry in entries
    }
