"""The rules of rate limits as they stand in geko.toml, and the kinds of request that they name."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from geko_proxy.filters.base import Exchange, Route

NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,39}", re.ASCII)  # it stands in a header and in Redis
COUNTS: Final = ("requests", "turns")
MAX_LIMIT: Final = 1_000_000_000
MAX_WINDOW_S: Final = 31 * 86_400

KINDS: Final = (
    "chat",
    "stream",
    "poll",
    "api",
    "media",
    "login",
    "session",
    "health",
    "account",
    "admin",
    "other",
)

_BY_ROUTE: Final[Mapping[Route, str]] = {
    Route.CHAT: "chat",
    Route.STREAM: "stream",
    Route.CONTROL: "poll",
    Route.DISCOVERY: "api",
    Route.API: "api",
    Route.AGENTS_API: "api",
    Route.MEDIA: "media",
}
_HEALTH: Final = frozenset({"health", "healthz", "readyz"})
_ACCOUNT: Final = ("auth.", "librechat.")
_USE: Final = ("chat.", "openai.")


def kind_of(exchange: Exchange) -> str:
    """The kind of a request, one of KINDS. A new endpoint of /v1 is "admin" unless its name says otherwise."""
    route, operation = exchange.route, exchange.operation
    kind = _BY_ROUTE.get(route)
    if kind is not None:
        return "api" if operation == "chat.abort" else kind
    if route is Route.PUBLIC:
        if operation in _HEALTH:
            return "health"
        return "session" if operation.endswith((".refresh", ".logout")) else "login"
    if route is Route.OWN:
        if operation.startswith(_ACCOUNT):
            return "account"
        return "api" if operation.startswith(_USE) else "admin"
    return "other"


@dataclass(frozen=True, slots=True)
class RateRule:
    """One limit. by: whose requests share it; count: requests in a sliding window of window_s seconds, or turns
    (answers) that run at the same time; routes: the kinds of request it is for, none: all.
    """

    name: str
    by: str
    limit: int
    count: str = "requests"
    window_s: int = 60
    routes: frozenset[str] = frozenset()

    def covers(self, kind: str) -> bool:
        """Whether requests of this kind count."""
        if self.count == "turns":
            return kind == "chat"
        return not self.routes or kind in self.routes

    @property
    def policy(self) -> str:
        """Its item of RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-10 §3)."""
        if self.count == "turns":
            return f'"{self.name}";q={self.limit};qu="concurrent-requests"'
        return f'"{self.name}";q={self.limit};w={self.window_s}'


def read_rules(given: Sequence[Any], keys: Collection[str]) -> tuple[RateRule, ...]:
    """The rules of an option. keys: what `by` may be. Raises ValueError naming every problem with its place."""
    problems: list[str] = []
    rules: list[RateRule] = []
    for number, each in enumerate(given):
        if isinstance(each, RateRule):
            rules.append(each)
            continue
        found = _problems(each, keys)
        problems += [f"rules[{number}]{problem}" for problem in found]
        if not found:
            rules.append(RateRule(**{**each, "routes": frozenset(each.get("routes", ()))}))
    names = [rule.name for rule in rules]
    problems += [f"rules: the name {name!r} is there twice" for name in set(names) if names.count(name) > 1]
    if problems:
        raise ValueError("; ".join(sorted(problems)))
    return tuple(rules)


def _problems(given: Any, keys: Collection[str]) -> list[str]:
    if not isinstance(given, dict):
        return [": expected a table"]
    known = [field.name for field in fields(RateRule)]
    problems = [
        f".{name}: there is no such key; known: {', '.join(known)}" for name in given if name not in known
    ]
    name = given.get("name")
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        problems.append(f".name: expected lower-case letters, digits, - and _, got {name!r}")
    problems += _choice(given, "by", tuple(keys))
    if "count" in given:
        problems += _choice(given, "count", COUNTS)
    problems += _number(given, "limit", MAX_LIMIT)
    if "window_s" in given:
        problems += _number(given, "window_s", MAX_WINDOW_S)
        if given.get("count") == "turns":
            problems.append(".window_s: turns are counted while they run, without a window")
    return problems + _routes(given)


def _choice(given: Mapping[str, Any], key: str, choices: Sequence[str]) -> list[str]:
    value = given.get(key)
    return [] if value in choices else [f".{key}: expected one of {', '.join(choices)}, got {value!r}"]


def _number(given: Mapping[str, Any], key: str, most: int) -> list[str]:
    value = given.get(key)
    if type(value) is int and 1 <= value <= most:
        return []
    return [f".{key}: expected a whole number from 1 to {most}, got {value!r}"]


def _routes(given: Mapping[str, Any]) -> list[str]:
    routes = given.get("routes", [])
    if not isinstance(routes, list | tuple) or not all(route in KINDS for route in routes):
        return [f".routes: expected a list of {', '.join(KINDS)}, got {routes!r}"]
    if given.get("count") == "turns" and set(routes) - {"chat"}:
        return [".routes: only chat starts turns"]
    return []
