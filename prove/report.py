"""What came of the scenarios: one Markdown table for people, one JSON object for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- prove:begin -->", "<!-- prove:end -->"
HEAD = (
    "scenario", "turns", "limit", "provider", "charged", "difference", "overshoot", "false refusals", "lost", "time",
    "result",
)  # fmt: skip


@dataclass
class Row:
    """One scenario. All amounts are tokens; None: says nothing here.

    provider: what the provider produced, which it reported for turns that ended normally. overshoot: how far that is
    above the limit. false_refusals: refused while more than 2 % of the quota was free and unleased. lost: turns that
    produced tokens and were charged none. failures: criteria that were not met, in words; notes: what else was seen.
    """

    scenario: str
    turns: int
    limit: int | None = None
    provider: int | None = None
    charged: int | None = None
    overshoot: int | None = None
    false_refusals: int | None = None
    lost: int | None = None
    time_s: float = 0.0
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def difference(self) -> int | None:
        """Charged less produced."""
        return None if self.provider is None or self.charged is None else self.charged - self.provider

    def expect(self, met: bool, failure: str) -> None:
        """Note a criterion that is not met."""
        if not met:
            self.failures.append(failure)


def table(rows: Sequence[Row]) -> str:
    """The Markdown table."""
    lines = ["| " + " | ".join(HEAD) + " |", "|---|" + "---:|" * (len(HEAD) - 2) + "---|"]
    return "\n".join([*lines, *("| " + " | ".join(_cells(row)) + " |" for row in rows)])


def details(rows: Sequence[Row]) -> str:
    """What failed and what was seen, for below the table."""
    lines: list[str] = []
    for row in rows:
        lines += [f"\n{row.scenario}:"] if row.failures or row.notes else []
        lines += [f"- NOT MET: {failure}" for failure in row.failures]
        lines += [f"- {note}" for note in row.notes]
    return "\n".join(lines).strip()


def put_between(path: Path, text: str) -> None:
    """Replace what stands between the marks of a page. Raises ValueError when they are not there."""
    page = path.read_text("utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path}: no {BEGIN} or no {END}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", "utf-8")


def _cells(row: Row) -> list[str]:
    amounts = (row.turns, row.limit, row.provider, row.charged, row.difference, row.overshoot)
    counts = (row.false_refusals, row.lost)
    shown = ["" if each is None else f"{each:,}".replace(",", " ") for each in (*amounts, *counts)]
    return [row.scenario, *shown, f"{row.time_s:.1f} s", "met" if not row.failures else "NOT MET"]


def summary(rows: Sequence[Row], **about: Any) -> dict[str, Any]:
    """All of it for programs."""
    return {
        **about,
        "met": not any(row.failures for row in rows),
        "scenarios": [{**asdict(row), "difference": row.difference} for row in rows],
    }
