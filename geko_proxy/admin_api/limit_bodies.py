"""The JSON of limits: what may be asked for, checked field by field, and what is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType, field

from geko_proxy.client_api.shapes import Shape
from geko_proxy.client_api.validation import Body, invalid
from geko_proxy.metering.limit_changes import Filled
from geko_proxy.metering.limits import DEFAULT_ALERTS, MAX_AMOUNT, Hold, Limit, LimitScope, Unit
from geko_proxy.metering.money import decimal, read_money
from geko_proxy.metering.prices import BILLIONTHS
from geko_proxy.metering.windows import Period, check_start_day

Number = int | float | str  # of tokens, or of money
Percent = Annotated[int, Meta(ge=1, le=100)]
Alerts = Annotated[tuple[Percent, ...], Meta(max_length=20)]
Moment = Annotated[datetime, Meta(tz=True)]
Subject = Annotated[str, Meta(max_length=300)]
MAX_TEXT: Final = {
    Unit.TOKENS: f"at most {MAX_AMOUNT} tokens",
    Unit.COST: f"at most {MAX_AMOUNT // BILLIONTHS}",
}


class RaiseTerms(Body, frozen=True, forbid_unknown_fields=True):
    """More for a time: by, on top of the amount, until an instant."""

    by: Number
    until: Moment


class NewLimitBody(Body, frozen=True):
    """POST …/limits. amount, grace, raise.by: whole tokens, or money; amount null: no limit, but counted.

    subject: a member's user id or "*" for each, a glob "Endpoint/model", an API key's id; none for the workspace.
    alertAt: percent."""

    scope: LimitScope
    amount: Number | None
    subject: Subject = ""
    period: Period = Period.MONTH
    start_day: int = 1
    unit: Unit = Unit.TOKENS
    grace: Number = 0
    alert_at: Alerts = DEFAULT_ALERTS
    raised: RaiseTerms | None = field(default=None, name="raise")


class LimitChangeBody(Body, frozen=True):
    """PATCH …/limits/{limitId}. What is left out stays as it is; raise null ends it. What is limited can't change."""

    amount: Number | UnsetType | None = UNSET
    grace: Number | UnsetType = UNSET
    alert_at: Alerts | UnsetType = UNSET
    raised: RaiseTerms | UnsetType | None = field(default=UNSET, name="raise")


class RaiseShape(Shape, frozen=True):
    """A raise that counts now."""

    by: int | str
    until: datetime


class LimitWindowShape(Shape, frozen=True):
    """The time that counts now. leased: held by answers that run. remaining: null without a limit."""

    starts_at: datetime
    resets_at: datetime
    time_zone: str
    used: int | str
    leased: int | str
    remaining: int | str | None


class LimitMemberShape(Shape, frozen=True):
    """One member under a limit for each of them."""

    user_id: UUID
    used: int | str
    leased: int | str
    remaining: int | str | None


class LimitReply(Shape, frozen=True):
    """A limit. Tokens are whole numbers, money is text such as "12.5". window: the caller's own for a limit of each
    member; members: then everybody's who has used anything, for admins who ask for this limit alone."""

    id: UUID
    scope: LimitScope
    subject: str
    period: Period
    start_day: int
    unit: Unit
    currency: str | None
    amount: int | str | None
    grace: int | str
    alert_at: list[int]
    raise_: RaiseShape | None = field(name="raise")
    window: LimitWindowShape
    members: list[LimitMemberShape] | UnsetType = UNSET


class LimitsReply(Shape, frozen=True):
    """The limits of a workspace that concern the caller, oldest first; all of them for admins."""

    limits: list[LimitReply]


class Problems(dict[str, str]):
    """What is wrong with a body, by field."""

    def read(self, name: str, read: Callable[[], int]) -> int:
        """What `read` returns; 0, with a problem noted, when it raises ValueError."""
        try:
            return read()
        except ValueError as error:
            text = str(error)
            self[name] = f"{text[:1].upper()}{text[1:]}."
            return 0

    def check(self) -> None:
        """Raises Refused 400 when there is one."""
        if self:
            raise invalid(self)


