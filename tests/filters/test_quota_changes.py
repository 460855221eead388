"""Running answers and limits that change, while calls fail; what happens otherwise is tested end to end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import cast
from uuid import uuid4

import pytest

from geko_proxy.errors import StoreError
from geko_proxy.exchange import Exchange
from geko_proxy.filters.quota_changes import QuotaChanges
from geko_proxy.metering.grants import MeteredTurn, Pricing
from geko_proxy.metering.leases import Amount, Lease, NewTurn
from geko_proxy.metering.limits import Hold, Limit, LimitScope, holds_of
from geko_proxy.metering.meter import TurnMeter
from geko_proxy.metering.prices import NO_PRICES
from geko_proxy.metering.tokens import TokenCounter
from geko_proxy.services import Services
from tests.fake_services import ACME, exchange_of

NOTHING = Amount(0)


@dataclass
class Scene:
    """One running turn, its workspace's limits, and PostgreSQL's answers."""

    limits: tuple[Limit, ...] = ()
    generation: int | None = 1
    away: bool = False
    given: Amount = NOTHING
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        turn = NewTurn(ACME.tenant_id, uuid4(), uuid4(), None, "Mock", "gpt-4o")
        holds = holds_of((), turn.actor, turn.started_at, "UTC")
        pricing = Pricing(turn, holds, NO_PRICES)
        meter = TurnMeter(TokenCounter(), turn.model)
        self.turn = MeteredTurn(Lease(turn, holds, Amount(200)), meter, 100, 20, pricing)
        self.turn.meter.on_text("step", " river" * 50)
        self.used = self.turn.consumed.tokens
        self.exchange = exchange_of("POST", "/api/agents/chat/Mock", {})
        services = SimpleNamespace(leases=self, limits=self, tenants=self)
        self.changes = QuotaChanges(cast(Services, services), self.holds)

    async def get(self, *_: object) -> object:
        return ACME

    async def holds(self, _: Exchange, turn: NewTurn) -> tuple[tuple[Hold, ...], tuple[Limit, ...]]:
        return holds_of(self.limits, turn.actor, turn.started_at, "UTC"), self.limits

    async def hold(self, *_: object) -> bool:
        self.reach("hold")
        return True

    async def give_back(self, _: Lease, spare: Amount) -> Amount:
        assert self.turn.granted.tokens == self.used  # nothing may use meanwhile what is given back
        self.reach("give back")
        return self.given

    def reach(self, call: str) -> None:
        self.calls.append(call)
        if self.away:
            raise StoreError("away")

    async def tick(self) -> None:
        await self.changes.apply({self.exchange: self.turn})

    def add(self) -> None:
        workspace_id = self.turn.lease.turn.workspace_id
        self.limits = (*self.limits, Limit(uuid4(), workspace_id, LimitScope.MEMBER, "*", amount=5))
        self.generation = (self.generation or 0) + 1


async def test_a_turn_looks_once_for_each_change() -> None:
    scene = Scene(given=Amount(30))
    await scene.tick()
    assert scene.calls == []  # its limits are what they were
    scene.add()
    for _ in range(3):
        await scene.tick()
    assert scene.calls == ["hold", "give back"]
    assert scene.turn.granted == Amount(170)
    assert len(scene.turn.lease.holds) == 2
    scene.limits = (replace(scene.limits[0], amount=3),)
    scene.generation = 7
    await scene.tick()
    assert scene.calls[2:] == ["give back"]
    assert scene.turn.granted == Amount(140)
    scene.generation = 8  # another workspace's
    await scene.tick()
    assert len(scene.calls) == 3


async def test_while_changes_cannot_be_heard_nothing_is_asked() -> None:
    scene = Scene()
    scene.add()
    scene.generation = None
    await scene.tick()
    assert scene.calls == []


async def test_what_fails_is_done_again() -> None:
    scene = Scene(away=True)
    scene.add()
    for _ in range(2):
        with pytest.raises(StoreError):
            await scene.tick()
    scene.away = False
    await scene.tick()
    assert scene.calls == ["hold", "hold", "hold", "give back"]


async def test_what_may_have_been_given_back_is_not_used_any_more() -> None:
    scene = Scene()
    await scene.tick()
    scene.limits = (Limit(scene.turn.lease.turn.workspace_id, uuid4(), LimitScope.WORKSPACE, amount=5),)
    scene.generation, scene.away = 2, True
    await scene.tick()
    assert scene.calls == ["give back"]
    assert scene.turn.granted.tokens == scene.used
    assert scene.turn.ahead is None
    assert scene.turn.left == 0
