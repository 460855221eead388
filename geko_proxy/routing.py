"""A literal route table: method and path pattern to a value. Knows nothing about HTTP servers or LibreChat.

Patterns: `/api/user`, `/api/messages/{conversationId}`, `/assets/{path*}`. Literal segments match without regard to
case and to one trailing slash, because Express matches so (contract §1, "Matching").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

_UNRESERVED = re.compile(r"%(2[dDeE]|3[0-9]|4[1-9a-fA-F]|5[0-9aA]|5[fF]|6[1-9a-fA-F]|7[0-9aA]|7[eE])")
_HOSTILE = re.compile(
    r"//|#|\\|%(?![0-9a-fA-F]{2})|%2[fF]|%5[cC]|%00|[\x00-\x20\x7f-\uffff]|(?:^|/)\.{1,2}(?:/|$)"
)


class BadPath(ValueError):
    """A path that no honest client sends and that servers read differently."""


class Match(NamedTuple, Generic[T]):
    """What a path led to: the row's value and the path's parameters."""

    value: T
    params: Mapping[str, str]


@lru_cache(8192)
def normalise_path(path: str) -> str:
    """Return `path` with unreserved characters decoded (RFC 3986 §6.2.2.2) and no trailing slash.

    Raises BadPath for empty segments, dot segments, encoded slashes, backslashes, control characters and bad
    percent-encoding: proxies and servers disagree about them, so they are refused instead of guessed at.
    """
    if "%" in path:
        path = _UNRESERVED.sub(lambda found: chr(int(found[1], 16)), path)
    if not path.startswith("/") or _HOSTILE.search(path):
        raise BadPath("the path is malformed")
    return path.rstrip("/") or "/"


class _Node(Generic[T]):
    __slots__ = ("literal", "parameter", "rows", "tail")

    def __init__(self) -> None:
        self.literal: dict[str, _Node[T]] = {}
        self.parameter: _Node[T] | None = None
        self.tail: dict[str, tuple[T, tuple[str, ...]]] | None = None
        self.rows: dict[str, tuple[T, tuple[str, ...]]] = {}


class RouteTable(Generic[T]):
    """Immutable after construction. Rows are (methods separated by commas or "*", pattern, value)."""

    def __init__(self, rows: Iterable[tuple[str, str, T]]) -> None:
        self._root: _Node[T] = _Node()
        for methods, pattern, value in rows:
            self._add(methods, pattern, value)

    def match(self, method: str, path: str) -> Match[T] | None:
        """Find the row for a normalised path; HEAD finds GET's row. None where there is none."""
        if method == "HEAD":
            method = "GET"
        return self._find(self._root, path.split("/")[1:], 0, method, ())

    def methods(self, path: str) -> set[str]:
        """The methods that the table knows for this path (for Allow and OPTIONS)."""
        found = {m for m in ("GET", "POST", "PUT", "PATCH", "DELETE") if self.match(m, path)}
        return found | {"HEAD"} if "GET" in found else found

    def _add(self, methods: str, pattern: str, value: T) -> None:
        node, names = self._root, []
        for segment in pattern.split("/")[1:]:
            if segment.endswith("*}"):
                names.append(segment[1:-2])
                node.tail = node.tail if node.tail is not None else {}
                rows = node.tail
                break
            if segment.startswith("{"):
                names.append(segment[1:-1])
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.literal.setdefault(segment.lower(), _Node())
        else:
            rows = node.rows
        for method in methods.split(","):
            if method in rows:
                raise ValueError(f"route {method} {pattern} is there twice")
            rows[method] = (value, tuple(names))

    def _find(
        self, node: _Node[T], segments: list[str], at: int, method: str, values: tuple[str, ...]
    ) -> Match[T] | None:
        if at == len(segments):
            return _row(node.rows, method, values)
        segment = segments[at]
        found = None
        child = node.literal.get(segment.lower())
        if child is not None:
            found = self._find(child, segments, at + 1, method, values)
        if found is None and node.parameter is not None and segment:
            found = self._find(node.parameter, segments, at + 1, method, (*values, segment))
        if found is None and node.tail is not None:
            found = _row(node.tail, method, (*values, "/".join(segments[at:])))
        return found


def _row(rows: dict[str, tuple[T, tuple[str, ...]]], method: str, values: tuple[str, ...]) -> Match[T] | None:
    row = rows.get(method) or rows.get("*")
    return Match(row[0], dict(zip(row[1], values, strict=True))) if row else None
