"""GET /v1/workspaces/{workspaceId}/usage/reconcile: each message by its stream and by its model calls, side by side."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

from aiohttp import web

from geko_proxy.admin_api.access import Access, entered
from geko_proxy.admin_api.csv_replies import Number, csv_reply, wants_csv
from geko_proxy.admin_api.usage import JSON_HEADERS, WindowShape, window_shape
from geko_proxy.admin_api.usage_events import DEFAULT_PAGE, SIZE
from geko_proxy.admin_api.usage_query import Span, query_of, span_of
from geko_proxy.client_api.shapes import Shape
from geko_proxy.client_api.validation import invalid
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.metering.reconcile import MAX_PAGE, Calls, Period, Place, Totals, by_kind

if TYPE_CHECKING:
    from asyncpg import Record

    from geko_proxy.services import Services

THRESHOLD: Final = re.compile(r"\d{1,12}", re.ASCII)
SORTS: Final = ("time", "difference")
CSV_HEADER: Final = (
    "turnId",
    "conversationId",
    "startedAt",
    "userId",
    "email",
    "endpoint",
    "model",
    "outcome",
    "streamTokens",
    "streamEstimated",
    "calls",
    "callTokens",
    "callEstimatedTokens",
    "callsByKind",
    "billed",
    "difference",
    "billedFrom",
)


class CallsShape(Shape, frozen=True):
    """Model calls and their tokens; estimatedTokens: of these, those that no provider reported."""

    number: int
    tokens: int
    estimated_tokens: int


class TurnCallsShape(CallsShape, frozen=True):
    """A message's calls."""

    by_kind: dict[str, CallsShape]


class StreamShape(Shape, frozen=True):
    """What the answer's stream told of; null while it runs."""

    tokens: int | None
    estimated: bool | None


class TurnShape(Shape, frozen=True):
    """A message. email, name: null for somebody who has left; outcome: null while it runs. difference: the calls that
    make the answer less its stream, null where one of them is missing or runs."""

    turn_id: UUID
    conversation_id: str | None
    started_at: datetime
    user_id: UUID
    email: str | None
    name: str | None
    endpoint: str
    model: str
    outcome: str | None
    stream: StreamShape
    calls: TurnCallsShape
    billed: int
    difference: int | None
    billed_from: Literal["calls", "stream"]


class HiddenShape(CallsShape, frozen=True):
    """Calls that make no answer, by kind: of messages, and of none that is known."""

    with_message: dict[str, CallsShape]
    without_message: dict[str, CallsShape]


class ComparedShape(Shape, frozen=True):
    """Messages with both sides. differencePercent: of the streams, null without any. overThreshold: how many
    differ by more."""

    turns: int
    stream: int
    calls: int
    difference: int
    difference_percent: float | None
    threshold: int
    over_threshold: int


class TotalsShape(Shape, frozen=True):
    """Tokens of the whole period; billed = byStream + byCalls + hidden.tokens."""

    turns: int
    turns_by_calls: int
    billed: int
    by_stream: int
    by_calls: int
    hidden: HiddenShape
    compared: ComparedShape


class BesideShape(Shape, frozen=True):
    """An endpoint some or all of whose answers are made by calls that do not pass through GEKO. tokens: of
    these answers; lastAt: when the last of them began."""

    endpoint: str
    turns_by_stream: int
    turns_by_calls: int
    tokens: int
    last_at: datetime


class ReconcileReply(Shape, frozen=True):
    """A page of messages. totals, endpointsBesideGateway: of the whole period, on the first page only."""

    workspace_id: UUID
    window: WindowShape
    totals: TotalsShape | None
    endpoints_beside_gateway: list[BesideShape] | None
    turns: list[TurnShape]
    next_cursor: str | None


class UsageReconcile:
    """The endpoint."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def report(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with the messages of `?month=` or `?from=&to=` (this month without either), newest first.

        `?sort=difference` puts those first whose two sides differ by more than `?threshold=` tokens (0). `?limit=`
        messages (100; up to 1000) after `?cursor=`. As CSV (`?format=csv`) all of them. For owners and admins.
        """
        services, access = self._services, entered(exchange)
        tenant = exchange.tenant or await services.tenants.get(access.tenant_id)
        if tenant is None:
            raise Refused(404, "workspace_not_found", "There is no such workspace.")
        asked = query_of(exchange.request.query)
        span = span_of(asked, tenant.time_zone, datetime.now(UTC))
        period, size = read_period(asked, access, span)
        if wants_csv(exchange, asked):
            return csv_reply(f"reconcile-{span.name}", CSV_HEADER, self._lines(period))
        reconciling = services.usage.reconciling
        totals = await reconciling.totals(period) if period.after is None else None
        rows, after = await reconciling.page(period, size)
        value = {
            "workspaceId": access.workspace_id,
            "window": window_shape(span, tenant.time_zone),
            "totals": totals_shape(totals, period.threshold) if totals is not None else None,
            "endpointsBesideGateway": beside_shapes(totals) if totals is not None else None,
            "turns": [turn_shape(row) for row in rows],
            "nextCursor": after.text if after is not None else None,
        }
        return Reply.of_json(200, value, JSON_HEADERS)

    async def _lines(self, period: Period) -> AsyncIterator[Iterable[Sequence[Any]]]:
        async for rows in self._services.usage.reconciling.pages(period):
            yield [as_cells(row) for row in rows]


