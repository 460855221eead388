"""What alerts say to programs, people and the log."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from geko_proxy.alerts.events import TEST, THRESHOLD, Alert, mail_of, payload

ALERT = Alert(
    tenant_id=UUID(int=1),
    alert_id=UUID(int=2),
    workspace_id=UUID(int=3),
    limit_id=UUID(int=4),
    scope="workspace",
    subject="",
    period="month",
    unit="tokens",
    threshold=80,
    used=8_000_000,
    amount=10_000_000,
    refused=False,
    starts_at=datetime(2026, 10, 31, 23, tzinfo=UTC),
    resets_at=datetime(2026, 11, 30, 23, tzinfo=UTC),
    created_at=datetime(2026, 11, 23, 9, tzinfo=UTC),
)


def mail(**changes: Any) -> tuple[str, str]:
    alert = replace(ALERT, **changes)
    body = json.loads(payload(THRESHOLD, alert.created_at, alert.data))
    return mail_of(body, "Team", "Europe/Berlin", "https://chat.example.org")


def test_a_message_has_type_timestamp_and_data() -> None:
    body = json.loads(payload(THRESHOLD, ALERT.created_at, ALERT.data))
    assert list(body) == ["type", "timestamp", "data"]
    assert (body["type"], body["timestamp"]) == ("quota.threshold", "2026-11-23T09:00:00Z")
    assert body["data"]["remaining"] == 2_000_000
    assert body["data"]["resetsAt"] == "2026-11-30T23:00:00Z"
    over = replace(ALERT, used=10_000_001)
    assert over.data["remaining"] == 0


def test_a_mail_says_it_in_the_tenants_time() -> None:
    subject, text = mail()
    assert subject == "80 % of the monthly quota of workspace Team used"
    assert "Used: 8,000,000 tokens of 10,000,000 tokens." in text
    assert "begins anew on 2026-12-01 00:00 (Europe/Berlin)" in text
    assert text.endswith("https://chat.example.org\n")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scope": "member", "subject": "u-1"}, ("a member of workspace Team", "The member is u-1.")),
        ({"scope": "key", "subject": "k-1"}, ("an API key of workspace Team", "The key is k-1.")),
        ({"scope": "model", "subject": "openAI/*", "period": "day"}, ("daily", "the models openAI/*")),
        ({"unit": "cost", "used": 8 * 10**9, "amount": 10**10}, ("8.00 (cost) of 10.00 (cost)",)),
        ({"refused": True, "threshold": 100}, ("A message was refused",)),
        ({"refused": True, "threshold": 100, "used": 10**7}, ("100 % of the monthly quota",)),
    ],
)
def test_each_kind_of_limit(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    _, text = mail(**changes)
    assert all(each in text for each in words), text


def test_a_glob_with_braces_is_no_format() -> None:
    assert "{workspace}{0}" in mail(scope="model", subject="{workspace}{0}")[1]


def test_a_test_says_that_it_is_one() -> None:
    subject, _ = mail_of({"type": TEST, "data": {}}, "Team", "UTC", "https://x.example")
    assert subject == "Test of the alerts of workspace Team"


def test_the_log_line_is_one_line_whatever_a_subject_holds() -> None:
    line = replace(ALERT, scope="model", subject='x"\n2026 forged').log_line
    assert "\n" not in line
    assert json.loads(line)["subject"] == 'x"\n2026 forged'
