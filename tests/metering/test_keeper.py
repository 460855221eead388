"""Leases that are kept while turns run, turns that the database could not settle, and those of dead instances."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast
from uuid import UUID, uuid4

import pytest

from geko_proxy.errors import StoreError
from geko_proxy.metering.keeper import GRACE_S, HEARTBEAT_S, RECOVERY_S, TICK_S, LeaseKeeper
from geko_proxy.metering.leases import Adopted, Amount, Lease, Leases, NewTurn
from geko_proxy.metering.ledger import Charge
from geko_proxy.metering.lifecycle import Outcome

TENANT = uuid4()
CHARGES = (Charge("run", 1, "chat", "gpt-4o", "openAI", 10, 20),)


@dataclass
class FlakyLeases:
    """Leases whose database can be away. heard: what arrived."""

    away: bool = False
    heard: list[tuple[object, ...]] = field(default_factory=list)

    def _note(self, *what: object) -> None:
        if self.away:
            raise StoreError("away")
        self.heard.append(what)

    async def settle(
        self, lease: Lease, outcome: Outcome, charges: Sequence[Charge], *, recovering: bool = False
    ) -> None:
        self._note("settle", lease.turn_id, outcome, charges)

    async def heartbeat(self, tenant_id: UUID, consumed: Mapping[UUID, Amount]) -> set[UUID]:
        for turn_id, amount in consumed.items():
            self._note("beat", turn_id, amount.tokens)
        return set()

    async def adopt(self) -> list[Adopted]:
        self._note("adopt")
        return [Adopted(lease(), Amount(0))]


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

    def keeper(self) -> LeaseKeeper:
        return LeaseKeeper(cast(Leases, self.leases), lambda: tuple(self.turns), clock=lambda: self.now)


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


async def test_nobody_is_taken_for_dead_just_after_the_database_was_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All leases are old then, those of living instances too."""
    monkeypatch.setattr("geko_proxy.metering.keeper.asyncio.sleep", _stop_after(3))
    kept = Kept(leases=FlakyLeases(away=True))
    keeper = kept.keeper()
    with pytest.raises(_Stopped):
        await keeper._every(RECOVERY_S, keeper.recover)
    kept.leases.away = False
    assert await keeper.recover() == 0
    kept.now += GRACE_S
    assert await keeper.recover() == 1


def test_a_dead_instances_turns_are_settled_within_half_a_minute() -> None:
    ttl_s = inspect.signature(Leases).parameters["ttl_s"].default
    assert ttl_s + RECOVERY_S < 30 - TICK_S
    assert ttl_s >= 3 * (HEARTBEAT_S + TICK_S)  # one that stumbles is not dead


class _Stopped(Exception):
    pass


def _stop_after(number: int) -> object:
    left = iter(range(number))

    async def sleep(_: float) -> None:
        if next(left, None) is None:
            raise _Stopped

    return sleep
