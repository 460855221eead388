"""GET /v1/workspaces/{workspaceId}/usage/events: the ledger itself, entry by entry."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from aiohttp import web

from geko_proxy.admin_api.access import Access, entered
from geko_proxy.admin_api.csv_replies import Number, csv_reply, wants_csv
from geko_proxy.admin_api.usage_query import Span, query_of, span_of
from geko_proxy.client_api.shapes import Shape
from geko_proxy.client_api.validation import invalid, read_uuid
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.metering.money import decimal
from geko_proxy.metering.usage_listing import MAX_PAGE, Cursor, Selection
from geko_proxy.workspaces.roles import Permission

if TYPE_CHECKING:
    from asyncpg import Record

    from geko_proxy.services import Services

DEFAULT_PAGE: Final = 100
MAX_TEXT: Final = 300
SIZE: Final = re.compile(r"[1-9]\d{0,3}", re.ASCII)


class UsageEventShape(Shape, frozen=True):
    """One entry. occurredAt: when its turn began; seq: negative for GEKO's own entries; source: who says so."""

    occurred_at: datetime
    recorded_at: datetime
    turn_id: UUID
    run_id: str
    seq: int
    conversation_id: str | None
    user_id: UUID
    key_id: UUID | None
    kind: str
    endpoint: str
    model: str
    provider: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    tokens: int
    cost: str
    estimated: bool
    source: str


FIELDS: Final = tuple(
    zip(UsageEventShape.__struct_fields__, UsageEventShape.__struct_encode_fields__, strict=True)
)


class UsageEventsReply(Shape, frozen=True):
    """A page of the ledger, newest first. nextCursor: null on the last one."""

    workspace_id: UUID
    currency: str
    events: list[UsageEventShape]
    next_cursor: str | None


class UsageEvents:
    """The endpoint."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def list_page(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with a page of the ledger, newest first, of `?month=` or `?from=&to=`; of this month without either.

        `?limit=` entries (100; up to 1000) after `?cursor=`. `?userId=`, `?keyId=`, `?model=` (endpoint/model) and
        `?conversationId=` narrow it down. As CSV (`?format=csv`) it is all of it. Owners and admins see everybody's
        entries, others their own.
        """
        services, access = self._services, entered(exchange)
        tenant = exchange.tenant or await services.tenants.get(access.tenant_id)
        if tenant is None:
            raise Refused(404, "workspace_not_found", "There is no such workspace.")
        asked = query_of(exchange.request.query)
        span = span_of(asked, tenant.time_zone, datetime.now(UTC))
        selection, size = read_selection(asked, access, span)
        currency = services.settings.metering.currency
        if wants_csv(exchange, asked):
            header = [*(name for _, name in FIELDS), "currency"]
            return csv_reply(f"usage-events-{span.name}", header, self._lines(selection, currency))
        rows, after = await services.usage.listing.page(selection, size)
        value = {
            "workspaceId": access.workspace_id,
            "currency": currency,
            "events": [event_shape(row) for row in rows],
            "nextCursor": after.text if after is not None else None,
        }
        return Reply.of_json(200, value, {"Cache-Control": "no-store", "Vary": "Accept"})

    async def _lines(self, selection: Selection, currency: str) -> AsyncIterator[Iterable[Sequence[Any]]]:
        async for rows in self._services.usage.listing.pages(selection):
            yield [[*as_cells(row), currency] for row in rows]


def read_selection(asked: Mapping[str, str], access: Access, span: Span) -> tuple[Selection, int]:
    """What the parameters select, and how much of it at once. Raises Refused 400 naming each that is wrong."""
    problems = dict(text_problems(asked))
    ids = {name: read_uuid(asked[name]) for name in ("userId", "keyId") if name in asked}
    problems |= {name: "Must be an id." for name, found in ids.items() if found is None}
    size = asked.get("limit", str(DEFAULT_PAGE))
    if not SIZE.fullmatch(size) or int(size) > MAX_PAGE:
        problems["limit"] = f"Must be a number from 1 to {MAX_PAGE}."
    after = None
    try:
        after = Cursor.parse(asked["cursor"]) if "cursor" in asked else None
    except ValueError:
        problems["cursor"] = "Must be the nextCursor of an earlier page."
    if problems:
        raise invalid(problems)
    selection = Selection(
        access.tenant_id,
        access.workspace_id,
        span.window,
        whose(ids.get("userId"), access),
        ids.get("keyId"),
        asked.get("model"),
        asked.get("conversationId"),
        after,
    )
    return selection, int(size)


def text_problems(asked: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Texts that nothing can have."""
    for name in ("model", "conversationId"):
        if len(asked.get(name, "")) > MAX_TEXT or "\x00" in asked.get(name, ""):
            yield name, f"At most {MAX_TEXT} characters."


def whose(user_id: UUID | None, access: Access) -> UUID | None:
    """Whose entries the caller gets; None: everybody's. Raises Refused 403 for those of others."""
    if access.allows(Permission.READ_ALL_USAGE):
        return user_id
    if user_id not in (None, access.user_id):
        raise Refused(403, "forbidden", f"Your role in this workspace ({access.role}) does not allow this.")
    return access.user_id


def event_shape(row: Record) -> dict[str, Any]:
    """The JSON of an entry."""
    return {name: decimal(row[column]) if column == "cost" else row[column] for column, name in FIELDS}


def as_cells(row: Record) -> list[Any]:
    """The cells of an entry."""
    cells: list[Any] = []
    for column, _ in FIELDS:
        value = row[column]
        if column == "cost":
            value = Number(decimal(value))
        elif isinstance(value, datetime):
            value = value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        cells.append(value)
    return cells
