"""The life of a turn as a state machine: admitted → running → cut → settled, or lost → recovered.

It is kept in the table turns, so that any instance can take a turn over; the functions in sql/ make the steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class TurnState(StrEnum):
    """Where a turn is.

    ADMITTED: it holds a lease, and is being sent to LibreChat. RUNNING: LibreChat has taken it. CUT: a limit left no
    room for more, the answer is being ended. SETTLED: charged, the end. LOST: its instance vanished, another one has
    taken it over. RECOVERED: charged by that one; its own instance may still settle it, which corrects the charge.
    """

    ADMITTED = "admitted"
    RUNNING = "running"
    CUT = "cut"
    LOST = "lost"
    SETTLED = "settled"
    RECOVERED = "recovered"


class Outcome(StrEnum):
    """What became of a turn's answer.

    CUT: ended for a limit. REFUSED: LibreChat did not take the message. LOST: its instance vanished.
    """

    DONE = "done"
    ABORTED = "aborted"
    CUT = "cut"
    FAILED = "failed"
    REFUSED = "refused"
    LOST = "lost"


STEPS: Final[Mapping[TurnState, frozenset[TurnState]]] = {
    TurnState.ADMITTED: frozenset({TurnState.RUNNING, TurnState.CUT, TurnState.LOST, TurnState.SETTLED}),
    TurnState.RUNNING: frozenset({TurnState.CUT, TurnState.LOST, TurnState.SETTLED}),
    TurnState.CUT: frozenset({TurnState.LOST, TurnState.RECOVERED, TurnState.SETTLED}),
    TurnState.LOST: frozenset({TurnState.CUT, TurnState.LOST, TurnState.RECOVERED, TurnState.SETTLED}),
    TurnState.RECOVERED: frozenset({TurnState.SETTLED}),
    TurnState.SETTLED: frozenset(),
}
"""The states that may follow each state. CUT after LOST: a limit has no room for the rest, whoever reads it."""

ENDED: Final = frozenset({TurnState.SETTLED, TurnState.RECOVERED})
"""A turn in these holds no lease, and its conversation may go on."""
