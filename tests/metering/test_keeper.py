"""Leases that are kept while turns run, and turns that the database could not settle."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from uuid import UUID, uuid4

import pytest

from geko_proxy.errors import StoreError
from geko_proxy.metering.journal import Journal
from geko_proxy.metering.keeper import HEARTBEAT_S, TICK_S, LeaseKeeper
from geko_proxy.metering.leases import Amount, Lease, Leases, NewTurn
from geko_proxy.metering.ledger import Charge
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.recovery import GRACE_S, LOOK_S

TENANT = uuid4()
CHARGES = (Charge("run", 1, "chat", "gpt-4o", "openAI", 10, 20),)


@dataclass
class FlakyLeases:
    """Leases whose database can be away. heard: what arrived."""

    away: bool = False
    gone: set[UUID] = field(default_factory=set)
    refuses: set[UUID] = field(default_factory=set)
    heard: list[tuple[object, ...]] = field(default_factory=list)

    def _note(self, *what: object) -> None:
        if self.away:
            raise StoreError("away")
        self.heard.append(what)

    async def settle(
        self, lease: Lease, outcome: Outcome, charges: Sequence[Charge], *, recovering: bool = False
    ) -> None:
        if not self.away and lease.turn_id in self.refuses:
            raise ValueError("no")
        self._note("settle", lease.turn_id, outcome, charges)

    async def heartbeat(self, tenant_id: UUID, consumed: Mapping[UUID, Amount]) -> set[UUID]:
        for turn_id, amount in consumed.items():
            self._note("beat", turn_id, amount.tokens)
        return self.gone

    async def restore(self, lease: Lease, granted: Amount, consumed: Amount) -> bool:
        self._note("restore", lease.turn_id, granted)
        return True


@dataclass
class Turn:
    """A running turn."""

    lease: Lease
    so_far: Amount


@dataclass
class Kept:
    """A keeper with its turns and a clock that the test sets."""

    leases: FlakyLeases = field(default_factory=FlakyLeases)
    turns: list[Turn] = field(default_factory=list)
    now: float = 0.0

    def keeper(self, journal: Journal | None = None) -> LeaseKeeper:
        leases = cast(Leases, self.leases)
        return LeaseKeeper(leases, lambda: tuple(self.turns), clock=lambda: self.now, journal=journal)


def lease() -> Lease:
    return Lease(NewTurn(TENANT, uuid4(), uuid4(), None, "Mock", "m"), (), Amount(100))


async def test_each_turn_beats_at_once_and_then_seldom() -> None:
    kept = Kept(turns=[Turn(lease(), Amount(7))])
    keeper = kept.keeper()
    await keeper.tick()
    kept.now += HEARTBEAT_S - 1
    kept.turns.append(Turn(lease(), Amount(1)))
    await keeper.tick()
    kept.now += 1
    kept.turns[0].so_far = Amount(9)
    await keeper.tick()
    first, young = (turn.lease.turn_id for turn in kept.turns)
    assert kept.leases.heard == [("beat", first, 7), ("beat", young, 1), ("beat", first, 9)]


async def test_what_the_database_could_not_take_is_settled_once_it_is_back() -> None:
    kept = Kept(leases=FlakyLeases(away=True))
    keeper = kept.keeper()
    done, refused = lease(), lease()
    await keeper.settle(done, Outcome.DONE, CHARGES)
    await keeper.settle(refused, Outcome.REFUSED, ())
    with pytest.raises(StoreError):
        await keeper.tick()
    kept.leases.away = False
    await keeper.tick()
    await keeper.tick()
    assert kept.leases.heard == [
        ("settle", done.turn_id, Outcome.DONE, CHARGES),
        ("settle", refused.turn_id, Outcome.REFUSED, ()),
    ]


async def test_a_last_try_is_made_at_the_end() -> None:
    kept = Kept(leases=FlakyLeases(away=True))
    keeper = kept.keeper()
    await keeper.settle(lease(), Outcome.DONE, CHARGES)
    await keeper.stop()
    kept.leases.away = False
    await keeper.stop()
    assert len(kept.leases.heard) == 1


async def test_a_lease_that_is_gone_is_taken_again_if_its_start_was_lost() -> None:
    kept = Kept(turns=[Turn(lease(), Amount(7))])
    kept.leases.gone = {kept.turns[0].lease.turn_id}
    await kept.keeper().tick()
    assert kept.leases.heard[-1] == ("restore", kept.turns[0].lease.turn_id, Amount(7))


async def test_what_can_not_be_settled_does_not_hold_up_the_rest() -> None:
    kept = Kept(leases=FlakyLeases(away=True))
    keeper = kept.keeper()
    bad, good = lease(), lease()
    await keeper.settle(bad, Outcome.DONE, CHARGES)
    await keeper.settle(good, Outcome.DONE, CHARGES)
    kept.leases.away, kept.leases.refuses = False, {bad.turn_id}
    await keeper.tick()
    assert [heard[1] for heard in kept.leases.heard] == [good.turn_id]


async def test_what_waits_is_on_disk_before_the_end_is_seen(tmp_path: Path) -> None:
    kept = Kept(leases=FlakyLeases(away=True))
    died = kept.keeper(Journal(tmp_path))
    await died.start()
    waits = lease()
    await died.settle(waits, Outcome.DONE, CHARGES, recovering=True)
    (file,) = tmp_path.iterdir()
    copy = file.read_bytes()  # as a process finds it after kill -9
    await died.stop()
    kept.leases.away = False
    again = kept.keeper(Journal(tmp_path))
    await again.start()
    await again.tick()
    assert kept.leases.heard == [("settle", waits.turn_id, Outcome.DONE, list(CHARGES))]
    assert copy
    assert not list(tmp_path.iterdir())
    await again.stop()


def test_an_instance_that_stumbles_is_not_dead() -> None:
    ttl_s = inspect.signature(Leases).parameters["ttl_s"].default
    assert ttl_s >= 3 * (HEARTBEAT_S + TICK_S)
    assert ttl_s + LOOK_S < 15
    assert GRACE_S > HEARTBEAT_S + TICK_S
