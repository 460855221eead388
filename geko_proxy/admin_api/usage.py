"""GET /v1/workspaces/{workspaceId}/usage and GET /v1/usage: what was used of a quota, and by whom and what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from aiohttp import web
from msgspec import UNSET, UnsetType

from geko_proxy.admin_api.access import Access, entered
from geko_proxy.admin_api.csv_replies import csv_reply, wants_csv
from geko_proxy.admin_api.limit_shapes import LimitStateShape, limit_state_shape
from geko_proxy.admin_api.usage_query import Span, dimensions_of, query_of, span_of
from geko_proxy.admin_api.usage_rows import (
    SumsShape,
    UsageRowShape,
    csv_header,
    csv_pages,
    json_rows,
    sums_shape,
)
from geko_proxy.client_api.shapes import Shape
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.metering.limit_states import Viewer
from geko_proxy.metering.money import decimal
from geko_proxy.metering.projection import HISTORY_DAYS, Method, Projection, project
from geko_proxy.metering.reports import KeyUsage, MemberUsage, UsageReport
from geko_proxy.metering.usage_days import Dimension, Question
from geko_proxy.metering.windows import load_zone
from geko_proxy.workspaces.members import Member
from geko_proxy.workspaces.roles import Permission
from geko_proxy.workspaces.tenants import Tenant

if TYPE_CHECKING:
    from geko_proxy.services import Services

JSON_HEADERS: Final = {"Cache-Control": "no-store", "Vary": "Accept"}


class WindowShape(Shape, frozen=True):
    """Days in the tenant's time zone, both included. month: null for days that are not asked for as a month."""

    month: str | None
    starts_at: datetime
    ends_at: datetime
    time_zone: str
    first_day: date
    last_day: date


class MemberUsageShape(Shape, frozen=True):
    """One member's usage. email, name: null for somebody who has left."""

    user_id: UUID
    email: str | None
    name: str | None
    tokens: int
    turns: int


class ModelUsageShape(Shape, frozen=True):
    """One model's usage. estimatedTokens: those that a tokenizer counted, not the provider."""

    model: str
    tokens: int
    turns: int
    estimated_tokens: int


class KeyUsageShape(Shape, frozen=True):
    """One API key's usage; limit: its monthly budget. name: null for one that is deleted."""

    key_id: UUID
    name: str | None
    user_id: UUID
    limit: int | None
    tokens: int
    turns: int


class ProjectionShape(Shape, frozen=True):
    """What the month comes to if it goes on as before. method: "weekday" (means of each weekday, from 14 days of
    historyDays on) or "linear" (the mean of all of them)."""

    method: Method
    history_days: int
    tokens: int
    cost: str


class UsageReply(Shape, frozen=True):
    """The usage of a workspace, in tokens. leased: held by answers that run now. limit, remaining: of the month. rows:
    with `by`. projection: of this month, null when it is too young to say."""

    workspace_id: UUID
    window: WindowShape
    used: int
    leased: int
    limit: int | None
    remaining: int | None
    by_member: list[MemberUsageShape]
    by_model: list[ModelUsageShape]
    by_key: list[KeyUsageShape]
    currency: str
    totals: SumsShape
    projection: ProjectionShape | None
    limits: list[LimitStateShape]
    rows: list[UsageRowShape] | UnsetType = UNSET


class WorkspaceLimitShape(LimitStateShape, frozen=True):
    """A limit of one of the workspaces."""

    workspace_id: UUID
    workspace: str


class TenantUsageReply(Shape, frozen=True):
    """The usage of all workspaces of a tenant. rows: by workspace, or as `by` says."""

    tenant_id: UUID
    window: WindowShape
    currency: str
    totals: SumsShape
    projection: ProjectionShape | None
    limits: list[WorkspaceLimitShape]
    rows: list[UsageRowShape]


