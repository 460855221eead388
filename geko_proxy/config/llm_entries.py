"""The [[llm_providers]] entries of the TOML file, each with its [[llm_providers.deployments]]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

from geko_proxy.config.filter_entries import Fit, Resolve
from geko_proxy.config.kinds import Kind
from geko_proxy.config.llm_settings import (
    DEPLOYMENT_KEYS,
    PROVIDER_KEYS,
    DeploymentSettings,
    LlmProviderSettings,
)
from geko_proxy.config.sources import did_you_mean

SECRETS: Final = frozenset({"key", "headers"})
MAX_DEPLOYMENTS: Final = 100


class LlmEntries:
    """Reads the model providers of one configuration, noting every problem."""

    def __init__(self, label: str, resolve: Resolve, fit: Fit, problems: list[str]) -> None:
        self._label = label
        self._resolve = resolve
        self._fit = fit
        self._problems = problems

    def load(self, tables: Any) -> tuple[LlmProviderSettings, ...]:
        """The providers in the order of the file. No [[llm_providers]] means none."""
        if tables is None:
            return ()
        if not isinstance(tables, list):
            self._problems.append(f"{self._label}: llm_providers: expected [[llm_providers]] tables")
            return ()
        found: list[LlmProviderSettings] = []
        for index, table in enumerate(tables):
            place = f"{self._label}: llm_providers[{index}]"
            provider = self._provider(table, place)
            if provider is None:
                continue
            if any(provider.name.casefold() == other.name.casefold() for other in found):
                self._problems.append(f"{place}: the provider {provider.name} is there twice")
            found.append(provider)
        return tuple(found)

    def _provider(self, table: Any, place: str) -> LlmProviderSettings | None:
        before = len(self._problems)
        values = self._values(table, place, PROVIDER_KEYS, needed="name", nested=("deployments",))
        if values is None:
            return None
        deployments = self._deployments(table.get("deployments"), f"{place}.deployments")
        if len(self._problems) > before:
            return None
        provider = LlmProviderSettings(**values, deployments=_named(deployments))
        self._check_models(provider, place)
        return provider

    def _deployments(self, tables: Any, place: str) -> list[DeploymentSettings]:
        if not isinstance(tables, list) or not 0 < len(tables) <= MAX_DEPLOYMENTS:
            self._problems.append(f"{place}: needed, expected [[llm_providers.deployments]] tables")
            return []
        found = []
        for index, table in enumerate(tables):
            values = self._values(table, f"{place}[{index}]", DEPLOYMENT_KEYS, needed="base_url")
            if values is not None and "base_url" in values:
                found.append(DeploymentSettings(**values))
        names = [each.name for each in found if each.name]
        for name in sorted({name for name in names if names.count(name) > 1}):
            self._problems.append(f"{place}: the deployment {name} is there twice")
        return found

    def _values(
        self,
        table: Any,
        place: str,
        keys: Mapping[str, tuple[Kind[Any], str]],
        *,
        needed: str,
        nested: tuple[str, ...] = (),
    ) -> dict[str, Any] | None:
        if not isinstance(table, dict):
            self._problems.append(f"{place}: expected a table")
            return None
        known = (*keys, *nested)
        for key in sorted(table.keys() - set(known)):
            self._problems.append(f"{place}.{key}: unknown key{did_you_mean(key, known)}")
        if needed not in table:
            self._problems.append(f"{place}.{needed}: needed, expected {keys[needed][0].expected}")
        return {key: self._value(table[key], f"{place}.{key}", key, keys) for key in keys if key in table}

    def _value(self, value: Any, place: str, key: str, keys: Mapping[str, tuple[Kind[Any], str]]) -> Any:
        if key == "headers" and isinstance(value, dict):  # each by itself: a header may be called "file"
            value = {name: self._resolve(content, f"{place}.{name}") for name, content in value.items()}
            if None in value.values():  # a reference that could not be resolved is a problem already
                return {}
        elif key in SECRETS and (value := self._resolve(value, place)) is None:
            return ""
        return self._fit(keys[key][0], value, place, None, secret=key in SECRETS)

    def _check_models(self, provider: LlmProviderSettings, place: str) -> None:
        maps = [each.models for each in provider.deployments]
        if not provider.models:
            return
        for index, mapped in enumerate(maps):
            for model in sorted((mapped or {}).keys() - set(provider.models)):
                self._problems.append(
                    f"{place}.deployments[{index}].models: {model} is not among the provider's models"
                )
        for model in provider.models:
            if not any(mapped is None or model in mapped for mapped in maps):
                self._problems.append(f"{place}.models: no deployment serves {model}")


def _named(deployments: list[DeploymentSettings]) -> tuple[DeploymentSettings, ...]:
    """The deployments with a name each, different ones also for two keys at the same address."""
    taken = {each.name for each in deployments}
    named = []
    for each in deployments:
        name = each.name or urlsplit(each.base_url).netloc
        number = 1
        while not each.name and name in taken:
            number += 1
            name = f"{urlsplit(each.base_url).netloc} ({number})"
        taken.add(name)
        named.append(replace(each, name=name))
    return tuple(named)
