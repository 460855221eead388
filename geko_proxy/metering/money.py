"""Amounts of money as people and programs read them: exact decimals, because floats are not."""

from __future__ import annotations

from geko_proxy.metering.prices import BILLIONTHS


def decimal(billionths: int) -> str:
    """Billionths of the currency as a decimal without needless zeros: 1_230_000_000 is "1.23"."""
    whole, rest = divmod(abs(billionths), BILLIONTHS)
    text = f"{whole}.{rest:09d}".rstrip("0").rstrip(".")
    return f"-{text}" if billionths < 0 else text
