"""What models cost: prices with globs and effective dates, and the cost of a charge. Exact whole numbers, no floats.

Money is counted in billionths of the installation's currency; prices are for a million tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from geko_proxy.metering.ledger import Charge
from geko_proxy.workspaces.config import matches

BILLIONTHS: Final = 10**9
PER: Final = 10**6  # tokens
MAX_PRICE: Final = 10**15
MAX_KNOWN: Final = 1000


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs from an instant on, in billionths of the currency for a million tokens.

    model: a glob "endpoint/model". cached: of prompt tokens from a cache, None: as input. reasoning: of hidden
    reasoning, None: as output.
    """

    model: str
    input: int
    output: int
    valid_from: datetime
    cached: int | None = None
    reasoning: int | None = None

    def cost(self, charge: Charge) -> int:
        """What a charge comes to, rounded up to a billionth."""
        cached = min(charge.cached_tokens, charge.input_tokens)
        total = (charge.input_tokens - cached) * self.input
        total += cached * (self.input if self.cached is None else self.cached)
        total += charge.output_tokens * self.output
        total += charge.reasoning_tokens * (self.output if self.reasoning is None else self.reasoning)
        return -(-total // PER)

    def of_text(self, prompt: int, output: int) -> int:
        """What a prompt and a text come to, in tokens; for what is not reported yet."""
        return -(-(prompt * self.input + output * self.output) // PER)

    @property
    def highest(self) -> int:
        """The dearest kind of tokens."""
        return max(self.input, self.output, self.cached or 0, self.reasoning or 0)


class PriceTable:
    """Prices in the order in which they are looked at: a tenant's own first, then the installation's."""

    __slots__ = ("_known", "_lists")

    def __init__(self, *lists: Sequence[Price]) -> None:
        self._lists = lists
        self._known: dict[tuple[str, str], list[list[Price]]] = {}

    def find(self, endpoint: str, model: str, at: datetime) -> Price | None:
        """The price of a model at a time; None when there is none. Of several globs the most literal one counts, of
        its prices the newest that holds already."""
        key = (endpoint, model)
        fitting = self._known.get(key)
        if fitting is None:
            fitting = [self._fitting(prices, *key) for prices in self._lists]
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[key] = fitting
        for prices in fitting:
            for price in prices:
                if price.valid_from <= at:
                    return price
        return None

    @staticmethod
    def _fitting(prices: Sequence[Price], endpoint: str, model: str) -> list[Price]:
        """The prices of a model, the one to look at first before all others."""
        found = [price for price in prices if matches(price.model, endpoint, model)]
        return sorted(found, key=lambda price: (literal(price.model), price.valid_from), reverse=True)

    def priced(self, charge: Charge, endpoint: str, model: str, at: datetime) -> Charge:
        """A charge with its cost. Its own model counts, else the one that the turn was started with."""
        names = (
            (charge.endpoint or endpoint, charge.model),
            (charge.provider, charge.model),
            (endpoint, model),
        )
        for place, name in names:
            price = self.find(place, name, at) if name else None
            if price is not None:
                return replace(charge, cost=price.cost(charge))
        return charge


def literal(glob: str) -> int:
    """How much of a glob is literal."""
    return len(glob.replace("*", ""))


NO_PRICES: Final = PriceTable()
