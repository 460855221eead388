"""The usage report: which month, and who sees whom."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.admin_api.usage import Usage, window_of
from geko_proxy.errors import Refused
from geko_proxy.metering.windows import Window, month_window
from tests.admin_api.conftest import Guarded, Office

INSERT = """
insert into usage_events (tenant_id, turn_id, run_id, seq, workspace_id, user_id, kind, endpoint, model, provider,
    input_tokens, output_tokens, cached_tokens, reasoning_tokens, estimated, source, occurred_at)
values ($1, $2, 'r', 1, $3, $4, 'chat', 'Mock', $5, 'p', $6, 0, 0, 0, $7, 'provider', $8)"""


async def use(
    office: Office, who: str, model: str, tokens: int, at: datetime, estimated: bool = False
) -> None:
    workspace_id = office.first.workspace.workspace_id
    async with office.services.database.tenant(office.first.tenant.tenant_id) as scope:
        await scope.execute(INSERT, uuid4(), workspace_id, office.users[who], model, tokens, estimated, at)


async def test_members_see_themselves_and_the_total(office: Office, value: Callable[[Any], Any]) -> None:
    now = datetime.now(UTC)
    await use(office, "owner", "gpt-4o", 30, now)
    await use(office, "member", "gpt-4o-mini", 12, now, estimated=True)
    await office.services.members.remove(
        office.first.tenant.tenant_id, office.first.workspace.workspace_id, office.users["viewer"]
    )
    endpoint = cast(Usage, Guarded(office.services, Usage(office.services)))
    all_of_it = value(await endpoint.get(*office.call("admin")))
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
    own = value(await endpoint.get(*office.call("member")))
    assert [row["userId"] for row in own["byMember"]] == [str(office.users["member"])]
    assert own["byModel"] == all_of_it["byModel"]


async def test_another_month(office: Office, value: Callable[[Any], Any]) -> None:
    await use(office, "member", "gpt-4o", 7, datetime(2026, 2, 28, 23, 59, tzinfo=UTC))
    await use(office, "member", "gpt-4o", 9, datetime(2026, 3, 1, tzinfo=UTC))
    report = value(
        await cast(Usage, Guarded(office.services, Usage(office.services))).get(
            *office.call("owner", query="month=2026-02")
        )
    )
    assert report["window"] == {
        "month": "2026-02",
        "startsAt": "2026-02-01T00:00:00Z",
        "endsAt": "2026-03-01T00:00:00Z",
        "timeZone": "UTC",
    }
    assert report["byModel"][0]["tokens"] == 7


@given(
    st.integers(2000, 2999),
    st.integers(1, 12),
    st.sampled_from(["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago", "Europe/Berlin", "America/Havana"]),
)
def test_every_month_is_found_in_every_zone(year: int, month: int, zone: str) -> None:
    window = window_of(f"month={year}-{month:02}", zone, datetime.now(UTC))
    assert window == month_window(window.start, zone)
    assert window.start < datetime(year, month, 15, tzinfo=UTC) < window.end


@pytest.mark.parametrize("month", ["", "2026", "2026-13", "2026-1", "1999-01", "2026-01-01", "٢٠٢٦-٠١", "x"])
def test_bad_months(month: str) -> None:
    with pytest.raises(Refused) as refused:
        window_of(f"month={month}", "UTC", datetime.now(UTC))
    assert set(refused.value.details or {}) == {"month"}


def test_no_month_is_this_month() -> None:
    now = datetime(2026, 11, 22, tzinfo=UTC)
    november = Window(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
    assert window_of("", "UTC", now) == november
    assert window_of("x=1", "UTC", now) == november
