"""The [[oauth]] entries of the TOML file, with what GEKO_OAUTH_<NAME>_<KEY> variables change in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from geko_proxy.config.filter_entries import Fit, Resolve
from geko_proxy.config.oauth_settings import KEYS, OAuthProviderSettings, missing, provider_settings
from geko_proxy.config.sources import Variables, did_you_mean, read_secret_file

PREFIX: Final = "GEKO_OAUTH_"
SECRET: Final = "client_secret"  # noqa: S105  # the name of a key
GITHUB_ONLY: Final = ("authorize_url", "token_url", "api_url")


@dataclass(slots=True)
class _Entry:
    """One provider while it is put together. place: where a problem with it is."""

    place: str
    values: dict[str, Any] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        name = self.values.get("name", "")
        return name if isinstance(name, str) else ""


class OAuthEntries:
    """Reads the identity providers of one configuration, noting every problem."""

    def __init__(self, label: str, resolve: Resolve, fit: Fit, problems: list[str]) -> None:
        self._label = label
        self._resolve = resolve
        self._fit = fit
        self._problems = problems

    def load(self, tables: Any, sources: Sequence[Variables]) -> tuple[OAuthProviderSettings, ...]:
        """The providers in the order in which people see them. No [[oauth]] means none."""
        entries = self._from_tables([] if tables is None else tables)
        for variables in reversed(sources):  # the first source has the last word
            self._overlay(entries, variables)
        before = len(self._problems)
        for entry in entries:
            self._check(entry)
        if len(self._problems) > before or any(entry.broken for entry in entries):
            return ()
        return tuple(provider_settings(entry.values) for entry in entries)

    def _from_tables(self, tables: Any) -> list[_Entry]:
        if not isinstance(tables, list):
            self._problems.append(f"{self._label}: oauth: expected [[oauth]] tables")
            return []
        entries: list[_Entry] = []
        for index, table in enumerate(tables):
            entry = _Entry(f"{self._label}: oauth[{index}]")
            if not isinstance(table, dict):
                self._problems.append(f"{entry.place}: expected a table")
                continue
            self._read(entry, table)
            if entry.name and any(_variable(entry.name) == _variable(other.name) for other in entries):
                self._problems.append(f"{entry.place}: the provider {entry.name} is there twice")
            entries.append(entry)
        return entries

    def _read(self, entry: _Entry, table: dict[str, Any]) -> None:
        for key in sorted(table.keys() - KEYS.keys()):
            self._problems.append(f"{entry.place}.{key}: unknown key{did_you_mean(key, KEYS)}")
        for key in KEYS:
            if key in table:
                place = f"{entry.place}.{key}"
                value = self._resolve(table[key], place) if key == SECRET else table[key]
                self._set(entry, key, value, place)

    def _overlay(self, entries: list[_Entry], variables: Variables) -> None:
        for name in sorted(variables.values):
            text = variables.get(name)
            if not name.startswith(PREFIX) or text is None:
                continue
            place = variables.place(name)
            entry = _addressed(entries, name)
            if entry is None:
                self._problems.append(f"{place}: no [[oauth]] entry of that name in the configuration")
                continue
            key = name.removeprefix(_variable(entry.name)).lower()
            if key == f"{SECRET}_file":
                key, text = SECRET, read_secret_file(text, place, self._problems)
                if variables.get(name.removesuffix("_FILE")) is not None:
                    self._problems.append(
                        f"{place}: {name.removesuffix('_FILE')} is set too, expected only one"
                    )
            if key not in KEYS or key == "name":
                hint = did_you_mean(key, KEYS)
                self._problems.append(f"{place}: {key} is no setting of an identity provider{hint}")
            else:
                self._set(entry, key, text, place, as_text=True)

    def _set(self, entry: _Entry, key: str, value: Any, place: str, *, as_text: bool = False) -> None:
        if value is None:  # a reference that could not be resolved is a problem already
            entry.broken.add(key)
            return
        before = len(self._problems)
        secret = key == SECRET
        fitted = self._fit(KEYS[key][0], value, place, None, secret=secret, as_text=as_text)
        if len(self._problems) > before:
            entry.broken.add(key)
        else:
            entry.values[key] = fitted

    def _check(self, entry: _Entry) -> None:
        for key in ("name", "kind"):
            if key not in entry.values and key not in entry.broken:
                self._problems.append(f"{entry.place}.{key}: needed, expected {KEYS[key][0].expected}")
        for key in missing(entry.values):
            if key not in entry.broken:
                hint = f", or set {_variable(entry.name)}{key.upper()}" if entry.name else ""
                self._problems.append(f"{entry.place}.{key}: needed{hint}")
        kind = entry.values.get("kind")
        if kind in ("google", "oidc"):
            for key in GITHUB_ONLY:
                if key in entry.values:
                    self._problems.append(f"{entry.place}.{key}: only for the kind github")
        if kind == "github" and "issuer" in entry.values:
            self._problems.append(f"{entry.place}.issuer: not for the kind github")
        if kind in ("google", "oidc") and "openid" not in entry.values.get("scopes", ("openid",)):
            self._problems.append(f'{entry.place}.scopes: "openid" must be among them')


def _variable(name: str) -> str:
    return PREFIX + re.sub(r"[^A-Za-z0-9]", "_", name).upper() + "_"


def _addressed(entries: Sequence[_Entry], variable: str) -> _Entry | None:
    """The provider that a variable means: the longest name that fits, as `git` and `git-lab` may both exist."""
    fitting = [entry for entry in entries if entry.name and variable.startswith(_variable(entry.name))]
    return max(fitting, key=lambda entry: len(entry.name), default=None)
