"""How limits and their state look in JSON: amounts of tokens are numbers, amounts of money decimals."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from geko_proxy.client_api.shapes import Shape
from geko_proxy.metering.limit_states import LimitState
from geko_proxy.metering.limits import EVERY_MEMBER, LimitScope, Unit
from geko_proxy.metering.money import decimal
from geko_proxy.metering.windows import Period


class LimitStateShape(Shape, frozen=True):
    """A limit now. subject: the user's, the key's id, or the glob of models; empty for the workspace. In unit "tokens"
    the amounts are numbers, in "cost" decimals of the currency. leased: held by answers that run."""

    limit_id: UUID
    scope: LimitScope
    subject: str
    each_member: bool
    period: Period
    unit: Unit
    amount: int | str | None
    used: int | str
    leased: int | str
    remaining: int | str | None
    starts_at: datetime
    resets_at: datetime


def limit_state_shape(state: LimitState) -> dict[str, Any]:
    """The JSON of one limit's state."""
    limit = state.limit

    def amount(value: int | None) -> int | str | None:
        return value if value is None or limit.unit is Unit.TOKENS else decimal(value)

    return {
        "limitId": limit.limit_id,
        "scope": limit.scope,
        "subject": state.subject or limit.subject,
        "eachMember": limit.scope is LimitScope.MEMBER and limit.subject == EVERY_MEMBER,
        "period": limit.period,
        "unit": limit.unit,
        "amount": amount(state.amount),
        "used": amount(state.used),
        "leased": amount(state.leased),
        "remaining": amount(state.remaining),
        "startsAt": state.window.start,
        "resetsAt": state.window.end,
    }
