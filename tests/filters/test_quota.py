"""The quota filter while the database is away; what it does otherwise is tested end to end."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench import events
from geko_proxy.config import Settings
from geko_proxy.errors import EndStream, StoreError
from geko_proxy.exchange import Exchange
from geko_proxy.filters import quota_top_ups as module
from geko_proxy.filters.quota import QuotaFilter, QuotaOptions
from geko_proxy.metering.leases import Amount, Granted, Lease, NewTurn
from geko_proxy.metering.ledger import Charge
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.metering.limits import Hold
from geko_proxy.metering.prices import NO_PRICES, PriceTable
from geko_proxy.metering.tokens import TokenCounter
from geko_proxy.services import Services
from geko_proxy.sse import SseEvent, SseParser
from tests.fake_services import ACME, exchange_of, reply_of


class AwayLeases:
    """Grants a turn 40 tokens; the next `away` calls meet no database."""

    def __init__(self, away: int) -> None:
        self.away = away
        self.settled: list[tuple[Outcome, list[Charge]]] = []

    def _reach(self) -> None:
        if self.away:
            self.away -= 1
            raise StoreError("away")

    async def begin(
        self, turn: NewTurn, holds: tuple[Hold, ...], need: Amount, allowance: Amount, *_: int
    ) -> Lease:
        return Lease(turn, holds, Amount(40))

    async def set_conversation(self, lease: Lease, conversation_id: str) -> None:
        self._reach()

    async def top_up(self, lease: Lease, need: Amount, step: Amount, consumed: Amount) -> Granted:
        self._reach()
        return Granted(need.tokens + step.tokens)

    async def settle(
        self, lease: Lease, outcome: Outcome, charges: list[Charge], *, recovering: bool = False
    ) -> None:
        self.settled.append((outcome, charges))


class NoLimits:
    """A workspace without limits, and models without prices."""

    generation = 0

    async def list(self, *_: object) -> tuple[()]:
        return ()

    async def table(self, *_: object) -> PriceTable:
        return NO_PRICES


async def begun(leases: AwayLeases) -> tuple[QuotaFilter, Exchange, Any]:
    """A turn whose answer begins; the event hook."""
    services = SimpleNamespace(
        leases=leases,
        journal=None,
        counter=TokenCounter(),
        limits=NoLimits(),
        prices=NoLimits(),
        tenants=NoLimits(),
        calls=None,
        settings=Settings(),
    )
    quota = QuotaFilter(QuotaOptions(), cast(Services, services))
    body = {"text": "Hello", "conversationId": None, "endpoint": "Mock", "model": "gpt-4o"}
    exchange = exchange_of("POST", "/api/agents/chat/Mock", body)
    exchange.tenant, exchange.model = ACME, "Mock/gpt-4o"
    await quota.on_request(exchange)
    exchange.reply = reply_of({"streamId": "c", "conversationId": "c", "status": "started"})
    await exchange.reply.read()
    await quota.on_reply(exchange)
    return quota, exchange, quota.on_stream(exchange)


async def hear(hook: Any, answer: list[SseEvent]) -> None:
    for event in answer:
        given = hook(event)
        if inspect.isawaitable(given):
            await given


def words(number: int) -> list[SseEvent]:
    return SseParser().feed(events.opening("c") + b"".join(events.delta(n, 0) for n in range(number)))


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0)


async def test_an_answer_waits_for_the_database() -> None:
    leases = AwayLeases(away=5)
    quota, exchange, hook = await begun(leases)
    await hear(hook, words(300))
    await quota.on_finish(exchange)
    assert leases.away == 0
    ((_, charges),) = leases.settled
    assert sum(charge.tokens for charge in charges) >= 300


async def test_an_answer_that_waited_too_long_is_cut_and_its_report_still_counts() -> None:
    leases = AwayLeases(away=10_000)
    quota, exchange, hook = await begun(leases)
    with pytest.raises(EndStream) as caught:
        await hear(hook, words(300))
    assert caught.value.code == "database_unavailable"
    usage = {
        "runId": "r",
        "seq": 1,
        "model": "gpt-4o",
        "provider": "openAI",
        "input_tokens": 9,
        "output_tokens": 300,
    }
    await hear(hook, [SseEvent.message({"event": "on_token_usage", "data": usage})])
    await quota.on_finish(exchange)
    ((outcome, charges),) = leases.settled
    assert outcome is Outcome.CUT
    assert [(charge.tokens, charge.estimated) for charge in charges] == [(309, False)]
