"""What the quota filter costs in this process, beside the database: a chat start, and an event."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import uvloop

from bench import events
from bench.processes import environment, python
from geko_proxy.exchange import Exchange
from geko_proxy.filters.quota import QuotaFilter, QuotaOptions
from geko_proxy.metering.leases import Amount, Granted, Lease, NewTurn
from geko_proxy.metering.limits import EVERY_MEMBER, Hold, Limit, LimitScope
from geko_proxy.metering.prices import NO_PRICES, PriceTable
from geko_proxy.metering.tokens import TokenCounter
from geko_proxy.metering.windows import Period
from geko_proxy.server import tune_collector
from geko_proxy.services import Services
from geko_proxy.sse import SseParser
from prove.report import Row
from prove.stage import Stage
from tests.fake_services import ACME, USER, WORKSPACE, exchange_of, reply_of

MOST_START_US, MOST_EVENT_US = 60.0, 6.0
PROCESSES, ROUNDS, STARTS, WORDS = 5, 10, 200, 2000
TEXT = "Please explain in two or three sentences why the sky is blue and how that changes at sunset. " * 2
LIMITS = (
    Limit(WORKSPACE, WORKSPACE, LimitScope.WORKSPACE, amount=10**9),
    Limit(USER, WORKSPACE, LimitScope.MEMBER, EVERY_MEMBER, Period.DAY, amount=10**6),
)


class NoDatabase:
    """Leases that are granted at once, whatever is asked: what is left is the filter's own work."""

    async def begin(
        self, turn: NewTurn, holds: tuple[Hold, ...], need: Amount, allowance: Amount, *_: int
    ) -> Lease:
        return Lease(turn, holds, Amount(need.tokens + allowance.tokens))

    async def set_conversation(self, lease: Lease, conversation_id: str) -> None:
        pass

    async def top_up(self, lease: Lease, need: Amount, step: Amount, consumed: Amount) -> Granted:
        return Granted(need.tokens + step.tokens)

    async def settle(
        self, lease: Lease, state: Any, charges: Sequence[Any], *, recovering: bool = False
    ) -> None:
        pass


class NoLimits:
    """A workspace with a limit for each member, and models without prices."""

    generation = 0

    async def list(self, *_: object) -> tuple[Limit, ...]:
        return LIMITS

    async def table(self, *_: object) -> PriceTable:
        return NO_PRICES


async def in_process(stage: Stage) -> Row:
    """CPU time of the best of many rounds: other load on the machine only ever adds to it."""
    row = Row("cost of quota and metering", STARTS)
    begun = time.monotonic()
    found = [await _apart() for _ in range(PROCESSES)]
    start_us, event_us = min(start for start, _ in found), min(event for _, event in found)
    row.time_s = time.monotonic() - begun
    row.notes.append(
        f"{start_us:.1f} µs for a chat start and its end (allowed: 60),"
        f" {event_us:.2f} µs for an event of text (allowed: 6)"
    )
    row.expect(start_us < MOST_START_US, f"a chat start costs {start_us:.1f} µs (allowed: 60)")
    row.expect(event_us < MOST_EVENT_US, f"an event costs {event_us:.2f} µs (allowed: 6)")
    return row


async def _apart() -> tuple[float, float]:
    """Measure in a process of its own, without the scenarios' memory."""
    command = python("prove.cost")
    process = await asyncio.create_subprocess_exec(
        *command, env=environment(), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    start_us, event_us = json.loads(said)
    return start_us, event_us


async def _measure() -> tuple[float, float]:
    nothing = NoLimits()
    services = SimpleNamespace(
        leases=NoDatabase(),
        journal=None,
        counter=TokenCounter(),
        limits=nothing,
        prices=nothing,
        tenants=nothing,
    )
    quota = QuotaFilter(QuotaOptions(), cast(Services, services))
    tune_collector()
    starts = min([await _starts(quota) for _ in range(ROUNDS)])
    return starts, min([await _events(quota) for _ in range(ROUNDS)])


def _exchange() -> Exchange:
    body = {"text": TEXT, "conversationId": None, "endpoint": "Mock", "model": "gpt-4o"}
    exchange = exchange_of("POST", "/api/agents/chat/Mock", body)
    exchange.tenant, exchange.model = ACME, "Mock/gpt-4o"
    return exchange


async def _starts(quota: QuotaFilter) -> float:
    exchanges = [_exchange() for _ in range(STARTS)]
    for exchange in exchanges:
        await exchange.request.json()  # parsed long before, by the filters above
        exchange.reply = reply_of({"streamId": "c", "conversationId": "c", "status": "started"})
    begun = time.process_time_ns()
    for exchange in exchanges:
        await quota.on_request(exchange)
        await quota.on_reply(exchange)
        await quota.on_finish(exchange)
    return (time.process_time_ns() - begun) / STARTS / 1000


async def _events(quota: QuotaFilter) -> float:
    exchange = _exchange()
    await quota.on_request(exchange)
    hook = quota.on_stream(exchange)
    assert hook is not None
    for event in SseParser().feed(events.opening("c")):
        hook(event)
    stream = SseParser().feed(b"".join(events.delta(n, 0) for n in range(WORDS)))
    begun = time.process_time_ns()
    for event in stream:
        waiting = hook(event)
        if waiting is not None and not isinstance(waiting, Sequence):
            await waiting
    took = (time.process_time_ns() - begun) / WORDS / 1000
    await quota.on_finish(exchange)
    return took


if __name__ == "__main__":
    print(json.dumps(uvloop.run(_measure())))