def read_amount(value: Number, unit: Unit) -> int:
    """An amount in its unit. Raises ValueError."""
    if unit is Unit.TOKENS:
        if not isinstance(value, int):
            raise ValueError("expected a whole number of tokens")
        amount = value
    else:
        amount = read_money(value)
    if amount < 0:
        raise ValueError("expected a number from 0 on")
    if amount > MAX_AMOUNT:
        raise ValueError(f"expected {MAX_TEXT[unit]}")
    return amount


def new_limit(
    body: NewLimitBody, limit_id: UUID, workspace_id: UUID, now: datetime
) -> tuple[Limit, Problems]:
    """The limit that is asked for, and what is wrong with it; whom it limits is not checked yet."""
    problems = Problems()
    try:
        check_start_day(body.period, body.start_day)
    except ValueError as error:
        problems["startDay"] = f"Out of range: {error}."
    limit = Limit(limit_id, workspace_id, body.scope, body.subject, body.period, body.start_day, body.unit)
    change = LimitChangeBody(amount=body.amount, grace=body.grace, alert_at=body.alert_at, raised=body.raised)
    return changed(limit, change, problems, now), problems


def changed(limit: Limit, body: LimitChangeBody, problems: Problems, now: datetime) -> Limit:
    """The limit with the fields of the body; what is wrong with them goes into problems."""
    changes: dict[str, Any] = {}
    unit, amount, grace, raised = limit.unit, body.amount, body.grace, body.raised
    if amount is None:
        changes["amount"] = None
    elif not isinstance(amount, UnsetType):
        given = amount
        changes["amount"] = problems.read("amount", lambda: read_amount(given, unit))
    if not isinstance(grace, UnsetType):
        allowed = grace
        changes["grace"] = problems.read("grace", lambda: read_amount(allowed, unit))
    if not isinstance(body.alert_at, UnsetType):
        changes["alert_at"] = tuple(sorted(set(body.alert_at)))
    if raised is None:
        changes |= {"raised_by": 0, "raised_until": None}
    elif not isinstance(raised, UnsetType):
        by = raised.by
        changes["raised_by"] = problems.read("raise.by", lambda: read_amount(by, unit))
        changes["raised_until"] = raised.until
        if changes["raised_by"] == 0:
            problems.setdefault("raise.by", "Must be more than 0.")
        if raised.until <= now:
            problems["raise.until"] = "Must be in the future."
    return replace(limit, **changes)


def shown(amount: int, unit: Unit) -> int | str:
    """An amount in JSON."""
    return amount if unit is Unit.TOKENS else decimal(amount)


def terms_shape(limit: Limit) -> dict[str, Any]:
    """What was set, also for the audit log."""
    raised = limit.raised_until is not None and limit.raised_by > 0
    return {
        "scope": limit.scope,
        "subject": limit.subject,
        "period": limit.period,
        "startDay": limit.start_day,
        "unit": limit.unit,
        "amount": None if limit.amount is None else shown(limit.amount, limit.unit),
        "grace": shown(limit.grace, limit.unit),
        "alertAt": limit.alert_at,
        "raise": {"by": shown(limit.raised_by, limit.unit), "until": limit.raised_until} if raised else None,
    }


def filled_shape(limit: Limit, filled: Filled, now: datetime) -> dict[str, Any]:
    """How much is used, and what a new turn may still take."""
    remaining = None
    if limit.amount is not None:
        raised = limit.raised_until is not None and limit.raised_until > now
        amount = limit.amount + (limit.raised_by if raised else 0)
        remaining = shown(max(0, amount - filled.used - filled.leased), limit.unit)
    return {
        "used": shown(filled.used, limit.unit),
        "leased": shown(filled.leased, limit.unit),
        "remaining": remaining,
    }


def limit_shape(
    limit: Limit, hold: Hold, filled: Filled, currency: str, time_zone: str, now: datetime
) -> dict[str, Any]:
    """The JSON of a limit. hold: its window."""
    terms = terms_shape(limit)
    if limit.raised_until is not None and limit.raised_until <= now:
        terms["raise"] = None
    return {
        "id": limit.limit_id,
        **terms,
        "currency": currency if limit.unit is Unit.COST else None,
        "window": {
            "startsAt": hold.window.start,
            "resetsAt": hold.window.end,
            "timeZone": time_zone,
            **filled_shape(limit, filled, now),
        },
    }
