"""Amounts of money: in people's words a decimal number, inside a whole number of billionths."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from geko_proxy.metering.prices import BILLIONTHS

PLACES: Final = 9
NUMBER: Final = re.compile(r"(\d{1,16})(?:\.(\d{1,9}))?", re.ASCII)


def read_money(value: float | str) -> int:
    """Billionths of "12.5", 12.5 or 12. A float counts as the shortest number that is written like it.

    Raises ValueError for what is no amount, is below 0, or has more than 9 places.
    """
    text = format(Decimal(repr(value)), "f") if isinstance(value, float) else str(value)
    if "." in text and isinstance(value, float):
        text = text.rstrip("0").rstrip(".")
    found = None if isinstance(value, bool) else NUMBER.fullmatch(text)
    if found is None:
        raise ValueError('expected an amount from 0 on, such as 12.5 or "12.50", with at most 9 places')
    return int(found[1]) * BILLIONTHS + int((found[2] or "").ljust(PLACES, "0"))


def decimal(amount: int) -> str:
    """Billionths as a decimal number without needless zeros."""
    whole, rest = divmod(abs(amount), BILLIONTHS)
    places = f".{rest:0{PLACES}}".rstrip("0").rstrip(".")
    return f"{'-' * (amount < 0)}{whole}{places}"
