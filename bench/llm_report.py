"""The second table of the bench's output: model calls through GEKO's LLM side, beside LiteLLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.litellm import VERSION
from bench.measure import GAP_MS, LLM_FEW, LLM_MANY, LLM_MEASUREMENTS, Figures
from bench.report import Results, Rounds

TITLES = {
    "llm-direct": "the provider's stand-in alone",
    "llm-naive": "naive aiohttp pass-through, no key",
    "llm-passing": "GEKO: key, workspace, models",
    "llm-metered": "GEKO: all of it, leased, metered, charged",
    "llm-litellm": f"LiteLLM {VERSION}: master key",
}
PER_S = 1000 // GAP_MS


def ratios(rounds: Rounds) -> dict[str, dict[str, float]]:
    """How many times LiteLLM's best round GEKO's best one reaches, for each second of processor time."""
    other = rounds.get("llm-litellm", {})
    return {
        f"{name}_to_litellm": {
            each.name: round(_rate(mine[each.name]) / _rate(other[each.name]), 1)
            for each in LLM_MEASUREMENTS
            if each.name in mine and _rate(other.get(each.name, ()))
        }
        for name in ("llm-passing", "llm-metered")
        if (mine := rounds.get(name)) and other
    }


def _rate(rounds: Sequence[Figures]) -> float:
    return max([figures.get("per_core_s", 0) for figures in rounds], default=0)


def table(found: Results) -> str:
    """The table for the README; empty where nothing of this side was measured."""
    rows = {name: found[name] for name in TITLES if name in found}
    if not rows:
        return ""
    direct = rows.get("llm-direct") or {}
    lines = [
        "| Model calls | calls/s, 32 connections | a core's second |"
        f" {LLM_FEW} streams: added to an event, p50 / p99 | to the first token, p50 / p99 |"
        f" {LLM_MANY} streams: events/s of {LLM_MANY * PER_S:,} | added to an event | to the first token |"
        " unpaced events/s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(_row(TITLES[name], measured, direct) for name, measured in rows.items()),
        "",
        f"Chat completions, not streamed; then streams of {PER_S} events a second each, and meanwhile short ones for"
        " the time to the first token. Added: to what the load generator sees of the stand-in alone, which the first"
        " row shows. *A core's second*: calls for each second of processor time that the proxy used, which"
        " neighbours on the machine disturb less.",
    ]
    return "\n".join(lines)


def _row(title: str, measured: Mapping[str, Figures] | None, direct: Mapping[str, Figures]) -> str:
    if not measured:
        return f"| {title} | not installed |" + " |" * 7
    base = {} if measured is direct else direct
    calls, unpaced = measured.get("calls_32", {}), measured.get("unpaced_calls", {})
    few, many = measured.get("few", {}), measured.get("many", {})
    cells = [
        _number(calls.get("per_s")),
        _number(calls.get("per_core_s")),
        _added(few, base.get("few", {}), ""),
        _added(few, base.get("few", {}), "first_"),
        f"{many['per_s']:,} ({many['share']:.1%})" if many else "–",
        _added(many, base.get("many", {}), ""),
        _added(many, base.get("many", {}), "first_"),
        _number(unpaced.get("per_s")),
    ]
    return f"| {title} | " + " | ".join(cells) + " |"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,}"


def _added(figures: Figures, base: Figures, what: str) -> str:
    names = (f"{what}p50_ms", f"{what}p99_ms")
    if any(figures.get(name) is None for name in names):
        return "–"
    parts = [max(0.0, figures[name] - (base.get(name) or 0.0)) for name in names]
    return " / ".join(f"{part:.2f}" for part in parts) + " ms"
