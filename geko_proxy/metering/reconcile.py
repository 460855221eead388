"""Both sides of each message: what its stream told of, what its model calls were charged, and which of them was billed.

The stream is metered in front of LibreChat, the calls behind it (sql/0020). Answers are compared by the calls that make
them; titles and the like are calls that no stream tells of.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

import msgspec

from geko_proxy.metering.ledger import ANSWER_KINDS
from geko_proxy.metering.reconcile_statements import BY_DIFFERENCE, BY_TIME, TOTALS
from geko_proxy.metering.windows import Window
from geko_proxy.storage.database import Database

if TYPE_CHECKING:
    from asyncpg import Record

MAX_PAGE: Final = 1000
MAX_CURSOR: Final = 200
MAX_WEIGHT: Final = 2**63 - 1
LAST: Final = UUID(int=2**128 - 1)


class Place(NamedTuple):
    """The row after which a page begins. weight: how far its sides differ where that is what rows go by, else 0."""

    weight: int
    started_at: datetime
    turn_id: UUID

    @property
    def text(self) -> str:
        """As it stands in an address."""
        return base64.urlsafe_b64encode(msgspec.json.encode(tuple(self))).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Place:
        """The place in an address. Raises ValueError."""
        if len(text) > MAX_CURSOR:
            raise ValueError("too long")
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            found = cls(*msgspec.json.decode(raw, type=tuple[int, datetime, UUID]))
        except (ValueError, msgspec.MsgspecError) as error:
            raise ValueError("not a place") from error
        if found.started_at.tzinfo is None or not 0 <= found.weight <= MAX_WEIGHT:
            raise ValueError("not a place")
        return found


@dataclass(frozen=True, slots=True)
class Period:
    """Messages of a workspace that began in a window. threshold: tokens by which two sides may differ.

    by_difference: those over the threshold come first, by how much; else, and after them, the newest come first.
    """

    tenant_id: UUID
    workspace_id: UUID
    window: Window
    threshold: int = 0
    by_difference: bool = False
    after: Place | None = None

    @property
    def _base(self) -> tuple[object, ...]:
        return self.workspace_id, self.window.start, self.window.end

    def page(self, size: int) -> tuple[str, tuple[object, ...]]:
        """The statement for a page, and its arguments."""
        weight, started_at, turn_id = self.after or Place(MAX_WEIGHT, self.window.end, LAST)
        arguments = (*self._base, started_at, turn_id, size)
        if self.by_difference:
            return BY_DIFFERENCE, (*arguments, weight, self.threshold)
        return BY_TIME, arguments

    @property
    def totals(self) -> tuple[object, ...]:
        """The arguments of TOTALS."""
        return *self._base, self.threshold


class Calls(msgspec.Struct, frozen=True):
    """Model calls, and what they were charged in tokens; estimated_tokens: of these, those no provider reported."""

    number: int = 0
    tokens: int = 0
    estimated_tokens: int = 0

    def __add__(self, other: Calls) -> Calls:
        return Calls(
            self.number + other.number,
            self.tokens + other.tokens,
            self.estimated_tokens + other.estimated_tokens,
        )


class Booked(Calls, frozen=True, kw_only=True):
    """What the ledger holds of one kind of calls, of messages or of none. kind None: messages' own entries."""

    kind: str | None
    of_message: bool

    @property
    def makes_answer(self) -> bool:
        """Whether these calls make the answers of messages."""
        return self.kind in ANSWER_KINDS and self.of_message


class BesideGateway(msgspec.Struct, frozen=True):
    """An endpoint with answers that were charged by their stream: their calls did not come through the LLM side.

    tokens: charged so. last_at: when the last of them began.
    """

    endpoint: str
    turns_by_stream: int
    turns_by_calls: int
    tokens: int
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Totals:
    """All of a period. compared: messages with both sides; stream_tokens, answer_tokens: of these; over_threshold:
    those whose sides differ by more. booked: the whole ledger of the period."""

    turns: int
    turns_by_calls: int
    compared: int
    stream_tokens: int
    answer_tokens: int
    over_threshold: int
    endpoints: Sequence[BesideGateway]
    booked: Sequence[Booked]

    @classmethod
    def from_row(cls, row: Record) -> Totals:
        """The totals in the row of TOTALS."""
        booked = msgspec.json.decode(row["booked"], type=list[Booked])
        endpoints = msgspec.json.decode(row["endpoints"], type=list[BesideGateway])
        numbers = {
            name: row[name] for name in cls.__dataclass_fields__ if name not in ("endpoints", "booked")
        }
        uses_calls = any(entry.kind is not None for entry in booked)
        return cls(**numbers, endpoints=endpoints if uses_calls else (), booked=booked)

    @property
    def difference(self) -> int:
        """By how much the calls come to more than the streams."""
        return self.answer_tokens - self.stream_tokens

    @property
    def difference_percent(self) -> float | None:
        """The difference in percent of what the streams told of; None: nothing to compare."""
        return round(100 * self.difference / self.stream_tokens, 2) if self.stream_tokens else None

    @property
    def billed(self) -> int:
        """Everything, as in the usage report of the same days."""
        return sum(entry.tokens for entry in self.booked)

    @property
    def by_stream(self) -> int:
        """Charged to messages themselves."""
        return sum(entry.tokens for entry in self.booked if entry.kind is None)

    @property
    def by_calls(self) -> int:
        """Charged to the calls that make answers."""
        return sum(entry.tokens for entry in self.booked if entry.makes_answer)

    def hidden(self, *, of_message: bool) -> Mapping[str, Calls]:
        """All other calls by kind: of messages (title, memory, …), or of none that is known."""
        return {
            entry.kind: entry
            for entry in self.booked
            if entry.kind is not None and not entry.makes_answer and entry.of_message is of_message
        }


class Reconciling:
    """Reads turns and usage_events. Methods raise StoreError when the database is gone."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def totals(self, period: Period) -> Totals:
        """Everything together."""
        async with self._db.tenant(period.tenant_id) as scope:
            row = await scope.fetch_row(TOTALS, *period.totals)
        assert row is not None  # a sum has one row
        return Totals.from_row(row)

    async def page(self, period: Period, size: int) -> tuple[list[Record], Place | None]:
        """Up to `size` messages, and where the next page begins; None: there is none."""
        statement, arguments = period.page(size + 1)
        async with self._db.tenant(period.tenant_id) as scope:
            rows = await scope.fetch(statement, *arguments)
        if len(rows) <= size:
            return rows, None
        last = rows[size - 1]
        return rows[:size], Place(last["weight"], last["started_at"], last["turn_id"])

    async def pages(self, period: Period) -> AsyncIterator[list[Record]]:
        """All messages, page after page: each a short transaction of its own."""
        while True:
            rows, after = await self.page(period, MAX_PAGE)
            if rows:
                yield rows
            if after is None:
                return
            period = replace(period, after=after)


def by_kind(row: Record) -> Mapping[str, Calls]:
    """A message's calls."""
    return msgspec.json.decode(row["by_kind"], type=dict[str, Calls])
