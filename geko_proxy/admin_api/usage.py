"""GET /v1/workspaces/{workspaceId}/usage: what a workspace has used of its quota in a month."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs
from uuid import UUID

from aiohttp import web

from geko_proxy.admin_api.access import Access, entered
from geko_proxy.client_api.shapes import Shape
from geko_proxy.client_api.validation import invalid
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.metering.reports import KeyUsage, MemberUsage, UsageReport
from geko_proxy.metering.windows import Window, load_zone, month_window
from geko_proxy.workspaces.members import Member
from geko_proxy.workspaces.roles import Permission

if TYPE_CHECKING:
    from geko_proxy.services import Services

MONTH: Final = re.compile(r"(2\d{3})-(0[1-9]|1[0-2])", re.ASCII)


class WindowShape(Shape, frozen=True):
    """A month in the tenant's time zone."""

    month: str
    starts_at: datetime
    ends_at: datetime
    time_zone: str


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


class UsageReply(Shape, frozen=True):
    """The usage of a workspace in a month, in tokens. leased: held by answers that run now."""

    workspace_id: UUID
    window: WindowShape
    used: int
    leased: int
    limit: int | None
    remaining: int | None
    by_member: list[MemberUsageShape]
    by_model: list[ModelUsageShape]


class Usage:
    """The endpoint."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def get(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with the report of `?month=YYYY-MM`, this month's without one. All numbers are tokens.

        Owners and admins see each member and each API key; others themselves, their own keys, and the workspace's
        totals.
        """
        services = self._services
        access = entered(exchange)
        tenant = exchange.tenant or await services.tenants.get(access.tenant_id)
        if tenant is None:
            raise Refused(404, "workspace_not_found", "There is no such workspace.")
        window = window_of(exchange.request.query, tenant.time_zone, datetime.now(UTC))
        report = await services.reports.usage(access.tenant_id, access.workspace_id, window)
        members = await services.members.list(access.tenant_id, access.workspace_id)
        shape = report_shape(report, tenant.time_zone, visible_members(report, access), members)
        keys = [key_usage_shape(row) for row in visible_keys(report, access)]
        value = {"workspaceId": access.workspace_id, **shape, "byKey": keys}
        return Reply.of_json(200, value, {"Cache-Control": "no-store"})


def window_of(query: str, time_zone: str, now: datetime) -> Window:
    """The month that a query names, or the one that holds `now`. Raises Refused 400."""
    month = parse_qs(query, keep_blank_values=True).get("month")
    if month is None:
        return month_window(now, time_zone)
    found = MONTH.fullmatch(month[-1])
    if found is None:
        raise invalid({"month": "Must be a month, such as 2026-11."})
    # the middle of a month is in that month in every time zone
    return month_window(datetime(int(found[1]), int(found[2]), 15, tzinfo=UTC), time_zone)


def visible_members(report: UsageReport, access: Access) -> list[MemberUsage]:
    """The rows of the report that the caller may see."""
    everybody = access.allows(Permission.READ_ALL_USAGE)
    return [row for row in report.by_member if everybody or row.user_id == access.user_id]


def visible_keys(report: UsageReport, access: Access) -> list[KeyUsage]:
    """The API keys of the report that the caller may see."""
    everybody = access.allows(Permission.READ_ALL_USAGE)
    return [row for row in report.by_key if everybody or row.user_id == access.user_id]


def report_shape(
    report: UsageReport, time_zone: str, rows: list[MemberUsage], members: list[Member]
) -> dict[str, Any]:
    """The JSON of a report. rows: the members to show; one who has left the workspace has no name any more."""
    known: Mapping[UUID, Member] = {member.user_id: member for member in members}
    start = report.window.start.astimezone(load_zone(time_zone))
    return {
        "window": {
            "month": f"{start:%Y-%m}",
            "startsAt": report.window.start,
            "endsAt": report.window.end,
            "timeZone": time_zone,
        },
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
