"""The route table: rows of method, pattern, handler and guard, matched as Express matches.

Literal segments ignore case, one trailing slash is allowed, nothing is decoded before matching (contract §1).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from aiohttp import web

from geko_proxy.demo.librechat.express import Json

if TYPE_CHECKING:
    from geko_proxy.demo.librechat.accounts import Account
    from geko_proxy.demo.librechat.server import StandIn

Handler = Callable[["Call"], Awaitable[web.StreamResponse]]


class Guard(Enum):
    """What a route asks of the caller before its handler runs."""

    OPEN = "no token needed"
    OPTIONAL = "a good token is used, a bad one is ignored"
    USER = "a bearer token"
    BROWSER = "a bearer token, no ban and the User-Agent of a browser"
    KEY = "an Agents API key"


@dataclass(slots=True)
class Call:
    """One request on its way to a handler; `body` is the parsed JSON (an empty object when there is none)."""

    request: web.Request
    lc: StandIn
    params: dict[str, str] = field(default_factory=dict)
    body: Json = field(default_factory=dict)
    account: Account | None = None

    @property
    def user(self) -> Account:
        """The account behind the token; only for guarded routes."""
        if self.account is None:
            raise RuntimeError("this route has no guard")
        return self.account

    @property
    def query(self) -> Any:
        """The query parameters."""
        return self.request.query

    @property
    def ip(self) -> str:
        """`req.ip`: the right-most X-Forwarded-For entry (contract §2.7), with TRUST_PROXY above 1 one before it."""
        forwarded = self.request.headers.get("X-Forwarded-For", "").split(",")
        trusted = min(self.lc.settings.trust_proxy, len(forwarded))
        return forwarded[-trusted].strip() or self.request.remote or "127.0.0.1"


class Route(NamedTuple):
    """A row of the table; `pattern` like `/api/messages/:conversationId`."""

    method: str
    pattern: str
    handler: Handler
    guard: Guard = Guard.USER


class Routes:
    """Finds the row for a request; earlier rows win."""

    def __init__(self, rows: Iterable[Route]) -> None:
        self._literal: dict[tuple[str, str], Route] = {}
        self._patterns: dict[tuple[str, int], list[tuple[re.Pattern[str], Route]]] = {}
        for row in rows:
            key = (row.method, row.pattern.lower())
            if key in self._literal:
                raise ValueError(f"{row.method} {row.pattern} is there twice")
            if ":" not in row.pattern:
                self._literal[key] = row
                continue
            expression = re.sub(r":(\w+)", r"(?P<\1>[^/]+)", row.pattern)
            compiled = re.compile(expression, re.IGNORECASE)
            self._patterns.setdefault((row.method, row.pattern.count("/")), []).append((compiled, row))

    def find(self, method: str, raw_path: str) -> tuple[Route, dict[str, str]] | None:
        """Return the row and its decoded parameters; HEAD finds GET's row."""
        method = "GET" if method == "HEAD" else method
        path = raw_path[:-1] if len(raw_path) > 1 and raw_path.endswith("/") else raw_path
        row = self._literal.get((method, path.lower()))
        if row is not None:
            return row, {}
        for expression, candidate in self._patterns.get((method, path.count("/")), ()):
            found = expression.fullmatch(path)
            if found:
                return candidate, {name: unquote(value) for name, value in found.groupdict().items()}
        return None
