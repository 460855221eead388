"""The janitor with a LibreChat and leases that a test leads; what it does to real ones is in e2e/test_recovery.py."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from geko_proxy import recovery as module
from geko_proxy.errors import StoreError, UpstreamError
from geko_proxy.filters.chain import Chain
from geko_proxy.librechat_client import Answer
from geko_proxy.metering.leases import Adopted, Amount, Lease, NewTurn
from geko_proxy.metering.ledger import Charge
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.metering.prices import NO_PRICES
from geko_proxy.metering.tokens import TokenCounter
from geko_proxy.recovery import AT_ONCE, GRACE_S, MOST_WAITING, OWN_PATIENCE, Recovery
from geko_proxy.services import Services
from tests.fake_services import ACCOUNT, TENANT, USER, WORKSPACE, account_of

USED = {"input": 30, "output": 12, "cacheWrite": 0, "cacheRead": 0}
FAR = "2999-01-01T00:00:00.000Z"


@dataclass
class World:
    """What the janitor finds. answers: LibreChat's, by the first words of the path; an exception is raised."""

    expired: list[Adopted] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)
    now: float = 100.0
    away: bool = False
    account: Any = field(default_factory=lambda: account_of(ACCOUNT, WORKSPACE))
    settled: dict[UUID, list[Charge]] = field(default_factory=dict)
    beaten: list[UUID] = field(default_factory=list)
    asked: int = 0
    asking: int = 0
    most_asking: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    instance_id: UUID = field(default_factory=uuid4)

    def recovery(self) -> Recovery:
        services = SimpleNamespace(
            leases=self,
            client=self,
            database=self,
            counter=TokenCounter(),
            prices=SimpleNamespace(table=self._table),
            shadow_store=SimpleNamespace(get=self._account),
            shadows=SimpleNamespace(bearer=self._bearer),
        )
        janitor = Recovery(cast(Services, services), cast(Chain, None), clock=lambda: self.now)
        janitor._ledger = cast(Any, SimpleNamespace(other_runs=self._runs))
        return janitor

    async def adopt(self, most: int) -> list[Adopted]:
        if self.away:
            raise StoreError("away")
        taken, self.expired = self.expired[:most], self.expired[most:]
        return taken

    async def heartbeat(self, tenant_id: UUID, consumed: Mapping[UUID, Amount]) -> set[UUID]:
        self.beaten += consumed
        return set()

    async def settle(
        self, lease: Lease, outcome: Outcome, charges: Sequence[Charge], *, recovering: bool
    ) -> None:
        assert recovering
        assert outcome is Outcome.LOST
        self.settled[lease.turn_id] = list(charges)

    async def call(self, method: str, path: str, *, bearer: str) -> Answer:
        self.asked += 1
        self.asking += 1
        self.most_asking = max(self.most_asking, self.asking)
        await self.gate.wait()
        self.asking -= 1
        found = next(value for start, value in self.answers.items() if path.startswith(start))
        if isinstance(found, Exception):
            raise found
        return cast(Answer, found)

    async def _table(self, *_: object) -> Any:
        return NO_PRICES

    async def _account(self, *_: object) -> Any:
        return self.account

    async def _bearer(self, *_: object) -> str:
        return "bearer"

    async def _runs(self, *_: object) -> dict[str, int]:
        return {}

    async def settle_all(self, janitor: Recovery) -> None:
        """Everything that was taken, to its end."""
        self.gate.set()
        await asyncio.gather(*janitor._tasks)


def adopted(conversation: str | None = "c", consumed: int = 7, owner: UUID | None = None) -> Adopted:
    turn = NewTurn(TENANT, WORKSPACE, USER, conversation, "Mock", "gpt-4o")
    return Adopted(Lease(turn, (), Amount(50)), Amount(consumed), owner)


def ended(messages: Any) -> dict[str, Any]:
    return {
        "/api/agents/chat/status/": Answer(200, {"active": False}),
        "/api/messages/": Answer(200, messages),
    }


def answer(**fields: Any) -> dict[str, Any]:
    return {"messageId": "m", "isCreatedByUser": False, "updatedAt": FAR, **fields}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0)


