"""The settings of what is counted: the currency of prices, and how long the ledger is kept."""

from __future__ import annotations

from dataclasses import dataclass

from geko_proxy.config.declare import setting
from geko_proxy.config.kinds import currency, integer


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteringSettings:
    """Costs and the ledger of usage."""

    currency: str = setting(
        "USD",
        currency(),
        "The currency of prices and of limits in money.",
    )
    retention_months: int = setting(
        0,
        integer(0, 1200),
        "Whole months that the ledger usage_events keeps beside the current one; 0: for ever. Sums by day stay.",
    )
