"""What people and programs are told when a limit is used up."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from geko_proxy.filters.base import Exchange, Refused
from geko_proxy.metering.leases import Exhausted
from geko_proxy.metering.limits import EVERY_MEMBER, Limit, LimitScope, Unit
from geko_proxy.metering.money import decimal
from geko_proxy.metering.windows import Period, load_zone

REFUSAL_CODE: Final = "quota_exceeded"
KEY_REFUSAL_CODE: Final = "key_budget_exceeded"
ADJECTIVES: Final[Mapping[Period, str]] = {
    Period.DAY: "daily",
    Period.WEEK: "weekly",
    Period.MONTH: "monthly",
}


def limit_named(limit_id: UUID | None, limits: Sequence[Limit]) -> Limit | None:
    """The limit with that id; None when it is gone."""
    return next((limit for limit in limits if limit.limit_id == limit_id), None)


def described(limit: Limit | None) -> str:
    """A limit in a few words, for the log."""
    if limit is None:
        return "a limit is used up"
    return f"the limit {limit.limit_id} ({limit.scope} {limit.subject}, {limit.unit} a {limit.period}) is used up"


def refusal_code(limit: Limit | None) -> str:
    """The code of an error, for programs."""
    return KEY_REFUSAL_CODE if limit is not None and limit.scope is LimitScope.KEY else REFUSAL_CODE


def used_up_text(limit: Limit | None, exchange: Exchange, resets_at: datetime) -> str:
    """What people read. limit None: the workspace's own."""
    period = Period.MONTH if limit is None else limit.period
    unit = Unit.TOKENS if limit is None else limit.unit
    quota = "token quota" if unit is Unit.TOKENS else "budget"
    name = exchange.workspace.name if exchange.workspace is not None else "this workspace"
    whose = f"The {ADJECTIVES[period]} {quota} of workspace {name}"
    if limit is not None and limit.scope is LimitScope.KEY:
        key = exchange.api_key.name if exchange.api_key is not None else ""
        whose = f"The {ADJECTIVES[period]} {'token ' * (unit is Unit.TOKENS)}budget of API key {key}"
    elif limit is not None and limit.scope is LimitScope.MEMBER:
        whose = f"Your {ADJECTIVES[period]} {quota} in workspace {name}"
    elif limit is not None and limit.scope is LimitScope.MODEL:
        whose = f"{whose} for the model {limit.subject}"
    return f"{whose} is used up. It starts anew on {local_date(resets_at, exchange)}."


def local_date(at: datetime, exchange: Exchange) -> str:
    """The day in the tenant's time zone."""
    zone = load_zone(exchange.tenant.time_zone if exchange.tenant is not None else "UTC")
    return f"{at.astimezone(zone):%-d %B %Y}"


def exhausted_refusal(outcome: Exhausted, limits: Sequence[Limit], exchange: Exchange) -> Refused:
    """429 with free text that LibreChat's client shows in a red box (contract §7.3)."""
    limit = limit_named(outcome.limit_id, limits)
    text = used_up_text(limit, exchange, outcome.resets_at)
    money = outcome.unit is Unit.COST
    amounts = {"used": outcome.used, "leased": outcome.leased, "limit": outcome.limit}
    details = {
        "limitId": str(outcome.limit_id),
        **{name: decimal(amount) if money else amount for name, amount in amounts.items()},
        "unit": outcome.unit,
        "resetsAt": outcome.resets_at.isoformat(),
    }
    if limit is not None:
        subject = limit.subject if limit.subject != EVERY_MEMBER else ""
        details |= {"scope": limit.scope, "subject": subject, "period": limit.period}
    return Refused(
        429,
        refusal_code(limit),
        text,
        librechat={"type": "google_error", "info": text},
        details=details,
        retry_after_s=int(outcome.resets_at.timestamp() - time.time()),
    )


def unpriced_refusal(exchange: Exchange) -> Refused:
    """403: a limit in money holds, and nobody knows what this model costs."""
    text = f"The model {exchange.model} has no price, so the budget of this workspace can't be kept with it."
    return Refused(403, "model_without_price", text, librechat={"type": "google_error", "info": text})
