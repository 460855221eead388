"""TOML file, .env file and environment -> `Settings`, with every problem reported at once.

Precedence: environment, .env, TOML, default. Within one of them the full name wins over an alias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from geko_proxy.config.declare import Spec
from geko_proxy.config.filter_entries import FilterEntries
from geko_proxy.config.kinds import Kind
from geko_proxy.config.llm_entries import LlmEntries
from geko_proxy.config.oauth_entries import OAuthEntries
from geko_proxy.config.price_entries import load_prices
from geko_proxy.config.settings import SECTIONS, Settings, environment_name, section_fields
from geko_proxy.config.sources import (
    Variables,
    did_you_mean,
    read_dotenv,
    read_environment,
    read_secret_file,
    read_toml,
)
from geko_proxy.errors import ConfigError

VERSION = 1
_UNSET = object()
# Read by the benchmark and the tests themselves.
_NOT_SETTINGS = ("GEKO_FILTER_", "GEKO_OAUTH_", "GEKO_BENCH_", "GEKO_TEST_")


def load_settings(path: Path | None, environ: Mapping[str, str], dotenv: Path | None = None) -> Settings:
    """Read all settings.

    path: the TOML file, None for none (all defaults); environ: usually os.environ; dotenv: a .env file, which may
    be missing. Secrets' files are the only other files read; relative paths are relative to the working directory.
    Raises ConfigError with every problem, each with its place.
    """
    problems: list[str] = []
    document = read_toml(path, problems) if path else None
    if document is not None:
        document = _check_version(document, str(path), problems)
    sources = (read_environment(environ), read_dotenv(dotenv, problems))
    settings = _Loader(document or {}, str(path), sources, problems).load()
    if problems:
        raise ConfigError(problems)
    return settings


class _Loader:
    """One run of `load_settings`; collects problems instead of raising."""

    def __init__(
        self, document: dict[str, Any], label: str, sources: Sequence[Variables], problems: list[str]
    ) -> None:
        self._document = document
        self._label = label
        self._sources = sources
        self._problems = problems

    def load(self) -> Settings:
        """Read every section and the filters."""
        self._refuse_unknown_tables()
        self._refuse_unknown_variables()
        sections = {name: self._section(name) for name in SECTIONS}
        database = sections["database"]
        if database.pool_min > database.pool_max:
            self._problem("database.pool_min", f"expected at most pool_max ({database.pool_max})")
        entries = FilterEntries(self._label, self._reference, self._fit, self._problems)
        filters = entries.load(self._document.get("filters"), self._sources)
        providers = OAuthEntries(self._label, self._reference, self._fit, self._problems)
        oauth = providers.load(self._document.get("oauth"), self._sources)
        if oauth and not sections["server"].public_url:
            self._problem("server.public_url", "needed by [[oauth]]: providers send people back to it")
        prices = load_prices(self._document.get("prices"), self._label, self._problems)
        models = LlmEntries(self._label, self._reference, self._fit, self._problems)
        llm = models.load(self._document.get("llm_providers"))
        return Settings(**sections, oauth=oauth, filters=filters, prices=prices, llm_providers=llm)

    def _section(self, section: str) -> Any:
        table = self._document.get(section, {})
        if not isinstance(table, dict):
            self._problem(f"{self._label}: {section}", "expected a table")
            table = {}
        known = section_fields(section)
        for key in table.keys() - known.keys():
            self._problem(f"{self._label}: {section}.{key}", "unknown key" + did_you_mean(key, known))
        values = {
            key: self._value(section, key, spec, default, table) for key, (spec, default) in known.items()
        }
        return SECTIONS[section](**values)

    def _value(self, section: str, key: str, spec: Spec, default: Any, table: dict[str, Any]) -> Any:
        for variables in self._sources:
            value = self._from_variables(variables, environment_name(section, key), spec, default)
            if value is not _UNSET:
                return value
        if key not in table:
            return default
        place = f"{self._label}: {section}.{key}"
        value = self._reference(table[key], place) if spec.secret else table[key]
        return default if value is None else self._fit(spec.kind, value, place, default, secret=spec.secret)

    def _from_variables(self, variables: Variables, full_name: str, spec: Spec, default: Any) -> Any:
        for name in (full_name, *spec.aliases):
            text = variables.get(name)
            if spec.secret and (file := variables.get(f"{name}_FILE")):
                if text is not None:
                    self._problem(variables.place(name), f"{name}_FILE is set too, expected only one of them")
                    return default
                text = read_secret_file(file, variables.place(f"{name}_FILE"), self._problems)
                if text is None:
                    return default
            if text is not None:
                return self._fit(
                    spec.kind, text, variables.place(name), default, secret=spec.secret, as_text=True
                )
        return _UNSET

    def _fit(
        self,
        kind: Kind[Any],
        value: Any,
        place: str,
        default: Any,
        *,
        secret: bool = False,
        as_text: bool = False,
    ) -> Any:
        """Give the checked value; the default, with a problem noted, when it does not fit."""
        try:
            parsed = kind.parse(value) if as_text else value
        except ValueError:
            parsed = _UNSET
        detail = ""
        if parsed is not _UNSET:
            try:
                return kind.check(parsed)
            except ValueError as error:
                detail = f" ({error})" if str(error) else ""
        self._problem(place, f"expected {kind.expected}" + ("" if secret else f", got {value!r}{detail}"))
        return default

    def _reference(self, value: Any, place: str) -> Any:
        """Resolve { env = "NAME" } and { file = "path" }, also inside tables and lists; None for a broken one."""
        if isinstance(value, list):
            return [self._reference(item, place) for item in value]
        if not isinstance(value, dict):
            return value
        match value:
            case {"env": str(name)} if len(value) == 1:
                return self._from_named_variable(name, place)
            case {"file": str(name)} if len(value) == 1:
                return read_secret_file(name, place, self._problems)
        return {key: self._reference(item, f"{place}.{key}") for key, item in value.items()}

    def _from_named_variable(self, name: str, place: str) -> str | None:
        for variables in self._sources:
            if (text := variables.get(name)) is not None:
                return text
        self._problem(place, f"environment variable {name} is not set")
        return None

    def _refuse_unknown_tables(self) -> None:
        known = [item.name for item in fields(Settings)] + ["version"]
        for key in self._document.keys() - set(known):
            self._problem(f"{self._label}: {key}", "unknown section" + did_you_mean(key, known))

    def _refuse_unknown_variables(self) -> None:
        known = known_variables()
        for variables in self._sources:
            for name in sorted(variables.values):
                if name.startswith("GEKO_") and name not in known and not name.startswith(_NOT_SETTINGS):
                    self._problem(variables.place(name), "unknown setting" + did_you_mean(name, known))

    def _problem(self, place: str, text: str) -> None:
        self._problems.append(f"{place}: {text}")


def known_variables() -> set[str]:
    """Name every environment variable that sets something, but those of filters."""
    names: set[str] = set()
    for section in SECTIONS:
        for key, (spec, _) in section_fields(section).items():
            for name in (environment_name(section, key), *spec.aliases):
                names |= {name, f"{name}_FILE"} if spec.secret else {name}
    return names


def _check_version(document: dict[str, Any], label: str, problems: list[str]) -> dict[str, Any]:
    version = document.get("version")
    if type(version) is int and version == VERSION:  # True == 1
        return document
    found = "none" if version is None else repr(version)
    problems.append(f"{label}: version: expected {VERSION}, got {found}; this GEKO reads no other version")
    return {}
