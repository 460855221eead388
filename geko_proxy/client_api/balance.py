"""GET /api/balance: what is left of the caller's limits, as LibreChat's page shows its own balance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from geko_proxy.exchange import Exchange, Reply
from geko_proxy.metering.limit_states import LimitState, Viewer, balance_of
from geko_proxy.metering.limits import Unit
from geko_proxy.metering.prices import BILLIONTHS
from geko_proxy.metering.windows import Period

if TYPE_CHECKING:
    from geko_proxy.services import Services

INTERVALS: Final[Mapping[Period, str]] = {
    Period.DAY: "days",
    Period.WEEK: "weeks",
    Period.MONTH: "months",
}
CREDITS: Final = 1_000_000  # LibreChat's credits for one unit of the currency


class Balance:
    """The endpoint."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def get(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with the limit that stops the caller first; 204, as without LibreChat's balances, when there is none."""
        identity = exchange.signed_in()
        services = self._services
        tenant = exchange.tenant or await services.tenants.get(identity.tenant_id)
        if tenant is None:
            return Reply(204)
        viewer = Viewer(identity.user_id, everything=False)
        states = await services.usage.limit_states.states(
            identity.tenant_id, identity.workspace_id, tenant.time_zone, viewer
        )
        state = balance_of(states)
        if state is None:
            return Reply(204)
        return Reply.of_json(200, balance_shape(state), {"Cache-Control": "no-store"})


def balance_shape(state: LimitState) -> dict[str, Any]:
    """TBalanceResponse of LibreChat (packages/data-provider/src/types.ts): its page adds the interval to lastRefill."""
    return {
        "tokenCredits": credits_of(state, state.remaining),
        "autoRefillEnabled": True,
        "lastRefill": state.window.start,
        "refillAmount": credits_of(state, state.amount),
        "refillIntervalValue": 1,
        "refillIntervalUnit": INTERVALS[state.limit.period],
    }


def credits_of(state: LimitState, amount: int | None) -> int:
    """Tokens as they are; money as LibreChat's credits, a millionth of the currency each, rounded down."""
    if amount is None:
        return 0
    return amount if state.limit.unit is Unit.TOKENS else amount * CREDITS // BILLIONTHS
