"""Circuit breaker: what keeps failing is left alone for a while, then tried by a single call.

M. Nygard, Release It!, "Circuit Breaker". No I/O and no clock of its own: `now` is any steady time in seconds.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass
from typing import Final

WINDOW_S: Final = 30.0
WINDOW_CALLS: Final = 100  # most outcomes that are remembered
MIN_CALLS: Final = 20  # before a share of failures means anything
MAX_GROWTH: Final = 5  # doublings of the cool-down


class State(enum.Enum):
    """Closed: calls pass. Open: none. Half-open: one probe is on its way."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class BreakerOptions:
    """failures: in a row, that open it; share: of the calls in the window, that opens it; cooldown_s: the first one."""

    failures: int = 5
    share: float = 0.5
    cooldown_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Pass:
    """Leave for one call. epoch: in which it was given; what is said of an older one no longer counts."""

    epoch: int
    probe: bool = False


class Breaker:
    """One circuit. Every `Pass` that `enter` gives is handed to exactly one of `succeeded`, `failed`, `left`."""

    __slots__ = ("_epoch", "_in_a_row", "_openings", "_options", "_outcomes", "_retry_at", "state")

    def __init__(self, options: BreakerOptions) -> None:
        self.state = State.CLOSED
        self._options = options
        self._epoch = 0
        self._in_a_row = 0
        self._openings = 0  # without a success between them
        self._retry_at = 0.0
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=WINDOW_CALLS)

    def admits(self, now: float) -> bool:
        """Whether `enter` would give a pass."""
        return self.state is State.CLOSED or (self.state is State.OPEN and now >= self._retry_at)

    def wait_s(self, now: float) -> float:
        """Seconds until a call may be tried; 0: now, or as soon as the probe has its answer."""
        return max(0.0, self._retry_at - now) if self.state is State.OPEN else 0.0

    def enter(self, now: float) -> Pass | None:
        """Leave for a call; None while the circuit is open."""
        if self.state is State.CLOSED:
            return Pass(self._epoch)
        if not self.admits(now):
            return None
        self._change(State.HALF_OPEN)
        return Pass(self._epoch, probe=True)

    def succeeded(self, given: Pass, now: float) -> None:
        """The call was answered."""
        if given.epoch != self._epoch:
            return
        if given.probe:
            self._change(State.CLOSED)
            self._openings = 0
            self._outcomes.clear()
        self._in_a_row = 0
        self._outcomes.append((now, True))

    def failed(self, given: Pass, now: float) -> None:
        """The call failed, by the fault of the deployment."""
        if given.epoch != self._epoch:
            return
        self._in_a_row += 1
        self._outcomes.append((now, False))
        if given.probe or self._in_a_row >= self._options.failures or self._mostly_fails(now):
            self._open(now)

    def broke_off(self, now: float) -> None:
        """A call that was answered has failed after all; says nothing while the circuit is not closed."""
        if self.state is State.CLOSED:
            self.failed(Pass(self._epoch), now)

    def left(self, given: Pass) -> None:
        """The call ended without saying anything of the deployment: the caller left, or there was no room for it."""
        if given.probe and given.epoch == self._epoch:
            self._change(State.OPEN)  # its cool-down is over: the next call is the probe

    def _open(self, now: float) -> None:
        self._retry_at = now + self._options.cooldown_s * 2 ** min(self._openings, MAX_GROWTH)
        self._openings += 1
        self._in_a_row = 0
        self._outcomes.clear()
        self._change(State.OPEN)

    def _change(self, state: State) -> None:
        self.state = state
        self._epoch += 1

    def _mostly_fails(self, now: float) -> bool:
        while self._outcomes and self._outcomes[0][0] < now - WINDOW_S:
            self._outcomes.popleft()
        calls = len(self._outcomes)
        failures = sum(not succeeded for _, succeeded in self._outcomes)
        return calls >= MIN_CALLS and failures >= calls * self._options.share
