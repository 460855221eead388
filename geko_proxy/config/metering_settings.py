"""The settings of what is counted: the currency of prices."""

from __future__ import annotations

from dataclasses import dataclass

from geko_proxy.config.declare import setting
from geko_proxy.config.kinds import currency


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteringSettings:
    """Costs and the ledger of usage."""

    currency: str = setting(
        "USD",
        currency(),
        "The currency of prices and of limits in money.",
    )