@pytest.mark.parametrize(
    ("messages", "tokens", "estimated"),
    [
        ([answer(metadata={"usage": USED})], 42, False),
        ([answer(text="one two three four five six seven eight nine ten")], 10, True),
        ([answer(text="short")], 7, True),  # less than the last heartbeat said
        ([], 7, True),
        ({"error": "no list"}, 7, True),
        ([None, 3, answer(isCreatedByUser=True, metadata={"usage": USED})], 7, True),
    ],
)
async def test_an_ended_answer_is_charged_by_the_best_that_is_known(
    messages: Any, tokens: int, estimated: bool
) -> None:
    one = adopted()
    world = World([one], ended(messages))
    janitor = world.recovery()
    assert await janitor.look() == 1
    await world.settle_all(janitor)
    (charge,) = world.settled[one.lease.turn_id]
    assert (charge.tokens, charge.estimated) == (tokens, estimated)


@pytest.mark.parametrize("unknown", ["conversation", "account"])
async def test_what_librechat_can_not_be_asked_about_is_estimated(unknown: str) -> None:
    one = adopted(None if unknown == "conversation" else "c")
    world = World([one], {})
    if unknown == "account":
        world.account = None
    janitor = world.recovery()
    await janitor.look()
    await world.settle_all(janitor)
    assert [charge.tokens for charge in world.settled[one.lease.turn_id]] == [7]
    assert world.asked == 0


async def test_an_unfinished_answer_is_looked_at_again() -> None:
    """LibreChat saves once more after an abort."""
    partial = answer(text="x", unfinished=True)
    one = adopted()
    world = World([one], ended([partial]))
    janitor = world.recovery()
    await janitor.look()
    world.gate.set()
    while world.asked < 3:
        await asyncio.sleep(0)
    partial.update(unfinished=False, metadata={"usage": USED})
    await world.settle_all(janitor)
    assert [charge.tokens for charge in world.settled[one.lease.turn_id]] == [42]


@pytest.mark.parametrize("fault", [UpstreamError("refused"), Answer(503, None), Answer(401, {})])
async def test_librechat_is_asked_until_it_answers_and_the_lease_is_kept(fault: Any) -> None:
    one = adopted()
    world = World([one], {"/api/agents/chat/status/": fault})
    janitor = world.recovery()
    await janitor.look()
    world.gate.set()
    while world.asked < 20:
        await asyncio.sleep(0)
    await janitor.beat()
    assert world.beaten == [one.lease.turn_id]
    assert not world.settled
    world.answers = ended([answer(metadata={"usage": USED})])
    await world.settle_all(janitor)
    assert [charge.tokens for charge in world.settled[one.lease.turn_id]] == [42]
    world.beaten.clear()
    await janitor.beat()
    assert world.beaten == []


async def test_patience_has_an_end() -> None:
    one = adopted()
    world = World([one], {"/api/agents/chat/status/": UpstreamError("gone for good")})
    janitor = world.recovery()
    await janitor.look()
    world.gate.set()
    while world.asked < 3:
        await asyncio.sleep(0)
    world.now += module.LIBRECHAT_PATIENCE_S
    await world.settle_all(janitor)
    assert [charge.tokens for charge in world.settled[one.lease.turn_id]] == [7]


async def test_few_are_asked_about_at_once_and_not_too_many_are_taken() -> None:
    world = World([adopted() for _ in range(MOST_WAITING + 200)], ended([]))
    janitor = world.recovery()
    taken = 0
    while found := await janitor.look():
        taken += found
        await asyncio.sleep(0)
    assert taken == MOST_WAITING  # the rest is left to other instances
    for _ in range(10):
        await asyncio.sleep(0)
    assert world.most_asking == AT_ONCE
    await world.settle_all(janitor)
    assert len(world.settled) == MOST_WAITING


async def test_a_lease_of_its_own_is_left_alone_unless_it_is_forgotten() -> None:
    world = World()
    one = adopted(owner=world.instance_id)
    world.answers = ended([])
    janitor = world.recovery()
    for _ in range(OWN_PATIENCE):
        world.expired = [one]
        assert await janitor.look() == 0
    world.expired = [one]
    assert await janitor.look() == 1
    await world.settle_all(janitor)
    assert one.lease.turn_id in world.settled


async def test_nobody_is_taken_for_dead_just_after_the_database_was_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All leases are old then, those of living instances too."""
    monkeypatch.setattr(module, "LOOK_S", 0)
    world = World([adopted()], ended([]), away=True)
    janitor = world.recovery()
    await janitor.start()
    while janitor._trust_from == 100.0:
        await asyncio.sleep(0)
    await janitor.stop()
    world.away = False
    assert await janitor.look() == 0
    world.now += GRACE_S
    assert await janitor.look() == 1
    await janitor.stop()
    assert not world.settled  # left to another instance
