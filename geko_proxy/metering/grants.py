"""A running turn's lease against what it has used: when to count, when to ask for more, and how much.

Tokens and, where a limit in money holds, their cost. No I/O: the quota filter acts on what it says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from geko_proxy.metering.leases import BY_CALLS, Amount, Granted, Lease, NewTurn
from geko_proxy.metering.ledger import Charge
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.metering.limits import Hold, Limit, Unit
from geko_proxy.metering.meter import TurnMeter
from geko_proxy.metering.prices import PER, Price, PriceTable

MAX_STEPS: Final = 8  # a top-up grows to so many steps
STEP_S: Final = 4.0
MIN_SPAN_S: Final = 0.05
SHARE: Final = 64
MAX_RESERVE: Final = 100  # tokens
NEVER: Final = 2**62
COUNT_STEP: Final = 64  # bytes of text, at least, between two counts while the grant is not in danger


class Pricing:
    """What a turn costs. price: of the model it was started with, if it has one. limited: a limit in money holds."""

    __slots__ = ("limited", "price", "table", "turn")

    def __init__(self, turn: NewTurn, holds: Sequence[Hold], table: PriceTable) -> None:
        self.table = table
        self.turn = turn
        self.price: Price | None = table.find(turn.endpoint, turn.model, turn.started_at)
        self.limited = any(hold.unit is Unit.COST for hold in holds)

    def of_text(self, prompt: int, output: int) -> int:
        """What so many tokens come to; 0 when no limit in money holds."""
        return self.price.of_text(prompt, output) if self.limited and self.price is not None else 0

    def so_far(self, meter: TurnMeter) -> int:
        """What the turn has cost until now; 0 when no limit in money holds."""
        if not self.limited or self.price is None:
            return 0
        return sum(charge.cost for charge in self.priced(meter.charges)) + self.price.of_text(*meter.pending)

    def priced(self, charges: Iterable[Charge]) -> list[Charge]:
        """The charges with what they cost."""
        turn = self.turn
        place = (turn.endpoint, turn.model, turn.started_at)
        return [self.table.priced(charge, *place) for charge in charges]


class MeteredTurn:
    """One answer: its lease, its meter, and what became of it. need: its prompt's estimate, in tokens."""

    __slots__ = (
        "_mark",
        "ahead",
        "by_calls",
        "clock",
        "dry",
        "final",
        "granted",
        "lease",
        "limits",
        "look_at",
        "meter",
        "need",
        "outcome",
        "pricing",
        "recovering",
        "seen",
        "started",
        "step",
    )

    def __init__(
        self,
        lease: Lease,
        meter: TurnMeter,
        step: int,
        need: int,
        pricing: Pricing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self._mark = (clock(), meter.consumed)
        self.step = step
        self.need = need
        self.pricing = pricing
        self.ahead: asyncio.Task[None] | None = None  # the top-up that is under way while the answer goes on
        self.dry = False  # there was less than a step left: nothing is leased ahead any more
        self.lease = lease
        self.meter = meter
        self.granted = lease.granted
        self.started = False
        self.by_calls = False  # its model calls are leased and charged, and it is only watched
        self.recovering = False  # it was begun by an instance that has vanished
        self.limits: Sequence[Limit] = ()  # as they were when it last looked, and
        self.seen: object = None  # which state of them that was
        self.final: dict[str, Any] | None = None
        self.outcome = Outcome.FAILED
        self.look_at = 0
        self.look_later()

    @property
    def consumed(self) -> Amount:
        """What the answer has used until now."""
        return Amount(self.meter.consumed, self.pricing.so_far(self.meter))

    @property
    def so_far(self) -> Amount:
        """As `consumed`; before LibreChat tells the size of the prompt, its estimate."""
        consumed = self.consumed
        return consumed if consumed.tokens else Amount(self.need, self.pricing.of_text(self.need, 0))

    @property
    def missing(self) -> Amount:
        """What was used beyond the grant."""
        consumed = self.consumed
        return Amount(
            max(0, consumed.tokens - self.granted.tokens), max(0, consumed.cost - self.granted.cost)
        )

    @property
    def left(self) -> int:
        """Tokens that may still be passed on; below 0: more was used than granted."""
        left = self.granted.tokens - self.meter.consumed
        price = self.pricing.price
        if self.pricing.limited and price is not None and price.highest:
            left = min(left, (self.granted.cost - self.pricing.so_far(self.meter)) * PER // price.highest)
        return left

    @property
    def reserve(self) -> int:
        """Tokens that are left when more is leased: about a second of a fast model."""
        return min(self.step // 2, MAX_RESERVE)

    def step_amount(self) -> Amount:
        """What a top-up asks for beyond what is missing."""
        return Amount(self.step, self.pricing.of_text(0, self.step))

    def look_later(self) -> None:
        """Set `look_at`: what the meter's upper bound must pass before counting is worth while again."""
        if self.by_calls:
            self.look_at = NEVER
            return
        early = 0 if self.dry or self.ahead is not None else self.reserve
        left = self.left
        self.look_at = self.meter.consumed + min(left, max(left - early, COUNT_STEP))

    def within(self, charges: Sequence[Charge]) -> list[Charge]:
        """The charges of a cut answer: what was counted but not passed on is taken off the estimates."""
        over = max(0, sum(charge.tokens for charge in charges) - self.granted.tokens)
        kept: list[Charge] = []
        for charge in charges:
            less = min(over, charge.output_tokens) if charge.estimated else 0
            over -= less
            kept.append(replace(charge, output_tokens=charge.output_tokens - less) if less else charge)
        return self._within_money(kept)

    def _within_money(self, charges: list[Charge]) -> list[Charge]:
        price = self.pricing.price
        if not self.pricing.limited or price is None or not price.output:
            return charges
        over = sum(charge.cost for charge in self.pricing.priced(charges)) - self.granted.cost
        kept: list[Charge] = []
        for charge in charges:
            less = 0
            if over > 0 and charge.estimated:
                less = min(-(-over * PER // price.output), charge.output_tokens)
                over -= less * price.output // PER
            kept.append(replace(charge, output_tokens=charge.output_tokens - less) if less else charge)
        return kept

    def add(self, wanted: Amount, granted: Granted, first_step: int) -> None:
        """Book a top-up, and set the next step: what the answer needs in STEP_S at its speed, but not more than a
        SHARE of what is left, which others want too."""
        if granted.room == BY_CALLS:
            self.by_calls = True
            self.look_later()
            return
        self.granted = Amount(self.granted.tokens + granted.tokens, self.granted.cost + granted.cost)
        self.dry = granted.tokens < wanted.tokens or granted.cost < wanted.cost
        self.step = first_step
        if not self.dry:
            most = first_step * MAX_STEPS if granted.room is None else granted.room // SHARE
            self.step = max(first_step, min(self._lately(), most, first_step * MAX_STEPS))
        self.look_later()

    def hold(self, holds: Sequence[Hold]) -> None:
        """Book that the turn counts in more windows; from the first one in money on, its cost is counted too."""
        every = tuple(dict.fromkeys((*self.lease.holds, *holds)))
        self.lease.holds = every
        if not self.pricing.limited:
            self.pricing = Pricing(self.lease.turn, every, self.pricing.table)
            self.look_later()

    def take_spare(self) -> Amount:
        """Take what is not used off the grant: it may be given back. Followed by `keep`."""
        granted, consumed = self.granted, self.consumed
        spare = Amount(max(0, granted.tokens - consumed.tokens), max(0, granted.cost - consumed.cost))
        self.granted = Amount(granted.tokens - spare.tokens, granted.cost - spare.cost)
        return spare

    def keep(self, spare: Amount, given: Amount) -> None:
        """Book that so much of the spare was given back, and the rest is granted still."""
        kept = Amount(spare.tokens - given.tokens, spare.cost - given.cost)
        self.granted = Amount(self.granted.tokens + kept.tokens, self.granted.cost + kept.cost)
        self.dry = self.dry or given != Amount(0)
        self.look_later()

    def _lately(self) -> int:
        """What the answer needs in STEP_S, by its speed since the last top-up."""
        now, consumed = self.clock(), self.meter.consumed
        (at, before), self._mark = self._mark, (now, consumed)
        return int((consumed - before) * STEP_S / max(now - at, MIN_SPAN_S))
