"""The [[prices]] entries of the TOML file: what models cost, from when on. Nothing here opens a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

from geko_proxy.config.sources import did_you_mean

PLACES: Final = 9
MAX_PRICE: Final = 10**15  # a million for a million tokens
MAX_LENGTH: Final = 256
NUMBERS: Final[Mapping[str, str]] = {
    "input": "Price of a million tokens of prompt. Needed.",
    "output": "Price of a million tokens of answer. Needed.",
    "cached": "Price of a million tokens of prompt from the provider's cache; left out: as `input`.",
    "reasoning": "Price of a million tokens of hidden reasoning; left out: as `output`.",
}
KEYS: Final[Mapping[str, str]] = {
    "model": 'Which models, as `"Endpoint/model"`; `*` stands for any text. Needed.',
    **NUMBERS,
    "from": "The day on which the price begins (UTC), such as `2026-11-01`; left out: it always was.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceSettings:
    """What models cost from a day on, in billionths of the currency for a million tokens. begins None: ever since."""

    model: str
    input: int
    output: int
    cached: int | None = None
    reasoning: int | None = None
    begins: date | None = None


def load_prices(tables: Any, label: str, problems: list[str]) -> tuple[PriceSettings, ...]:
    """Read the entries; whatever is wrong is added to problems, each with its place. No [[prices]] means none."""
    if tables is None:
        return ()
    if not isinstance(tables, list):
        problems.append(f"{label}: prices: expected [[prices]] tables")
        return ()
    found: list[PriceSettings] = []
    for index, table in enumerate(tables):
        place = f"{label}: prices[{index}]"
        price = _load_price(table, place, problems)
        if price is None:
            continue
        if any((price.model, price.begins) == (other.model, other.begins) for other in found):
            since = "" if price.begins is None else f" from {price.begins}"
            problems.append(f"{place}: the price of {price.model}{since} is there twice")
        found.append(price)
    return tuple(found)


def _load_price(table: Any, place: str, problems: list[str]) -> PriceSettings | None:
    if not isinstance(table, dict):
        problems.append(f"{place}: expected a table")
        return None
    before = len(problems)
    unknown = sorted(table.keys() - KEYS.keys())
    problems += [f"{place}.{key}: unknown key{did_you_mean(key, KEYS)}" for key in unknown]
    model = table.get("model")
    if not isinstance(model, str) or not is_glob(model):
        problems.append(f'{place}.model: expected "Endpoint/model", got {model!r}')
    numbers = {key: _price(table.get(key), f"{place}.{key}", problems) for key in NUMBERS if key in table}
    missing = [key for key in ("input", "output") if key not in table]
    problems += [f"{place}.{key}: needed, expected a number of the currency's units" for key in missing]
    begins = table.get("from")
    if begins is not None and (not isinstance(begins, date) or isinstance(begins, datetime)):
        problems.append(f"{place}.from: expected a date like 2026-11-01, without quotes, got {begins!r}")
    if len(problems) > before:
        return None
    return PriceSettings(
        model=str(model), begins=begins, **{key: value or 0 for key, value in numbers.items()}
    )


def is_glob(text: str) -> bool:
    """Whether a text is "Endpoint/model", with or without asterisks."""
    return all(text.partition("/")) and len(text) <= MAX_LENGTH and text.isprintable()


def _price(value: Any, place: str, problems: list[str]) -> int | None:
    expected = (
        f"expected a number from 0 to {MAX_PRICE // 10**PLACES} with at most {PLACES} places, got {value!r}"
    )
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not 0 <= value <= MAX_PRICE // 10**PLACES
    ):
        problems.append(f"{place}: {expected}")
        return None
    billionths = Decimal(repr(value)).scaleb(PLACES)
    if billionths != int(billionths):
        problems.append(f"{place}: {expected}")
        return None
    return int(billionths)
