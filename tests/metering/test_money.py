"""Amounts of money: what is read and written back is the same amount, to the billionth."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.metering.money import decimal, read_money
from geko_proxy.metering.prices import BILLIONTHS


@given(st.integers(0, 10**18))
def test_what_is_written_is_read_back(amount: int) -> None:
    text = decimal(amount)
    assert read_money(text) == amount
    assert Decimal(text) * BILLIONTHS == amount
    assert not text.endswith(".")
    assert decimal(-amount) == ("-" if amount else "") + text


@given(st.decimals(0, 10**9, places=9, allow_nan=False))
def test_any_decimal_with_nine_places_is_exact(number: Decimal) -> None:
    assert read_money(format(number, "f")) == number * BILLIONTHS


@given(st.integers(0, 10**9), st.integers(0, 9), st.integers(0, 10**5))
def test_a_number_counts_as_it_is_written(whole: int, places: int, part: int) -> None:
    text = f"{whole % 10**6}.{part % 10**places:0{places}}" if places else str(whole)
    assert read_money(float(text)) == Decimal(text) * BILLIONTHS


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        (0, 0),
        (12, 12 * 10**9),
        (0.1, 10**8),
        (1e-9, 1),
        ("0.000000001", 1),
        ("1.50", 15 * 10**8),
        (2.5e5, 25 * 10**13),
    ],
)
def test_known_amounts(value: float | str, amount: int) -> None:
    assert read_money(value) == amount


@pytest.mark.parametrize(
    "value",
    [
        -1,
        -0.5,
        1e-10,
        "0.0000000001",
        "1,5",
        "",
        " 1",
        "1\n",
        "1.",
        ".5",
        "+1",
        "1e3",
        "٣",
        "nan",
        True,
        "9" * 17,
        float("nan"),
        float("inf"),
        1e300,
    ],
)
def test_what_is_no_amount_is_a_value_error(value: float | str) -> None:
    with pytest.raises(ValueError, match="amount"):
        read_money(value)
