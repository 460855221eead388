"""Prices: a charge costs what an independent calculation says, by the price that fits best at its time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.metering.ledger import Charge
from geko_proxy.metering.prices import MAX_PRICE, NO_PRICES, Price, PriceTable

NOW = datetime(2026, 11, 23, tzinfo=UTC)
AMOUNTS = st.integers(0, MAX_PRICE)
TOKENS = st.integers(0, 10**7)
GLOBS = st.sampled_from(["*/*", "A/*", "*/x", "A/x", "A/x*", "A/*x", "B/m/x", "*/m/*", "A*/*x*"])
TIMES = st.integers(-30, 30).map(lambda days: NOW + timedelta(days=days))
PRICES = st.builds(Price, GLOBS, AMOUNTS, AMOUNTS, TIMES, st.none() | AMOUNTS, st.none() | AMOUNTS)
CHARGES = st.builds(
    Charge,
    st.just("run"),
    st.just(1),
    st.just("chat"),
    st.sampled_from(["x", "m/x", ""]),
    st.just("P"),
    TOKENS,
    TOKENS,
).flatmap(
    lambda charge: st.builds(
        lambda cached, reasoning: replace(charge, cached_tokens=cached, reasoning_tokens=reasoning),
        TOKENS,
        TOKENS,
    )
)


def cost_of(price: Price, charge: Charge) -> Decimal:
    """In billionths, by decimals and the words of the manual."""
    million = Decimal(10**6)
    cached = min(charge.cached_tokens, charge.input_tokens)
    cached_price = price.input if price.cached is None else price.cached
    reasoning_price = price.output if price.reasoning is None else price.reasoning
    parts = (
        Decimal(charge.input_tokens - cached) / million * price.input,
        Decimal(cached) / million * cached_price,
        Decimal(charge.output_tokens) / million * price.output,
        Decimal(charge.reasoning_tokens) / million * reasoning_price,
    )
    return sum(parts, Decimal(0)).to_integral_value(ROUND_CEILING)


@given(PRICES, CHARGES)
def test_a_charge_costs_what_decimals_say(price: Price, charge: Charge) -> None:
    assert price.cost(charge) == cost_of(price, charge)


@given(PRICES, TOKENS, TOKENS)
def test_an_estimate_is_the_charge_without_a_cache(price: Price, prompt: int, output: int) -> None:
    charge = Charge("run", 1, "chat", "x", "P", prompt, output)
    assert price.of_text(prompt, output) == price.cost(charge)
    assert price.of_text(0, output) <= -(-output * price.highest // 10**6)


def best(prices: list[Price], endpoint: str, model: str, at: datetime) -> Price | None:
    """By the words of the manual: the most literal glob, of its dates the newest that has begun."""
    fitting = []
    for price in prices:
        place, _, name = price.model.partition("/")
        if price.valid_from <= at and fnmatchcase(endpoint, place) and fnmatchcase(model, name):
            fitting.append(price)
    return max(fitting, key=lambda p: (len(p.model.replace("*", "")), p.valid_from)) if fitting else None


@given(
    st.lists(PRICES, max_size=8),
    st.lists(PRICES, max_size=8),
    st.sampled_from("AB"),
    st.sampled_from(["x", "m/x", "ax"]),
    st.lists(TIMES, min_size=1, max_size=3),
)
def test_ones_own_price_counts_before_the_installations(
    own: list[Price], installation: list[Price], endpoint: str, model: str, times: list[datetime]
) -> None:
    table = PriceTable(own, installation)
    for at in times:
        expected = best(own, endpoint, model, at) or best(installation, endpoint, model, at)
        found = table.find(endpoint, model, at)
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            assert (len(found.model.replace("*", "")), found.valid_from) == (
                len(expected.model.replace("*", "")),
                expected.valid_from,
            )
            assert found.valid_from <= at


def test_the_model_that_was_reported_counts_then_that_of_the_turn() -> None:
    day = timedelta(days=1)
    table = PriceTable(
        [
            Price("E/asked", 10**6, 0, NOW - day),
            Price("P/other", 2 * 10**6, 0, NOW - day),
            Price("E/dear", 3 * 10**6, 0, NOW - day),
            Price("E/dear", 9 * 10**6, 0, NOW + day),
        ]
    )
    charge = Charge("run", 1, "chat", "dear", "P", 100, 0)
    for model, cost in (("dear", 300), ("other", 200), ("unknown", 100), ("", 100)):
        assert table.priced(replace(charge, model=model), "E", "asked", NOW).cost == cost
    assert table.priced(replace(charge, model="unknown"), "E", "unknown", NOW).cost == 0
    assert table.priced(charge, "E", "asked", NOW + day).cost == 900
    assert NO_PRICES.find("E", "asked", NOW) is None
