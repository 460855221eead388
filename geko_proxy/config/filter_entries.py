"""The [[filters]] entries of the TOML file, with what GEKO_FILTER_<NAME>_<OPTION> variables change in them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from geko_proxy.config.kinds import Kind, choice, flag, integer
from geko_proxy.config.settings import DEFAULT_FILTERS, FilterSettings
from geko_proxy.config.sources import Variables, did_you_mean

PREFIX = "GEKO_FILTER_"
_KINDS: dict[str, Kind[Any]] = {
    "enabled": flag(),
    "failure": choice("closed", "open"),
    "timeout_ms": integer(1),
}
_KEYS = ("name", *_KINDS, "options")


class Fit(Protocol):
    """Checks a value against a kind; gives the default and notes a problem when it does not fit."""

    def __call__(
        self,
        kind: Kind[Any],
        value: Any,
        place: str,
        default: Any,
        *,
        secret: bool = False,
        as_text: bool = False,
    ) -> Any: ...


class Resolve(Protocol):
    """Replaces { env = … } and { file = … } by what they stand for."""

    def __call__(self, value: Any, place: str) -> Any: ...


@dataclass(slots=True)
class _Entry:
    """One filter while it is put together."""

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> FilterSettings:
        return FilterSettings(name=self.name, options=self.options, **self.values)


class FilterEntries:
    """Reads the filters of one configuration, noting every problem."""

    def __init__(self, label: str, resolve: Resolve, fit: Fit, problems: list[str]) -> None:
        self._label = label
        self._resolve = resolve
        self._fit = fit
        self._problems = problems

    def load(self, tables: Any, sources: Sequence[Variables]) -> tuple[FilterSettings, ...]:
        """Give the filters in order. No [[filters]] at all means the built-in ones, an empty list means none."""
        if tables is None:
            entries = [_Entry(default.name, options=dict(default.options)) for default in DEFAULT_FILTERS]
        else:
            entries = self._from_tables(tables)
        for variables in reversed(sources):  # the first source has the last word
            self._overlay(entries, variables)
        return tuple(entry.settings() for entry in entries)

    def _from_tables(self, tables: Any) -> list[_Entry]:
        if not isinstance(tables, list):
            self._problems.append(f"{self._label}: filters: expected [[filters]] tables")
            return []
        entries: list[_Entry] = []
        for index, table in enumerate(tables):
            place = f"{self._label}: filters[{index}]"
            entry = self._from_table(table, place)
            if entry is None:
                continue
            if any(entry.name == other.name for other in entries):
                self._problems.append(f"{place}: the filter {entry.name} is there twice")
            entries.append(entry)
        return entries

    def _from_table(self, table: Any, place: str) -> _Entry | None:
        if not isinstance(table, dict):
            self._problems.append(f"{place}: expected a table")
            return None
        for key in sorted(table.keys() - set(_KEYS)):
            hint = did_you_mean(key, _KEYS) or "; a filter's own options stand in [filters.options]"
            self._problems.append(f"{place}.{key}: unknown key{hint}")
        name = table.get("name")
        if not isinstance(name, str) or not name:
            self._problems.append(f"{place}.name: expected the filter's name, got {name!r}")
            return None
        options = table.get("options", {})
        if not isinstance(options, dict):
            self._problems.append(f"{place}.options: expected a table")
            options = {}
        entry = _Entry(name, options=self._options(options, f"{place}.options"))
        for key in table.keys() & _KINDS.keys():
            self._set(entry, key, table[key], f"{place}.{key}")
        return entry

    def _options(self, options: dict[str, Any], place: str) -> dict[str, Any]:
        # key by key: an option itself may be called "env" or "file"
        return {key: self._resolve(value, f"{place}.{key}") for key, value in options.items()}

    def _overlay(self, entries: list[_Entry], variables: Variables) -> None:
        for name in sorted(variables.values):
            text = variables.get(name)
            if not name.startswith(PREFIX) or text is None:
                continue
            entry = _addressed(entries, name)
            if entry is None:
                known = [_variable_prefix(entry.name) for entry in entries]
                hint = did_you_mean(name, known).removesuffix("?")
                self._problems.append(
                    f"{variables.place(name)}: no filter of that name in the configuration"
                    + (hint and f"{hint}…?")
                )
                continue
            key = name.removeprefix(_variable_prefix(entry.name)).lower()
            if key in _KINDS:
                self._set(entry, key, text, variables.place(name), as_text=True)
            else:
                entry.options[key] = _toml_value(text)

    def _set(self, entry: _Entry, key: str, value: Any, place: str, *, as_text: bool = False) -> None:
        default = entry.values.get(key, FilterSettings.__dataclass_fields__[key].default)
        entry.values[key] = self._fit(_KINDS[key], value, place, default, as_text=as_text)


def variable_name(filter_name: str, key: str) -> str:
    """Name the environment variable of a filter's option."""
    return PREFIX + re.sub(r"[^A-Za-z0-9]", "_", f"{filter_name}_{key}").upper()


def _addressed(entries: Sequence[_Entry], variable: str) -> _Entry | None:
    """Find the filter a variable means: the longest name that fits, as `rate` and `rate_limit` may both exist."""
    fitting = [entry for entry in entries if variable.startswith(_variable_prefix(entry.name))]
    return max(fitting, key=lambda entry: len(entry.name), default=None)


def _variable_prefix(filter_name: str) -> str:
    return variable_name(filter_name, "")


def _toml_value(text: str) -> Any:
    """Read `200`, `true`, `["a", "b"]` as TOML would; anything else is text."""
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return document["value"] if len(document) == 1 else text
