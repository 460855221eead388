"""Sums of usage over days, from usage_days: by workspace, member, model, day, key and kind. Never from the ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from geko_proxy.storage.database import Database

if TYPE_CHECKING:
    from asyncpg import Record

NO_KEY: Final = UUID(int=0)  # in the column key_id: a message without an API key
PAGE_ROWS: Final = 2000
MEASURES: Final = (
    "turns",
    "calls",
    "tokens",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "estimated_tokens",
    "cost",
)


class Dimension(StrEnum):
    """What sums are grouped by."""

    WORKSPACE = "workspace"
    MEMBER = "member"
    MODEL = "model"
    DAY = "day"
    KEY = "key"
    KIND = "kind"


COLUMNS: Final[Mapping[Dimension, tuple[str, ...]]] = {
    Dimension.WORKSPACE: ("workspace_id",),
    Dimension.MEMBER: ("user_id",),
    Dimension.MODEL: ("endpoint", "model"),
    Dimension.DAY: ("day",),
    Dimension.KEY: ("key_id",),
    Dimension.KIND: ("kind",),
}

SUMS: Final = ", ".join(f"coalesce(sum({name}), 0)::bigint as {name}" for name in MEASURES)
WHERE: Final = """
from usage_days
where tenant_id = $1 and workspace_id = any ($2) and day >= $3 and day <= $4 and ($5::uuid is null or user_id = $5)"""
TOTALS: Final = f"select {SUMS} {WHERE}"
HISTORY: Final = f"select day, sum(tokens)::bigint as tokens, sum(cost)::bigint as cost {WHERE} group by day"
WORKSPACES: Final = (
    "select workspace_id, name from workspaces where tenant_id = $1 order by created_at, workspace_id"
)


@dataclass(frozen=True, slots=True)
class Question:
    """Which usage is meant: of these workspaces of a tenant, from one day to another (both in the tenant's calendar,
    both included), of one member or of all."""

    tenant_id: UUID
    workspace_ids: Sequence[UUID]
    first: date
    last: date
    user_id: UUID | None = None

    @property
    def arguments(self) -> tuple[object, ...]:
        """$2 to $5 of the statements here."""
        return list(self.workspace_ids), self.first, self.last, self.user_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What was used. tokens: input + output + reasoning; cached_tokens: those of the input that came from a cache;
    estimated_tokens: of all, those that no provider reported. cost: billionths of the currency."""

    turns: int = 0
    calls: int = 0
    tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated_tokens: int = 0
    cost: int = 0

    @classmethod
    def from_row(cls, row: Record) -> Sums:
        """The sums in a row."""
        return cls(**{name: row[name] for name in MEASURES})


@dataclass(frozen=True, slots=True)
class Row:
    """The sums of one group. group: by column of `COLUMNS`; key_id None: without a key."""

    group: Mapping[str, Any]
    sums: Sums


@dataclass(frozen=True, slots=True)
class DayUse:
    """What was used on one day."""

    day: date
    tokens: int
    cost: int


class UsageDays:
    """Reads usage_days. Every method raises StoreError when the database is gone."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def totals(self, question: Question) -> Sums:
        """Everything together."""
        async with self._db.tenant(question.tenant_id) as scope:
            row = await scope.fetch_row(TOTALS, *question.arguments)
        assert row is not None
        return Sums.from_row(row)

    async def history(self, question: Question) -> list[DayUse]:
        """Each day on which something was used, oldest first."""
        async with self._db.tenant(question.tenant_id) as scope:
            rows = await scope.fetch(f"{HISTORY} order by day", *question.arguments)
        return [DayUse(*row) for row in rows]

    async def pages(
        self, question: Question, by: Sequence[Dimension], size: int = PAGE_ROWS
    ) -> AsyncIterator[list[Row]]:
        """The groups in the order of their columns, page after page: each a short transaction of its own."""
        columns = [column for each in by for column in COLUMNS[each]]
        after: tuple[object, ...] = ()
        while True:
            async with self._db.tenant(question.tenant_id) as scope:
                rows = await scope.fetch(
                    page_sql(columns, size, first=not after), *question.arguments, *after
                )
            if rows:
                yield [row_of(row, columns) for row in rows]
            if len(rows) < size:
                return
            after = tuple(rows[-1][column] for column in columns)

    async def workspaces(self, tenant_id: UUID) -> dict[UUID, str]:
        """The names of a tenant's workspaces, also of archived ones: they have used something too."""
        async with self._db.tenant(tenant_id) as scope:
            rows = await scope.fetch(WORKSPACES)
        return {row["workspace_id"]: row["name"] for row in rows}


def page_sql(columns: Sequence[str], size: int, *, first: bool) -> str:
    """The statement for one page of groups; those after the first take the last group's columns from $6 on."""
    names = ", ".join(columns)
    after = ", ".join(f"${number}" for number in range(6, 6 + len(columns)))
    start = "" if first else f" and ({names}) > ({after})"
    return f"select {names}, {SUMS} {WHERE}{start} group by {names} order by {names} limit {size}"


def row_of(row: Record, columns: Sequence[str]) -> Row:
    """A row of `page_sql`."""
    group = {column: row[column] for column in columns}
    if group.get("key_id") == NO_KEY:
        group["key_id"] = None
    return Row(group, Sums.from_row(row))
