"""Turns `[[filters]]` of geko.toml into a chain. All problems are reported at once, with their place."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from geko_proxy.errors import ConfigError
from geko_proxy.filters.auth import AuthFilter
from geko_proxy.filters.base import Failure, Filter
from geko_proxy.filters.chain import Chain, Entry
from geko_proxy.filters.quota import QuotaFilter
from geko_proxy.filters.rate_limit import RateLimitFilter, UserRateLimitFilter
from geko_proxy.filters.tenant import TenantFilter
from geko_proxy.filters.workspace import WorkspaceFilter

if TYPE_CHECKING:
    from geko_proxy.config import FilterSettings
    from geko_proxy.services import Services

BUILT_IN: Mapping[str, type[Filter]] = {
    cls.name: cls
    for cls in (
        RateLimitFilter,
        AuthFilter,
        TenantFilter,
        WorkspaceFilter,
        UserRateLimitFilter,
        QuotaFilter,
    )
}

REQUIRED = ("auth", "tenant", "workspace")  # without them there is no isolation


@dataclasses.dataclass(frozen=True, slots=True)
class CheckedFilter:
    """A `[[filters]]` entry whose name and options are valid."""

    cls: type[Filter]
    options: Any
    failure: Failure
    timeout_ms: int | None


def load_chain(configured: Sequence[FilterSettings], services: Services) -> Chain:
    """Build the chain in the configured order; no I/O. Raises ConfigError with every problem."""
    return Chain(
        [
            Entry(each.cls(each.options, services), each.failure, each.timeout_ms)
            for each in check_filters(configured)
        ]
    )


def check_filters(configured: Sequence[FilterSettings]) -> list[CheckedFilter]:
    """Check names, options and order; return what is enabled. Raises ConfigError with every problem."""
    problems: list[str] = []
    checked: list[CheckedFilter] = []
    seen: set[str] = set()
    for number, each in enumerate(configured):
        place = f"filters[{number}]"
        cls = BUILT_IN.get(each.name)
        if cls is None:
            problems.append(f"{place}.name: there is no filter {each.name!r}; known: {', '.join(BUILT_IN)}")
            continue
        if each.name in seen:
            problems.append(f"{place}.name: {each.name!r} is there twice")
        seen.add(each.name)
        options, found = read_options(cls.Options, each.options, f"{place}.options")
        problems.extend(found)
        if each.enabled:
            failure = Failure(each.failure) if each.failure else cls.failure
            checked.append(CheckedFilter(cls, options, failure, each.timeout_ms))
    active = [each.cls.name for each in checked if each.cls.name in REQUIRED]
    if active != list(REQUIRED):
        problems.append(f"filters: {', '.join(REQUIRED)} must be enabled, in this order")
    names = [each.cls.name for each in checked]
    late = UserRateLimitFilter.name
    if late in names and "workspace" in names and names.index(late) < names.index("workspace"):
        problems.append(
            f"filters: {late} must stand after workspace, which finds out whose requests they are"
        )
    if problems:
        raise ConfigError(problems)
    return checked


def read_options(cls: type, values: Mapping[str, Any], place: str) -> tuple[Any, list[str]]:
    """Build a filter's Options; return it and the problems (then the options are None)."""
    problems = []
    hints = typing.get_type_hints(cls)
    known = {field.name for field in dataclasses.fields(cls)}
    for name, value in values.items():
        if name not in known:
            problems.append(
                f"{place}.{name}: there is no such option; known: {', '.join(sorted(known)) or 'none'}"
            )
        elif not _fits(value, hints[name]):
            problems.append(f"{place}.{name}: expected {_named(hints[name])}, got {value!r}")
    if problems:
        return None, problems
    try:
        return cls(**values), []
    except (TypeError, ValueError) as error:
        return None, [f"{place}: {error}"]


def _fits(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in typing.get_args(hint))
    if hint is None or hint is type(None):
        return value is None
    kind = typing.get_origin(hint) or hint
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is tuple:
        return isinstance(value, list | tuple)
    return isinstance(value, kind) if isinstance(kind, type) else True


def _named(hint: Any) -> str:
    names = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
    return names.get(hint, f"a value of type {hint}")
