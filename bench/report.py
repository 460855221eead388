"""The bench's output: a Markdown table for people, and one JSON object for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.cores import Cores
from bench.measure import MEASUREMENTS, OFFERED_PER_S, STREAMS, Figures

TITLES = {
    "direct": "LibreChat's stand-in alone",
    "nginx": "nginx, one worker",
    "naive": "naive aiohttp pass-through",
    "geko": "GEKO, all filters on",
}
Rounds = Mapping[str, Mapping[str, Sequence[Figures]]]
Results = dict[str, dict[str, Figures] | None]


def best(rounds: Sequence[Figures]) -> Figures:
    """The round that was disturbed least: noise on a machine only ever takes away."""
    return max(rounds, key=_rank)


def _rank(figures: Figures) -> tuple[float, int, float]:
    """Of paced rounds the one that carried most, then the quickest; of others the one with most per second."""
    if "share" in figures:
        return figures["share"], -figures["bad"], -(figures["p99_ms"] or 0)
    return 1, -figures["bad"], figures["per_s"]


def results(rounds: Rounds) -> Results:
    """The best round of every measurement; None for what is not installed."""
    return {
        name: {what: best(each) for what, each in measured.items()} if measured else None
        for name, measured in rounds.items()
    }


def summary(
    rounds: Rounds, machine: Mapping[str, object], cores: Cores, problems: Sequence[str]
) -> dict[str, Any]:
    """All figures, as the last line of output shows them."""
    found = results(rounds)
    direct, geko = found.get("direct"), found.get("geko")
    return {
        "machine": dict(machine),
        "cores": {"proxy": cores.measured, "upstream": cores.upstream, "load": list(cores.load)},
        "offered_events_per_s": OFFERED_PER_S,
        "results": found,
        "geko_to_naive": ratios(geko, found.get("naive")),
        "geko_to_nginx": ratios(geko, found.get("nginx")),
        "direct_to_geko": ratios(direct, geko),
        "rounds": {
            name: {what: [figures["per_s"] for figures in each] for what, each in measured.items()}
            for name, measured in rounds.items()
        },
        "problems": [*cores.notes, *problems],
    }


def ratios(one: Mapping[str, Figures] | None, other: Mapping[str, Figures] | None) -> dict[str, float] | None:
    """How many times the figures of the other the one reaches; None where either was not measured."""
    if not one or not other:
        return None
    return {
        each.name: round(one[each.name]["per_s"] / other[each.name]["per_s"], 2)
        for each in MEASUREMENTS
        if each.name in one and each.name in other and other[each.name]["per_s"]
    }


def table(found: Results, machine: Mapping[str, object], notes: Sequence[str]) -> str:
    """The table for the README, with what it was measured on; empty where nothing of this side was measured."""
    if not found.keys() & TITLES.keys():
        return ""
    lines = [
        "| | JSON requests/s, 32 connections | 128 connections |"
        f" paced events/s of {OFFERED_PER_S:,} | latency p50 / p99 | bad streams |"
        " unpaced events/s | chat starts/s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        *(_row(TITLES[name], measured) for name, measured in found.items() if name in TITLES),
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}. Every proxy has"
        f" one core of its own. Paced: {STREAMS} answers at once, 50 words a second each; latency from the upstream's"
        " write to the client's read. GEKO's streams are chats, signed in, metered and held to a quota in PostgreSQL;"
        " its access log is off and its rate limit counts but does not refuse. The best of several interleaved"
        " rounds; the last two columns were measured once.",
        *notes,
    ]
    return "\n".join(lines)


def _row(title: str, measured: Mapping[str, Figures] | None) -> str:
    if measured is None:
        why = "not installed" if title == TITLES["nginx"] else "did not start"
        return f"| {title} | {why} |" + " |" * 6
    paced = measured.get("paced", {})
    latency = f"{paced['p50_ms']} / {paced['p99_ms']} ms" if paced.get("p50_ms") is not None else "–"
    bad = f"{paced['bad']}" if paced else "–"
    carried = f"{paced['per_s']:,} ({paced['share']:.1%})" if paced else "–"
    number = {name: f"{figures['per_s']:,}" for name, figures in measured.items()}
    cells = [
        number.get("json_32", "–"),
        number.get("json_128", "–"),
        carried,
        latency,
        bad,
        number.get("unpaced", "–"),
        number.get("starts", "–"),
    ]
    return f"| {title} | " + " | ".join(cells) + " |"
