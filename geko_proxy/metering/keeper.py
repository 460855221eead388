"""Keeps the leases of running turns alive, settles what could not be settled, and recovers the turns of dead instances.

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
from geko_proxy.metering.leases import Lease, Leases, TurnState
from geko_proxy.metering.ledger import Charge

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
    def so_far(self) -> int:
        """Tokens used until now, stored for the case that this instance dies."""


class _Settlement(NamedTuple):
    lease: Lease
    state: TurnState
    charges: Sequence[Charge]


class LeaseKeeper:
    """Looks after the leases of one instance. running: its turns, asked for at each heartbeat."""

    def __init__(
        self,
        leases: Leases,
        running: Callable[[], Iterable[RunningTurn]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leases = leases
        self._running = running
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

    async def settle(self, lease: Lease, state: TurnState, charges: Sequence[Charge]) -> None:
        """Settle a turn; when the database is away, as soon as it is back. `Leases.settle` may be repeated."""
        try:
            await self._leases.settle(lease, state, charges)
        except StoreError as error:
            log.warning("turn %s: settled later: %s", lease.turn_id, error)
            self._unsettled.append(_Settlement(lease, state, charges))

    async def tick(self) -> None:
        """Settle what waits, and send the heartbeats that are due. Raises StoreError."""
        await self._settle_left()
        turns = {turn.lease.turn_id: turn for turn in self._running()}
        self._beaten = {turn_id: at for turn_id, at in self._beaten.items() if turn_id in turns}
        now = self._clock()
        for turn_id, turn in turns.items():
            if now - self._beaten.get(turn_id, -inf) >= HEARTBEAT_S:
                await self._leases.heartbeat(turn.lease, turn.so_far)
                self._beaten[turn_id] = now

    async def recover(self) -> int:
        """Settle the turns of dead instances, unless the database was away a moment ago. Raises StoreError."""
        if self._clock() < self._trust_from:
            return 0
        count = await self._leases.recover_expired()
        if count:
            log.warning("settled %d turns of an instance that went away", count)
        return count

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
