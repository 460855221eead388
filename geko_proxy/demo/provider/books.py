"""What the provider served and would bill: one entry a call, sums by model, by user and by both."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

KEPT: Final = 100_000  # calls in the list; the sums hold all
KEPT_BODIES: Final = 2_000


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call. cached and written are parts of prompt, reasoning of completion; hidden is beside both."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    written: int = 0
    reasoning: int = 0
    hidden: int = 0

    @property
    def total(self) -> int:
        """All that is billed."""
        return self.prompt + self.completion + self.hidden


@dataclass(slots=True)
class Entry:
    """One call. `outcome` is running, done, refused, died, error event or left (the caller closed the connection)."""

    number: int
    api: str
    path: str
    headers: dict[str, str]
    model: str = ""
    user: str = ""
    stream: bool = False
    asked_usage: bool = False
    last_user: str = ""
    tools: tuple[str, ...] = ()
    started_at: float = field(default_factory=time.time)
    ended_at: float | None = None
    status: int | None = None
    outcome: str = "running"
    answered: bool = False
    usage_sent: bool = False
    usage: Usage = field(default_factory=Usage)
    body: Any = None
    book: int = 0

    def shown(self) -> dict[str, Any]:
        """As GET /served lists it: without the body."""
        return {
            "number": self.number,
            "api": self.api,
            "path": self.path,
            "headers": self.headers,
            "model": self.model,
            "user": self.user,
            "stream": self.stream,
            "askedUsage": self.asked_usage,
            "lastUser": self.last_user,
            "tools": self.tools,
            "startedAt": self.started_at,
            "endedAt": self.ended_at,
            "status": self.status,
            "outcome": self.outcome,
            "usageSent": self.usage_sent,
            "usage": _tokens(self.usage),
        }


@dataclass(slots=True)
class Sum:
    """What many calls used. refused: calls that ended in an error status, which bills nothing."""

    calls: int = 0
    refused: int = 0
    cut: int = 0
    tokens: dict[str, int] = field(default_factory=lambda: _tokens(Usage()))

    def add(self, entry: Entry) -> None:
        """One more."""
        self.calls += 1
        self.refused += entry.outcome == "refused"
        self.cut += entry.outcome in ("left", "died", "error event")
        for name, value in _tokens(entry.usage).items():
            self.tokens[name] += value

    def shown(self) -> dict[str, Any]:
        """As GET /served shows it."""
        return {"calls": self.calls, "refused": self.refused, "cut": self.cut, **self.tokens}


class Books:
    """All calls. An entry is opened when a call comes in and closed exactly once."""

    def __init__(self) -> None:
        self.running = 0
        self._book = 0
        self._numbers = itertools.count(1)
        self._start()

    def _start(self) -> None:
        self.calls: deque[Entry] = deque(maxlen=KEPT)
        self.total = Sum()
        self._by_model: dict[str, Sum] = {}
        self._by_user: dict[str, Sum] = {}
        self._by_both: dict[tuple[str, str], Sum] = {}
        self._failed: dict[object, int] = {}

    def open(self, api: str, path: str, headers: dict[str, str]) -> Entry:
        """A call has come in."""
        entry = Entry(next(self._numbers), api, path, headers, book=self._book)
        self.calls.append(entry)
        if len(self.calls) > KEPT_BODIES:
            self.calls[-KEPT_BODIES - 1].body = None
        self.running += 1
        return entry

    def close(self, entry: Entry) -> None:
        """The call is over."""
        entry.ended_at = time.time()
        self.running -= 1
        if entry.book != self._book:
            return
        for each in (
            self.total,
            self._by_model.setdefault(entry.model, Sum()),
            self._by_user.setdefault(entry.user, Sum()),
            self._by_both.setdefault((entry.user, entry.model), Sum()),
        ):
            each.add(entry)

    def count_failure(self, key: object, times: int) -> bool:
        """Whether this failure is still due; key: what is asked."""
        self._failed[key] = self._failed.get(key, 0) + 1
        return self._failed[key] <= times

    def forget_failures(self, key: object) -> None:
        """Count from the beginning again."""
        self._failed.pop(key, None)

    def reset(self) -> None:
        """Forget all. Calls that still run are not in the new books."""
        self._book += 1
        self._start()

    def shown(self, *, with_calls: bool) -> dict[str, Any]:
        """The reply to GET /served."""
        by_both: dict[str, dict[str, Any]] = {}
        for (user, model), each in self._by_both.items():
            by_both.setdefault(user, {})[model] = each.shown()
        shown: dict[str, Any] = {
            "running": self.running,
            "total": self.total.shown(),
            "byModel": _all(self._by_model.items()),
            "byUser": _all(self._by_user.items()),
            "byUserAndModel": by_both,
        }
        return shown | ({"calls": [entry.shown() for entry in self.calls]} if with_calls else {})


def _all(sums: Iterable[tuple[str, Sum]]) -> dict[str, Any]:
    return {name: each.shown() for name, each in sums}


def _tokens(usage: Usage) -> dict[str, int]:
    return {
        "promptTokens": usage.prompt,
        "completionTokens": usage.completion,
        "totalTokens": usage.total,
        "cachedTokens": usage.cached,
        "cacheWriteTokens": usage.written,
        "reasoningTokens": usage.reasoning,
        "hiddenTokens": usage.hidden,
    }