def read_period(asked: Mapping[str, str], access: Access, span: Span) -> tuple[Period, int]:
    """What the parameters select, and how much of it at once. Raises Refused 400 naming each that is wrong."""
    problems: dict[str, str] = {}
    size, threshold, sort = (
        asked.get("limit", str(DEFAULT_PAGE)),
        asked.get("threshold", "0"),
        asked.get("sort"),
    )
    if not SIZE.fullmatch(size) or int(size) > MAX_PAGE:
        problems["limit"] = f"Must be a number from 1 to {MAX_PAGE}."
    if not THRESHOLD.fullmatch(threshold):
        problems["threshold"] = "Must be a number of tokens."
    if sort not in (None, *SORTS):
        problems["sort"] = f"Must be one of {', '.join(SORTS)}."
    after = None
    try:
        after = Place.parse(asked["cursor"]) if "cursor" in asked else None
    except ValueError:
        problems["cursor"] = "Must be the nextCursor of an earlier page."
    if problems:
        raise invalid(problems)
    period = Period(
        access.tenant_id, access.workspace_id, span.window, int(threshold), sort == "difference", after
    )
    return period, int(size)


def calls_shape(calls: Calls) -> dict[str, Any]:
    """The JSON of calls."""
    return {"number": calls.number, "tokens": calls.tokens, "estimatedTokens": calls.estimated_tokens}


def kinds_shape(kinds: Mapping[str, Calls]) -> dict[str, Any]:
    """The JSON of calls by kind."""
    return {kind: calls_shape(calls) for kind, calls in sorted(kinds.items())}


def turn_shape(row: Record) -> dict[str, Any]:
    """The JSON of a message."""
    calls = Calls(row["call_number"], row["call_tokens"], row["call_estimated_tokens"])
    return {
        "turnId": row["turn_id"],
        "conversationId": row["conversation_id"],
        "startedAt": row["started_at"],
        "userId": row["user_id"],
        "email": row["email"],
        "name": row["name"],
        "endpoint": row["endpoint"],
        "model": row["model"],
        "outcome": row["outcome"],
        "stream": {"tokens": row["stream_tokens"], "estimated": row["stream_estimated"]},
        "calls": {**calls_shape(calls), "byKind": kinds_shape(by_kind(row))},
        "billed": row["billed"],
        "difference": row["difference"],
        "billedFrom": billed_from(row),
    }


def billed_from(row: Record) -> str:
    """Which side of a message was billed."""
    return "calls" if row["metered_by_calls"] else "stream"


def totals_shape(totals: Totals, threshold: int) -> dict[str, Any]:
    """The JSON of the totals."""
    of_messages, of_none = totals.hidden(of_message=True), totals.hidden(of_message=False)
    hidden = sum([*of_messages.values(), *of_none.values()], start=Calls())
    return {
        "turns": totals.turns,
        "turnsByCalls": totals.turns_by_calls,
        "billed": totals.billed,
        "byStream": totals.by_stream,
        "byCalls": totals.by_calls,
        "hidden": {
            **calls_shape(hidden),
            "withMessage": kinds_shape(of_messages),
            "withoutMessage": kinds_shape(of_none),
        },
        "compared": {
            "turns": totals.compared,
            "stream": totals.stream_tokens,
            "calls": totals.answer_tokens,
            "difference": totals.difference,
            "differencePercent": totals.difference_percent,
            "threshold": threshold,
            "overThreshold": totals.over_threshold,
        },
    }


def beside_shapes(totals: Totals) -> list[dict[str, Any]]:
    """The JSON of the endpoints whose calls do not pass through GEKO."""
    return [
        {
            "endpoint": each.endpoint,
            "turnsByStream": each.turns_by_stream,
            "turnsByCalls": each.turns_by_calls,
            "tokens": each.tokens,
            "lastAt": each.last_at,
        }
        for each in totals.endpoints
    ]


def as_cells(row: Record) -> list[Any]:
    """The cells of a message, in the order of CSV_HEADER."""
    difference = row["difference"]
    return [
        row["turn_id"],
        row["conversation_id"],
        row["started_at"].astimezone(UTC).isoformat().replace("+00:00", "Z"),
        row["user_id"],
        row["email"],
        row["endpoint"],
        row["model"],
        row["outcome"],
        row["stream_tokens"],
        row["stream_estimated"],
        row["call_number"],
        row["call_tokens"],
        row["call_estimated_tokens"],
        " ".join(f"{kind}={calls.tokens}" for kind, calls in sorted(by_kind(row).items())),
        row["billed"],
        None if difference is None else Number(difference),
        billed_from(row),
    ]
