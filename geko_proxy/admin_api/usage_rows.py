"""Rows of usage reports: sums with the names of whom and what they are for, as JSON and as CSV."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from msgspec import UNSET, UnsetType

from geko_proxy.admin_api.csv_replies import Number
from geko_proxy.client_api.shapes import Shape
from geko_proxy.client_api.validation import invalid
from geko_proxy.metering.money import decimal
from geko_proxy.metering.usage_days import Dimension, Question, Row, Sums

if TYPE_CHECKING:
    from geko_proxy.services import Services

MAX_ROWS: Final = 10_000  # of one JSON; as CSV any number
PEOPLE: Final = "select user_id, email, name from users where tenant_id = $1 and user_id = any ($2)"
KEYS: Final = "select key_id, name from api_keys where tenant_id = $1 and key_id = any ($2)"
NAMES: Final[Mapping[Dimension, tuple[str, ...]]] = {
    Dimension.WORKSPACE: ("workspaceId", "workspace"),
    Dimension.MEMBER: ("userId", "email", "name"),
    Dimension.MODEL: ("endpoint", "model"),
    Dimension.DAY: ("day",),
    Dimension.KEY: ("keyId", "key"),
    Dimension.KIND: ("kind",),
}


class SumsShape(Shape, frozen=True):
    """What was used, in tokens by class. tokens: input + output + reasoning; cachedTokens: those of the input that came
    from a cache; estimatedTokens: those that a tokenizer counted, and their share of all; cost: a decimal."""

    turns: int
    calls: int
    tokens: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    estimated_tokens: int
    estimated_share: float
    cost: str


MEASURES: Final = tuple(SumsShape.__struct_encode_fields__)


class UsageRowShape(SumsShape, frozen=True):
    """One row: the fields of what `by` names, and its sums. Null: a person or key that is deleted, or no key."""

    workspace_id: UUID | UnsetType = UNSET
    workspace: str | UnsetType | None = UNSET
    user_id: UUID | UnsetType = UNSET
    email: str | UnsetType | None = UNSET
    name: str | UnsetType | None = UNSET
    endpoint: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    day: date | UnsetType = UNSET
    key_id: UUID | UnsetType | None = UNSET
    key: str | UnsetType | None = UNSET
    kind: str | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class Labels:
    """Names of people, keys and workspaces."""

    people: Mapping[UUID, tuple[str, str]]
    keys: Mapping[UUID, str]
    workspaces: Mapping[UUID, str]

    def of(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """A row's group with names."""
        found: dict[str, Any] = {}
        for column, value in group.items():
            if column == "user_id":
                email, name = self.people.get(value, (None, None))
                found |= {"userId": value, "email": email, "name": name}
            elif column == "key_id":
                found |= {"keyId": value, "key": self.keys.get(value)}
            elif column == "workspace_id":
                found |= {"workspaceId": value, "workspace": self.workspaces.get(value)}
            else:
                found[column] = value
        return found


def sums_shape(sums: Sums) -> dict[str, Any]:
    """The JSON of sums."""
    share = sums.estimated_tokens / sums.tokens if sums.tokens else 0.0
    return {
        "turns": sums.turns,
        "calls": sums.calls,
        "tokens": sums.tokens,
        "inputTokens": sums.input_tokens,
        "outputTokens": sums.output_tokens,
        "cachedTokens": sums.cached_tokens,
        "reasoningTokens": sums.reasoning_tokens,
        "estimatedTokens": sums.estimated_tokens,
        "estimatedShare": round(share, 4),
        "cost": decimal(sums.cost),
    }


async def labelled(
    services: Services, tenant_id: UUID, rows: Sequence[Row], workspaces: Mapping[UUID, str]
) -> list[dict[str, Any]]:
    """Rows as JSON, with names."""
    people = {row.group["user_id"] for row in rows if "user_id" in row.group}
    keys = {row.group["key_id"] for row in rows if row.group.get("key_id") is not None}
    found_people: dict[UUID, tuple[str, str]] = {}
    found_keys: dict[UUID, str] = {}
    if people or keys:
        async with services.database.tenant(tenant_id) as scope:
            for person in await scope.fetch(PEOPLE, list(people)):
                found_people[person["user_id"]] = (person["email"], person["name"])
            for key in await scope.fetch(KEYS, list(keys)):
                found_keys[key["key_id"]] = key["name"]
    labels = Labels(found_people, found_keys, workspaces)
    return [{**labels.of(row.group), **sums_shape(row.sums)} for row in rows]


async def json_rows(
    services: Services, question: Question, by: Sequence[Dimension], workspaces: Mapping[UUID, str]
) -> list[dict[str, Any]]:
    """All rows: by days in their order, else those with the most tokens first. Raises Refused 400 for too many."""
    rows: list[Row] = []
    async for page in services.usage.days.pages(question, by):
        rows += page
        if len(rows) > MAX_ROWS:
            raise invalid({"by": f"More than {MAX_ROWS} rows. Ask for fewer days or groups, or for CSV."})
    if Dimension.DAY not in by:
        rows.sort(key=lambda row: -row.sums.tokens)
    return await labelled(services, question.tenant_id, rows, workspaces)


def csv_header(by: Sequence[Dimension]) -> list[str]:
    """The names of the columns, as in JSON."""
    return [name for each in by for name in NAMES[each]] + [*MEASURES, "currency"]


async def csv_pages(
    services: Services, question: Question, by: Sequence[Dimension], workspaces: Mapping[UUID, str]
) -> AsyncIterator[Iterable[Sequence[Any]]]:
    """The lines, page after page, in the order of the groups."""
    names, currency = csv_header(by)[:-1], services.settings.metering.currency
    async for page in services.usage.days.pages(question, by):
        rows = await labelled(services, question.tenant_id, page, workspaces)
        yield [[*(as_cell(name, row[name]) for name in names), currency] for row in rows]


def as_cell(name: str, value: Any) -> Any:
    """A value of a row for CSV: a cost is a number of our own, not text."""
    return Number(value) if name == "cost" else value
