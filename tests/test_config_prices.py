"""[metering] and [[prices]]: exact amounts, and every problem with its place."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from geko_proxy.config import ConfigError, Settings, load_settings
from geko_proxy.config.price_entries import PriceSettings


def load(tmp_path: Path, toml: str) -> Settings:
    path = tmp_path / "geko.toml"
    path.write_text(f"version = 1\n{toml}")
    return load_settings(path, {}, None)


def test_prices_are_read_to_the_billionth(tmp_path: Path) -> None:
    toml = """
        [metering]
        currency = "EUR"
        [[prices]]
        model = "openAI/gpt-4o*"
        input = 2.5
        output = 10
        cached = 0.000000001
        [[prices]]
        model = "openAI/gpt-4o*"
        input = 0.1
        output = 0
        reasoning = 0
        from = 2026-11-01
    """
    settings = load(tmp_path, toml)
    assert settings.metering.currency == "EUR"
    assert settings.prices == (
        PriceSettings(model="openAI/gpt-4o*", input=25 * 10**8, output=10**10, cached=1),
        PriceSettings(model="openAI/gpt-4o*", input=10**8, output=0, reasoning=0, begins=date(2026, 11, 1)),
    )
    assert load(tmp_path, "").prices == ()


def test_all_problems_are_reported_together(tmp_path: Path) -> None:
    toml = """
        [metering]
        currency = "euro"
        [[prices]]
        modl = "x"
        input = "2"
        output = -1
        [[prices]]
        model = "gpt-4o"
        input = true
        output = 1e-10
        cached = nan
        reasoning = 1000001
        from = "2026-11-01"
        [[prices]]
        model = "A/x"
        input = 1
        output = 1
        from = 2026-11-01
        [[prices]]
        model = "A/x"
        input = 2
        output = 2
        from = 2026-11-01
        [[prices]]
        model = "A/y"
        input = 2
        output = 2
        from = 2026-11-01T10:00:00
    """
    with pytest.raises(ConfigError) as found:
        load(tmp_path, toml)
    problems = [each.replace(f"{tmp_path}/geko.toml: ", "") for each in found.value.problems]
    assert [problem.partition(": ")[0] for problem in problems] == [
        "metering.currency",
        "prices[0].modl",
        "prices[0].model",
        "prices[0].input",
        "prices[0].output",
        "prices[1].model",
        "prices[1].input",
        "prices[1].output",
        "prices[1].cached",
        "prices[1].reasoning",
        "prices[1].from",
        "prices[3]",
        "prices[4].from",
    ]
    assert "did you mean model" in problems[1]
    assert "twice" in problems[-2]


@pytest.mark.parametrize(
    ("toml", "place"),
    [
        ("prices = 3", "prices: "),
        ("prices = [3]", "prices[0]: "),
        ('[[prices]]\nmodel = "A/x"\ninput = 1', "output"),
    ],
)
def test_what_is_no_price(tmp_path: Path, toml: str, place: str) -> None:
    with pytest.raises(ConfigError, match=r"prices") as found:
        load(tmp_path, toml)
    (problem,) = found.value.problems
    assert place in problem
