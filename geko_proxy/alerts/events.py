"""What is announced: the types of events, and what each says to programs, to people and to the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec

from geko_proxy.metering.windows import load_zone

if TYPE_CHECKING:
    from asyncpg import Record

THRESHOLD: Final = "quota.threshold"
TEST: Final = "webhook.test"
# What can be asked for. A test comes without being asked for.
EVENTS: Final[Mapping[str, str]] = {THRESHOLD: "a limit has passed one of its thresholds"}

SUBJECTS: Final = {
    "workspace": "workspace {workspace}",
    "member": "a member of workspace {workspace}",
    "model": "the models {subject} in workspace {workspace}",
    "key": "an API key of workspace {workspace}",
}


@dataclass(frozen=True, slots=True)
class Alert:
    """A limit's window has passed a threshold. refused: because a message found no room, whatever is used.

    subject: the user's or key's id, the glob of models, "" for the workspace. used, amount: in the unit; of "cost" in
    billionths of the currency.
    """

    tenant_id: UUID
    alert_id: UUID
    workspace_id: UUID
    limit_id: UUID
    scope: str
    subject: str
    period: str
    unit: str
    threshold: int
    used: int
    amount: int
    refused: bool
    starts_at: datetime
    resets_at: datetime
    created_at: datetime

    @classmethod
    def from_row(cls, row: Record) -> Alert:
        """The alert of a row of quota_alerts."""
        same = ("tenant_id", "alert_id", "workspace_id", "limit_id", "scope", "period", "unit", "threshold")
        rest = ("used", "amount", "refused", "starts_at", "created_at")
        return cls(
            **{name: row[name] for name in (*same, *rest)},
            subject=row["limit_subject"],
            resets_at=row["ends_at"],
        )

    @property
    def data(self) -> dict[str, Any]:
        """What programs are told of it."""
        return {
            "limit": self.limit_id,
            "scope": self.scope,
            "subject": self.subject,
            "period": self.period,
            "unit": self.unit,
            "threshold": self.threshold,
            "used": self.used,
            "amount": self.amount,
            "remaining": max(0, self.amount - self.used),
            "refused": self.refused,
            "startsAt": self.starts_at,
            "resetsAt": self.resets_at,
            "workspaceId": self.workspace_id,
            "tenantId": self.tenant_id,
        }

    @property
    def log_line(self) -> str:
        """One line for the log, as JSON: names that people chose can't forge another."""
        return msgspec.json.encode({"event": THRESHOLD, "alertId": self.alert_id, **self.data}).decode()


def payload(event: str, at: datetime, data: Mapping[str, Any]) -> str:
    """The body of a message (Standard Webhooks: type, timestamp, data). It is stored: each attempt sends the same."""
    body = {"type": event, "timestamp": at.astimezone(UTC), "data": data}
    return msgspec.json.encode(body).decode()


def mail_of(body: Mapping[str, Any], workspace: str, time_zone: str, link: str) -> tuple[str, str]:
    """Subject and text of the mail that says what a message says. Raises KeyError for another type."""
    if body["type"] == TEST:
        text = f"Somebody tries whether alerts of workspace {workspace} arrive by mail. They do.\n\n{link}\n"
        return f"Test of the alerts of workspace {workspace}", text
    data = body["data"]
    what = SUBJECTS[data["scope"]].format(workspace=workspace, subject=data["subject"])
    quota = f"{period_word(data['period'])} quota of {what}"
    used, amount = shown(data["used"], data["unit"]), shown(data["amount"], data["unit"])
    if data["refused"] and data["used"] < data["amount"]:
        title = f"No room left in the {quota}"
        lines = [f"A message was refused: it needs more than what is left of the {quota}."]
    else:
        title = f"{data['threshold']} % of the {quota} used"
        lines = [f"{data['threshold']} % of the {quota} or more is used."]
    lines.append(f"Used: {used} of {amount}.")
    if data["subject"] and data["scope"] in ("member", "key"):
        lines.append(f"The {data['scope']} is {data['subject']}.")
    resets = local_time(data["resetsAt"], time_zone)
    return title, "\n".join((*lines, f"The quota begins anew on {resets}.", "", link, ""))


def period_word(period: str) -> str:
    """The adjective of a period."""
    return {"day": "daily", "week": "weekly"}.get(period, "monthly")


def shown(number: int, unit: str) -> str:
    """An amount for people. Costs have no name of a currency here: prices are set in one of the operator's choice."""
    return f"{number:,} tokens" if unit == "tokens" else f"{number / 10**9:,.2f} (cost)"


def local_time(text: str, time_zone: str) -> str:
    """An instant of a message in the tenant's time zone. Raises ValueError."""
    return f"{datetime.fromisoformat(text).astimezone(load_zone(time_zone)):%Y-%m-%d %H:%M} ({time_zone})"
