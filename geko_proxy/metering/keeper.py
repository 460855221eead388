"""Keeps the leases of running turns alive, and settles what could not be settled.

The times belong together: a lease lives 12 s without a heartbeat, which allows three to be missed, and `recovery`
looks for expired ones every 2 s, so another instance takes the turns of one that was killed after 14 s at most.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from math import inf
from typing import Final, Protocol
from uuid import UUID

from geko_proxy.errors import StoreError
from geko_proxy.metering.journal import Journal
from geko_proxy.metering.leases import Amount, Lease, Leases
from geko_proxy.metering.ledger import Charge
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.metering.settlements import Settlement

log = logging.getLogger(__name__)

# A turn has its first heartbeat after so long: a dead instance's youngest turns cost something too.
TICK_S: Final = 1.0
HEARTBEAT_S: Final = 3.0


class RunningTurn(Protocol):
    """What is asked of a turn that runs here."""

    @property
    def lease(self) -> Lease: ...  # a field

    @property
    def so_far(self) -> Amount:
        """What was used until now, stored for the case that this instance dies."""


async def nothing() -> None:
    """The default of what is done at each tick."""


class LeaseKeeper:
    """Looks after the leases of one instance.

    running: its turns, asked for at each heartbeat. on_tick: awaited each second, may raise StoreError. journal: where
    settlements wait for the database.
    """

    def __init__(
        self,
        leases: Leases,
        running: Callable[[], Iterable[RunningTurn]],
        on_tick: Callable[[], Awaitable[None]] = nothing,
        clock: Callable[[], float] = time.monotonic,
        journal: Journal | None = None,
    ) -> None:
        self._leases = leases
        self._running = running
        self._on_tick = on_tick
        self._clock = clock
        self._beaten: dict[UUID, float] = {}
        self._journal = journal or Journal(None)
        self._unsettled: list[Settlement] = []
        self._away = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; what dead instances have left on this disk is settled too."""
        self._unsettled += await self._journal.open()
        self._task = asyncio.create_task(self._every(TICK_S, self.tick), name="lease heartbeats")

    async def stop(self) -> None:
        """End, after a last try to settle what is left."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            await self._settle_left()
        except StoreError as error:
            log.error("%d turns are left to the next start, or to recovery: %s", len(self._unsettled), error)
        await self._journal.close()

    async def settle(
        self, lease: Lease, outcome: Outcome, charges: Sequence[Charge], *, recovering: bool = False
    ) -> None:
        """Settle a turn; when the database is away, as soon as it is back. `Leases.settle` may be repeated.

        Returns when it is on disk: in the database, or in the journal.
        """
        try:
            await self._leases.settle(lease, outcome, charges, recovering=recovering)
        except StoreError as error:
            log.warning("turn %s: settled later: %s", lease.turn_id, error)
            settlement = Settlement(lease, outcome, charges, recovering)
            self._unsettled.append(settlement)
            await self._journal.add(settlement)

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
            for turn in tuple(self._running()):
                if turn.lease.turn_id in gone:
                    await self._lease_gone(turn)

    async def _lease_gone(self, turn: RunningTurn) -> None:
        if not await self._leases.restore(turn.lease, turn.so_far, turn.so_far):
            log.warning("turn %s: its lease is gone; it is corrected when it ends", turn.lease.turn_id)

    async def _settle(self, settlement: Settlement) -> None:
        lease, outcome, charges = settlement.lease, settlement.outcome, settlement.charges
        await self._leases.settle(lease, outcome, charges, recovering=settlement.recovering)

    async def _settle_left(self) -> None:
        while self._unsettled:
            settlement = self._unsettled[0]
            try:
                await self._settle(settlement)
            except StoreError:
                raise
            except Exception:  # one that the database does not take must not hold up the others
                log.exception("turn %s can't be settled: %s", settlement.turn_id, settlement)
            del self._unsettled[0]
            await self._journal.remove(settlement.turn_id)

    async def _every(self, seconds: float, work: Callable[[], Awaitable[object]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await work()
                self._away = False
            except StoreError as error:
                if not self._away:
                    log.warning("leases can't be looked after: %s", error)
                self._away = True
            except Exception:
                log.exception("looking after leases failed")
