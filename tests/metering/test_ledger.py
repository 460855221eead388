"""The ledger keeps charges as they were."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import uuid4

from geko_proxy.metering.leases import Lease, Leases
from geko_proxy.metering.ledger import Charge, Ledger, Source
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.storage.database import Database
from tests.metering.leasing import try_begin

if TYPE_CHECKING:
    from tests.metering.conftest import Place


def test_a_charge_is_prompt_output_and_hidden_reasoning() -> None:
    assert Charge("r", 1, "chat", "m", "p", 100, 20, 80, 5).tokens == 125


async def test_charges_come_back_as_they_went_in(
    database: Database, make_place: Callable[[int | None], Awaitable[Place]]
) -> None:
    place, leases = await make_place(None), Leases(database)
    lease = await try_begin(leases, place.turn("conversation"), place.window, 10)
    assert isinstance(lease, Lease)
    charges = [
        Charge("run", 1, "chat", "gpt-4o", "openAI", 100, 20, 80, 5, cost=17, endpoint="Other"),
        Charge(
            "run", -1, "subagent", "模型", "", 10, 2, estimated=True, source=Source.ESTIMATE, endpoint="Mock"
        ),
    ]
    await leases.settle(lease, Outcome.DONE, charges)
    entries = await Ledger(database).of_turn(place.tenant_id, lease.turn_id)
    assert sorted((entry.charge for entry in entries), key=lambda charge: -charge.seq) == charges
    assert {(entry.user_id, entry.conversation_id) for entry in entries} == {(place.user_id, "conversation")}
    assert await Ledger(database).of_turn(uuid4(), lease.turn_id) == []
