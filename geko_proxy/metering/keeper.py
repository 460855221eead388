"""Keeps the leases of running turns alive, settles what could not be settled, takes over turns of dead instances.

The times belong together: a lease lives 20 s without a heartbeat and is looked for every 5 s, so the turns of an
instance that was killed are settled within 25 s and a moment.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from math import inf
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from geko_proxy.errors import StoreError
from geko_proxy.metering.leases import Adopted, Amount, Lease, Leases
from geko_proxy.metering.ledger import Charge, Source
from geko_proxy.metering.lifecycle import Outcome

log = logging.getLogger(__name__)

TICK_S: Final = (
    1.0  # a turn has its first heartbeat after so long: a dead instance's youngest turns cost something too
)
HEARTBEAT_S: Final = 5.0
RECOVERY_S: Final = 5.0
GRACE_S: Final = (
    10.0  # after the database was away: everybody's leases are old then, and everybody beats first
)


class RunningTurn(Protocol):
    """What is asked of a turn that runs here."""

    @property
    def lease(self) -> Lease: ...  # a field

    @property
    def so_far(self) -> Amount:
        """What was used until now, stored for the case that this instance dies."""


class _Settlement(NamedTuple):
    lease: Lease
    outcome: Outcome
    charges: Sequence[Charge]


async def nothing() -> None:
    """The default of what is done at each tick."""


class LeaseKeeper:
    """Looks after the leases of one instance.

    running: its turns, asked for at each heartbeat. on_tick: awaited each second, may raise StoreError.
    """

    def __init__(
        self,
        leases: Leases,
        running: Callable[[], Iterable[RunningTurn]],
        on_tick: Callable[[], Awaitable[None]] = nothing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leases = leases
        self._running = running
        self._on_tick = on_tick
        self._clock = clock
        self._beaten: dict[UUID, float] = {}
        self._unsettled: list[_Settlement] = []
        self._trust_from = clock()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin."""
        self._tasks = [
            asyncio.create_task(self._every(TICK_S, self.tick), name="lease heartbeats"),
            asyncio.create_task(self._every(RECOVERY_S, self.recover), name="lease recovery"),
        ]

    async def stop(self) -> None:
        """End, after a last try to settle what is left."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self._settle_left()
        except StoreError as error:
            log.error("%d turns are left to recovery: %s", len(self._unsettled), error)

    async def settle(self, lease: Lease, outcome: Outcome, charges: Sequence[Charge]) -> None:
        """Settle a turn; when the database is away, as soon as it is back. `Leases.settle` may be repeated."""
        try:
            await self._leases.settle(lease, outcome, charges)
        except StoreError as error:
            log.warning("turn %s: settled later: %s", lease.turn_id, error)
            self._unsettled.append(_Settlement(lease, outcome, charges))

    async def tick(self) -> None:
        """Settle what waits, and send the heartbeats that are due. Raises StoreError."""
        await self._settle_left()
        await self._on_tick()
        turns = {turn.lease.turn_id: turn for turn in self._running()}
        self._beaten = {turn_id: at for turn_id, at in self._beaten.items() if turn_id in turns}
        now = self._clock()
        due: dict[UUID, dict[UUID, Amount]] = {}
        for turn_id, turn in turns.items():
            if now - self._beaten.get(turn_id, -inf) >= HEARTBEAT_S:
                due.setdefault(turn.lease.tenant_id, {})[turn_id] = turn.so_far
        for tenant_id, consumed in due.items():
            gone = await self._leases.heartbeat(tenant_id, consumed)
            self._beaten.update(dict.fromkeys(consumed, now))
            for turn_id in gone & {turn.lease.turn_id for turn in self._running()}:
                log.warning("turn %s: its lease is gone; it is corrected when it ends", turn_id)

    async def recover(self) -> int:
        """Settle the turns of dead instances, unless the database was away a moment ago. Raises StoreError."""
        if self._clock() < self._trust_from:
            return 0
        adopted = await self._leases.adopt()
        for each in adopted:
            await self._leases.settle(each.lease, Outcome.LOST, charges_of(each), recovering=True)
            log.warning(
                "turn %s: its instance has vanished, charged by its last heartbeat", each.lease.turn_id
            )
        return len(adopted)

    async def _settle_left(self) -> None:
        while self._unsettled:
            await self._leases.settle(*self._unsettled[0])
            del self._unsettled[0]

    async def _every(self, seconds: float, work: Callable[[], Awaitable[object]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await work()
            except StoreError as error:
                if self._clock() >= self._trust_from:
                    log.warning("leases can't be looked after: %s", error)
                self._trust_from = self._clock() + GRACE_S
            except Exception:
                log.exception("looking after leases failed")


def charges_of(adopted: Adopted) -> list[Charge]:
    """What a turn's last heartbeat said, as a charge."""
    turn, consumed = adopted.lease.turn, adopted.consumed
    if not consumed.tokens:
        return []
    return [
        Charge(
            "geko",
            -1,
            "chat",
            turn.model,
            "",
            0,
            consumed.tokens,
            estimated=True,
            source=Source.RECOVERED,
            cost=consumed.cost,
        )
    ]
