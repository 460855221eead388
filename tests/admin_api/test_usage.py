"""The usage report: of which days, by what, and who sees whom."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import pytest

from geko_proxy.admin_api.usage import Usage
from geko_proxy.exchange import Reply
from geko_proxy.metering.usage_days import NO_KEY
from tests.admin_api.conftest import Guarded, Office

INSERT = """
insert into usage_days (tenant_id, workspace_id, day, user_id, key_id, endpoint, model, kind, turns, calls,
    input_tokens, output_tokens, cached_tokens, reasoning_tokens, tokens, estimated_tokens, cost)
values ($1, $2, $3, $4, $5, 'openAI', $6, 'chat', 1, 1, $7::bigint, 0, 0, 0, $7::bigint, $8, $7::bigint * 1000000)"""


async def use(
    office: Office,
    who: str,
    model: str,
    tokens: int,
    at: datetime,
    *,
    estimated: bool = False,
    key: UUID = NO_KEY,
) -> None:
    workspace_id = office.first.workspace.workspace_id
    guessed = tokens if estimated else 0
    async with office.services.database.tenant(office.first.tenant.tenant_id) as scope:
        await scope.execute(INSERT, workspace_id, at.date(), office.users[who], key, model, tokens, guessed)


@pytest.fixture
def usage(office: Office) -> Usage:
    return cast(Usage, Guarded(office.services, Usage(office.services)))


async def test_members_see_themselves_and_the_total(
    office: Office, usage: Usage, value: Callable[[Any], Any]
) -> None:
    now = datetime.now(UTC)
    await use(office, "owner", "gpt-4o", 30, now)
    await use(office, "member", "gpt-4o-mini", 12, now, estimated=True)
    await office.services.members.remove(
        office.first.tenant.tenant_id, office.first.workspace.workspace_id, office.users["viewer"]
    )
    all_of_it = value(await usage.get(*office.call("admin")))
    assert [(row["email"], row["tokens"], row["turns"]) for row in all_of_it["byMember"]] == [
        ("owner@a.example", 30, 1),
        ("member@a.example", 12, 1),
    ]
    assert all_of_it["byModel"] == [
        {"model": "gpt-4o", "tokens": 30, "turns": 1, "estimatedTokens": 0},
        {"model": "gpt-4o-mini", "tokens": 12, "turns": 1, "estimatedTokens": 12},
    ]
    assert (all_of_it["limit"], all_of_it["remaining"], all_of_it["leased"]) == (1000, 1000, 0)
    assert all_of_it["window"]["month"] == f"{now:%Y-%m}"
    own = value(await usage.get(*office.call("member")))
    assert [row["userId"] for row in own["byMember"]] == [str(office.users["member"])]
    assert own["byModel"] == all_of_it["byModel"]


async def test_another_month(office: Office, usage: Usage, value: Callable[[Any], Any]) -> None:
    await use(office, "member", "gpt-4o", 7, datetime(2026, 2, 28, 23, 59, tzinfo=UTC))
    await use(office, "member", "gpt-4o", 9, datetime(2026, 3, 1, tzinfo=UTC))
    report = value(await usage.get(*office.call("owner", query="month=2026-02")))
    assert report["window"] == {
        "month": "2026-02",
        "startsAt": "2026-02-01T00:00:00Z",
        "endsAt": "2026-03-01T00:00:00Z",
        "timeZone": "UTC",
        "firstDay": "2026-02-01",
        "lastDay": "2026-02-28",
    }
    assert report["byModel"][0]["tokens"] == 7


async def test_days_by_model_and_member_with_totals(
    office: Office, usage: Usage, value: Callable[[Any], Any]
) -> None:
    for day, who, model, tokens in (
        (1, "owner", "a", 10),
        (2, "owner", "a", 20),
        (2, "member", "b", 5),
        (3, "member", "a", 100),
    ):
        await use(office, who, model, tokens, datetime(2026, 3, day, tzinfo=UTC), estimated=model == "b")
    report = value(await usage.get(*office.call("admin", query="from=2026-03-01&to=2026-03-02&by=day,model")))
    assert [(row["day"], row["model"], row["tokens"]) for row in report["rows"]] == [
        ("2026-03-01", "a", 10),
        ("2026-03-02", "a", 20),
        ("2026-03-02", "b", 5),
    ]
    assert (report["totals"]["tokens"], report["totals"]["estimatedShare"]) == (35, 0.1429)
    assert (report["totals"]["cost"], report["currency"], report["used"]) == ("0.035", "USD", 35)
    assert (report["window"]["month"], report["window"]["lastDay"]) == (None, "2026-03-02")
    own = value(await usage.get(*office.call("member", query="month=2026-03&by=member")))
    assert [(row["email"], row["tokens"]) for row in own["rows"]] == [("member@a.example", 105)]
    assert own["totals"]["tokens"] == 135
    everybody = value(await usage.get(*office.call("owner", query="month=2026-03&by=member")))
    assert [row["tokens"] for row in everybody["rows"]] == [105, 30]


async def test_csv_holds_the_rows_of_the_json_and_no_formula(office: Office, usage: Usage) -> None:
    await use(office, "member", "=cmd|' /C calc'!A0", 7, datetime(2026, 3, 1, tzinfo=UTC))
    await use(office, "owner", 'quo"te, comma', 3, datetime(2026, 3, 1, tzinfo=UTC))
    reply = await usage.get(*office.call("admin", query="month=2026-03&by=model", Accept="text/csv"))
    assert isinstance(reply, Reply)
    assert reply.headers["Content-Type"].startswith("text/csv; charset=utf-8")
    assert reply.headers["Content-Disposition"] == 'attachment; filename="usage-2026-03.csv"'
    raw = (await reply.read()).decode()
    assert raw.count("\r\n") == 3
    rows = list(csv.DictReader(io.StringIO(raw, newline="")))
    assert {row["model"]: (row["tokens"], row["cost"]) for row in rows} == {
        "'=cmd|' /C calc'!A0": ("7", "0.007"),
        'quo"te, comma': ("3", "0.003"),
    }
    seen = await usage.get(*office.call("viewer", query="month=2026-03&by=member&format=csv"))
    assert (await seen.read()).count(b"\r\n") == 1  # nobody else's


async def test_the_tenant_sees_all_workspaces(office: Office, value: Callable[[Any], Any]) -> None:
    endpoint = Usage(office.services)
    await use(office, "member", "a", 9, datetime(2026, 3, 1, tzinfo=UTC))
    report = value(await endpoint.get_tenant(*office.call("owner", query="month=2026-03")))
    assert [(row["workspace"], row["tokens"]) for row in report["rows"]] == [(office.first.workspace.name, 9)]
    (limit,) = report["limits"]
    assert (limit["workspaceId"], limit["amount"]) == (str(office.first.workspace.workspace_id), 1000)
    other = value(await endpoint.get_tenant(*office.call("stranger", query="month=2026-03")))
    assert (other["rows"], other["totals"]["tokens"]) == ([], 0)