class Usage:
    """The endpoints."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def get(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with the report of `?month=YYYY-MM`, or of the days `?from=&to=`; of this month without either.

        `?by=` groups it by some of member, model, day, key, kind, separated by commas. As CSV with `?format=csv` or
        `Accept: text/csv`. Owners and admins see each member and each API key; others themselves, their own keys, and
        the workspace's totals.
        """
        services, access = self._services, entered(exchange)
        asked, by, tenant, span = await self._read(exchange, access.tenant_id)
        everything = access.allows(Permission.READ_ALL_USAGE)
        personal = not {Dimension.MEMBER, Dimension.KEY}.isdisjoint(by)
        only = None if everything or not personal else access.user_id
        places = [access.workspace_id]
        question = Question(access.tenant_id, places, span.first, span.last, only)
        names = await services.usage.days.workspaces(access.tenant_id) if Dimension.WORKSPACE in by else {}
        if wants_csv(exchange, asked):
            return usage_csv(services, question, by or (Dimension.DAY,), names, span)
        viewer = await services.usage.limit_states.viewer(
            access.tenant_id, access.workspace_id, access.user_id, everything=everything
        )
        states = await services.usage.limit_states.states(
            access.tenant_id, access.workspace_id, tenant.time_zone, viewer
        )
        value = {
            "workspaceId": access.workspace_id,
            **await self._report(access, span, tenant.time_zone),
            **await whole(services, Question(access.tenant_id, places, span.first, span.last), span, tenant),
            "limits": [limit_state_shape(state) for state in states],
        }
        if by:
            value["rows"] = await json_rows(services, question, by, names)
        return Reply.of_json(200, value, JSON_HEADERS)

    async def get_tenant(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with the usage of all workspaces of the organisation, those included in which the caller is not.

        `month`, `from`, `to`, `by` (workspace without it) and CSV as for one workspace.
        """
        services, identity = self._services, exchange.signed_in()
        asked, by, tenant, span = await self._read(exchange, identity.tenant_id)
        names = await services.usage.days.workspaces(identity.tenant_id)
        question = Question(identity.tenant_id, list(names), span.first, span.last)
        by = by or (Dimension.WORKSPACE,)
        if wants_csv(exchange, asked):
            return usage_csv(services, question, by, names, span)
        limits: list[dict[str, Any]] = []
        for workspace_id, name in names.items():
            states = await services.usage.limit_states.states(
                identity.tenant_id, workspace_id, tenant.time_zone, Viewer(identity.user_id, everything=True)
            )
            place = {"workspaceId": workspace_id, "workspace": name}
            limits += [{**limit_state_shape(state), **place} for state in states]
        value = {
            "tenantId": identity.tenant_id,
            "window": window_shape(span, tenant.time_zone),
            **await whole(services, question, span, tenant),
            "limits": limits,
            "rows": await json_rows(services, question, by, names),
        }
        return Reply.of_json(200, value, JSON_HEADERS)

    async def _read(
        self, exchange: Exchange, tenant_id: UUID
    ) -> tuple[Mapping[str, str], tuple[Dimension, ...], Tenant, Span]:
        tenant = exchange.tenant or await self._services.tenants.get(tenant_id)
        if tenant is None:
            raise Refused(404, "workspace_not_found", "There is no such workspace.")
        asked = query_of(exchange.request.query)
        return asked, dimensions_of(asked), tenant, span_of(asked, tenant.time_zone, datetime.now(UTC))

    async def _report(self, access: Access, span: Span, time_zone: str) -> dict[str, Any]:
        """What the report has always told; the numbers of a month's window only make sense for a month."""
        services = self._services
        report = await services.usage.reports.usage(
            access.tenant_id, access.workspace_id, span.window, span.first, span.last
        )
        members = await services.members.list(access.tenant_id, access.workspace_id)
        shape = report_shape(report, visible_members(report, access), members)
        if not span.is_month:
            used = sum(row.tokens for row in report.by_member)
            shape |= {"used": used, "leased": 0, "limit": None, "remaining": None}
        keys = [key_usage_shape(row) for row in visible_keys(report, access)]
        return {"window": window_shape(span, time_zone), **shape, "byKey": keys}


async def whole(services: Services, question: Question, span: Span, tenant: Tenant) -> dict[str, Any]:
    """Totals, and what this month will come to."""
    totals = await services.usage.days.totals(question)
    today = datetime.now(UTC).astimezone(load_zone(tenant.time_zone)).date()
    projection = None
    if span.is_month and span.first <= today <= span.last:
        start = min(span.first, today - timedelta(days=HISTORY_DAYS))
        history = await services.usage.days.history(replace(question, first=start, last=today))
        projection = project(history, today, span.last)
    return {
        "currency": services.settings.metering.currency,
        "totals": sums_shape(totals),
        "projection": projection_shape(projection),
    }


def projection_shape(projection: Projection | None) -> dict[str, Any] | None:
    """The JSON of a projection."""
    if projection is None:
        return None
    return {
        "method": projection.method,
        "historyDays": projection.history_days,
        "tokens": projection.tokens,
        "cost": decimal(projection.cost),
    }


def usage_csv(
    services: Services,
    question: Question,
    by: tuple[Dimension, ...],
    names: Mapping[UUID, str],
    span: Span,
) -> Reply:
    """The rows as a file."""
    return csv_reply(f"usage-{span.name}", csv_header(by), csv_pages(services, question, by, names))


def window_shape(span: Span, time_zone: str) -> dict[str, Any]:
    """The JSON of the days that a report is about."""
    return {
        "month": f"{span.first:%Y-%m}" if span.is_month else None,
        "startsAt": span.window.start,
        "endsAt": span.window.end,
        "timeZone": time_zone,
        "firstDay": span.first,
        "lastDay": span.last,
    }


def visible_members(report: UsageReport, access: Access) -> list[MemberUsage]:
    """The rows of the report that the caller may see."""
    everybody = access.allows(Permission.READ_ALL_USAGE)
    return [row for row in report.by_member if everybody or row.user_id == access.user_id]


def visible_keys(report: UsageReport, access: Access) -> list[KeyUsage]:
    """The API keys of the report that the caller may see."""
    everybody = access.allows(Permission.READ_ALL_USAGE)
    return [row for row in report.by_key if everybody or row.user_id == access.user_id]


def report_shape(report: UsageReport, rows: list[MemberUsage], members: list[Member]) -> dict[str, Any]:
    """The JSON of a report. rows: the members to show; one who has left the workspace has no name any more."""
    known: Mapping[UUID, Member] = {member.user_id: member for member in members}
    return {
        "used": report.used,
        "leased": report.leased,
        "limit": report.limit,
        "remaining": report.remaining,
        "byMember": [member_shape(row, known.get(row.user_id)) for row in rows],
        "byModel": [
            {
                "model": row.model,
                "tokens": row.tokens,
                "turns": row.turns,
                "estimatedTokens": row.estimated_tokens,
            }
            for row in report.by_model
        ],
    }


def member_shape(row: MemberUsage, member: Member | None) -> dict[str, Any]:
    """The JSON of one member's usage."""
    return {
        "userId": row.user_id,
        "email": member.email if member is not None else None,
        "name": member.name if member is not None else None,
        "tokens": row.tokens,
        "turns": row.turns,
    }


def key_usage_shape(row: KeyUsage) -> dict[str, Any]:
    """The JSON of one API key's usage; limit: its monthly budget."""
    return {
        "keyId": row.key_id,
        "name": row.name,
        "userId": row.user_id,
        "limit": row.limit,
        "tokens": row.tokens,
        "turns": row.turns,
    }
