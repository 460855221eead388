"""Meters chat answers and holds a workspace to its token quota: a lease before, top-ups while, a charge after.

What is not granted is not passed on. The rules of counting are in `metering`; this filter connects them to an exchange.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from geko_proxy.errors import StoreError
from geko_proxy.filters import agents_quota
from geko_proxy.filters.agents_quota import AgentsAnswer, is_answer
from geko_proxy.filters.base import EndStream, EventHook, Exchange, Filter, Refused, Reply, Route, SseEvent
from geko_proxy.filters.llm_quota import CallAnswer
from geko_proxy.filters.metered_answers import answer_of
from geko_proxy.filters.quota_changes import QuotaChanges
from geko_proxy.filters.quota_charges import stream_charges
from geko_proxy.filters.quota_texts import (
    described,
    exhausted_refusal,
    limit_named,
    refusal_code,
    unpriced_refusal,
    used_up_text,
)
from geko_proxy.filters.quota_top_ups import TopUps
from geko_proxy.filters.sheltered import Sheltered
from geko_proxy.librechat import concurrent_refusal
from geko_proxy.llm.call import model_call_of
from geko_proxy.metering.grants import MeteredTurn, Pricing
from geko_proxy.metering.keeper import LeaseKeeper
from geko_proxy.metering.leases import Amount, Busy, Exhausted, Granted, Lease, NewTurn
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.metering.limits import Hold, HoldCache, Limit
from geko_proxy.metering.meter import TurnMeter
from geko_proxy.metering.prompt_estimate import attached_image_tokens, long_texts
from geko_proxy.metering.usage_events import step_and_text

if TYPE_CHECKING:
    from geko_proxy.services import Services

log = logging.getLogger("geko.filters.quota")

MAX_INLINE = 50_000  # characters, or bytes; more are counted in a thread
CONVERSATION_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")


@dataclass(frozen=True, slots=True)
class QuotaOptions:
    """allowance: tokens leased at the start beyond the estimated prompt; step: tokens leased at the first
    top-up; later ones are for 4 s at the answer's speed, up to 8 steps and a share of what is left.
    """

    allowance: int = 200
    step: int = 100

    def __post_init__(self) -> None:
        for name in ("allowance", "step"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1_000_000:
                raise ValueError(f"{name}: expected a whole number from 1 to 1000000, got {value!r}")


class QuotaFilter(Filter):
    """Refuses with 429 what the quota has no room for, and cuts an answer that outgrows it."""

    name: ClassVar[str] = "quota"
    Options: ClassVar[type] = QuotaOptions
    routes: ClassVar[frozenset[Route]] = frozenset({Route.CHAT, Route.AGENTS_API, Route.LLM})

    def __init__(self, options: QuotaOptions, services: Services) -> None:
        super().__init__(options, services)
        self._allowance = options.allowance
        self._step = options.step
        self._leases = services.leases
        self._calls = services.calls
        self._providers = frozenset(provider.name for provider in services.settings.llm_providers)
        self._sheltered = Sheltered()
        self._turns: dict[Exchange, MeteredTurn] = {}
        self._known = HoldCache()
        self._top_ups = TopUps(services, self._step, self._cut)
        self._changes = QuotaChanges(services, self._holds)
        running = self._turns.values()
        self._keeper = LeaseKeeper(
            self._leases,
            lambda: tuple(running),
            lambda: self._changes.apply(self._turns),
            journal=services.journal,
        )

    async def start(self) -> None:
        await self._keeper.start()

    async def stop(self) -> None:
        await self._sheltered.drain()
        await self._keeper.stop()

    async def on_request(self, exchange: Exchange) -> Reply | None:
        if exchange.route is Route.AGENTS_API and not is_answer(exchange):
            return None
        call = model_call_of(exchange)
        if exchange.route is Route.LLM and call is None:
            return None
        turn = await self._new_turn(exchange)
        seen = self._changes.generations
        holds, limits = await self._holds(exchange, turn)
        pricing = Pricing(turn, holds, await self.services.prices.table(turn.tenant_id))
        if pricing.limited and pricing.price is None:
            raise unpriced_refusal(exchange)
        need = await self._need(exchange, turn.model)
        starting = self._begin(exchange, turn, pricing, need, (holds, limits))
        lease = await self._sheltered.run(starting, self._let_go)
        exchange.turn_id = turn.turn_id
        if call is not None:
            answer = CallAnswer(exchange, call, self.services.counter, need)
            answer.settle = lambda: self._sheltered.run(self.on_finish(exchange))
            meter = answer.meter
        elif exchange.route is Route.AGENTS_API:
            body = await exchange.request.json()
            meter = AgentsAnswer(exchange, body, self.services.counter, need).meter
        else:
            meter = TurnMeter(self.services.counter, turn.model)
        running = MeteredTurn(lease, meter, self._step, need + lease.context, pricing)
        running.limits, running.seen = limits, seen
        self._turns[exchange] = running
        return None

    async def _need(self, exchange: Exchange, model: str) -> int:
        """Tokens that the request adds to what its conversation holds already, estimated."""
        call = model_call_of(exchange)
        if call is not None:
            count = self.services.counter.count
            if len(await exchange.request.read()) < MAX_INLINE:
                return call.shape.prompt_tokens(count)
            return await asyncio.to_thread(call.shape.prompt_tokens, count)
        body = await exchange.request.json()
        if exchange.route is Route.AGENTS_API:
            return await agents_quota.estimate(body, model, self._count)
        return await self._count("\n".join(long_texts(body))) + attached_image_tokens(body, model)

    async def _begin(
        self,
        exchange: Exchange,
        turn: NewTurn,
        pricing: Pricing,
        need: int,
        limited: tuple[tuple[Hold, ...], Sequence[Limit]],
    ) -> Lease:
        """Lease for the start. Raises Refused."""
        holds, limits = limited
        wanted = Amount(need, pricing.of_text(need, 0))
        allowance = Amount(self._allowance, pricing.of_text(0, self._allowance))
        call = model_call_of(exchange)
        outcome: Lease | Exhausted | Busy
        if call is not None:
            outcome = await self._calls.begin(turn, holds, wanted, allowance, call.origin)
        else:
            price = pricing.price.input if pricing.price is not None else 0
            outcome = await self._leases.begin(turn, holds, wanted, allowance, price)
        if isinstance(outcome, Busy):
            raise concurrent_refusal()
        if isinstance(outcome, Exhausted):
            raise exhausted_refusal(outcome, limits, exchange)
        return outcome

    async def _new_turn(self, exchange: Exchange) -> NewTurn:
        identity = exchange.signed_in()
        endpoint, _, model = (exchange.model or "").partition("/")
        call = model_call_of(exchange)
        key_id = exchange.api_key.key_id if exchange.api_key is not None else None
        if call is not None:
            conversation_id = None  # many calls run in one
            key_id = call.origin.parent.key_id if call.origin.parent is not None else None
        else:
            conversation_id = _conversation_id(await exchange.request.json())
        return NewTurn(
            identity.tenant_id,
            identity.workspace_id,
            identity.user_id,
            conversation_id,
            endpoint,
            model,
            key_id=key_id,
            started_at=datetime.now(UTC),
        )

    async def _holds(self, exchange: Exchange, turn: NewTurn) -> tuple[tuple[Hold, ...], Sequence[Limit]]:
        assert exchange.tenant is not None
        limits = await self.services.limits.list(turn.tenant_id, turn.workspace_id)
        return self._known.holds_of(limits, turn.actor, turn.started_at, exchange.tenant.time_zone), limits

    async def on_reply(self, exchange: Exchange) -> Reply | None:
        turn = self._turns.get(exchange)
        reply = exchange.reply
        fine = range(200, 300) if exchange.route is Route.LLM else (200,)  # a provider may say 201, and bill
        if turn is None or reply is None or reply.status not in fine:
            return None
        answer = answer_of(exchange)
        if answer is not None:
            turn.started = True
            return await answer.take_reply(reply, lambda: self._look_if_due(exchange, turn))
        body = await reply.json()
        if isinstance(body, dict) and isinstance(body.get("streamId"), str):
            turn.started = True
            if body["streamId"] != (await exchange.request.json()).get("conversationId"):
                await self._name(turn, body["streamId"])
        return None

    async def _name(self, turn: MeteredTurn, conversation_id: str) -> None:
        turn.lease.conversation_id = conversation_id
        try:
            await self._leases.set_conversation(turn.lease, conversation_id)
        except StoreError as error:  # the answer runs already: refused now, nobody would count it
            log.warning("turn %s: its conversation is not recorded: %s", turn.lease.turn_id, error)

    def on_stream(self, exchange: Exchange) -> EventHook | None:
        turn = self._turns.get(exchange) or self._taken_over(exchange)
        if turn is None:
            return None
        meter = turn.meter
        answer = answer_of(exchange)
        if answer is not None:
            return answer.hook(lambda: self._look_if_due(exchange, turn))

        def count(event: SseEvent) -> Awaitable[None] | None:
            delta = step_and_text(event.data)
            if delta is not None:
                meter.on_text(*delta)
            else:
                data = event.json
                if type(data) is not dict:
                    return None
                meter.on_event(data)
                if "event" not in data:
                    self._note(turn, data)
                    if turn.final is data and self._providers:
                        return self._ask_calls(exchange, turn)
            if meter.at_most > turn.look_at and turn.final is None and turn.outcome is not Outcome.CUT:
                return self._top_ups.look(exchange, turn)
            return None

        return count

    def _look_if_due(self, exchange: Exchange, turn: MeteredTurn) -> Awaitable[None] | None:
        answer = answer_of(exchange)
        if answer is not None and answer.final is not None:
            is_news, turn.final = turn.final is None, answer.final
            asks = is_news and self._providers and exchange.route is Route.AGENTS_API
            return self._ask_calls(exchange, turn) if asks else None
        due = turn.meter.at_most > turn.look_at and turn.outcome is not Outcome.CUT
        return self._top_ups.look(exchange, turn) if due else None

    def _taken_over(self, exchange: Exchange) -> MeteredTurn | None:
        """A turn of a vanished instance that goes on here (`recovery`)."""
        turn = exchange.state.get(MeteredTurn)
        if not isinstance(turn, MeteredTurn):
            return None
        turn.step, turn.started = self._step, True
        self._turns[exchange] = turn
        return turn

    async def on_finish(self, exchange: Exchange) -> None:
        turn = self._turns.pop(exchange, None)
        if turn is None:
            return
        answer = answer_of(exchange)
        if answer is not None:
            turn.final = answer.final
            if turn.outcome is not Outcome.CUT:
                turn.outcome = Outcome.ABORTED if turn.final is None else Outcome.DONE
        call = model_call_of(exchange)
        if not turn.started and not (call is not None and call.was_left):
            await self._let_go(turn.lease)
            return
        if turn.ahead is not None:
            await asyncio.wait((turn.ahead,))
        passes_here = turn.lease.turn.endpoint in self._providers
        charges = (
            answer.charges(turn) if answer is not None else stream_charges(turn, passes_here=passes_here)
        )
        priced = turn.pricing.priced(charges)
        await self._keeper.settle(turn.lease, turn.outcome, priced, recovering=turn.recovering)
        log.info(
            "%s: turn %s %s, %d tokens",
            exchange.id,
            turn.lease.turn_id,
            turn.outcome,
            sum(charge.tokens for charge in charges),
        )

    async def _let_go(self, lease: Lease) -> None:
        await self._keeper.settle(lease, Outcome.REFUSED, ())

    async def _count(self, texts: str) -> int:
        count = self.services.counter.count
        return count(texts) if len(texts) < MAX_INLINE else await asyncio.to_thread(count, texts)

    def _note(self, turn: MeteredTurn, data: dict[str, Any]) -> None:
        """Remember how the answer ended; take the usage that a resumed stream brings along."""
        if data.get("final"):
            turn.final = data
            if turn.outcome is not Outcome.CUT:
                turn.outcome = Outcome.ABORTED if data.get("aborted") else Outcome.DONE
        elif data.get("sync"):
            state = data.get("resumeState")
            usage = state.get("collectedUsage") if isinstance(state, dict) else None
            for each in usage if isinstance(usage, list) else ():
                turn.meter.on_event({"event": "on_token_usage", "data": each})

    async def _ask_calls(self, exchange: Exchange, turn: MeteredTurn) -> None:
        """At the end of an answer: whether its calls on the LLM side are charged, and whether a limit has cut one."""
        try:
            calls = await self._calls.of_turn(turn.lease.tenant_id, turn.lease.turn_id)
        except StoreError as error:
            log.warning("turn %s: not known whether it was cut: %s", turn.lease.turn_id, error)
            return
        turn.by_calls = calls.metered_by_calls
        if calls.cut_by is not None:
            turn.outcome = Outcome.CUT
            raise await self._cut(exchange, turn, Granted(limit_id=calls.cut_by))

    async def _cut(self, exchange: Exchange, turn: MeteredTurn, granted: Granted) -> EndStream:
        _, limits = await self._holds(exchange, turn.lease.turn)
        limit = limit_named(granted.limit_id, limits)
        log.info("%s: turn %s is cut: %s", exchange.id, turn.lease.turn_id, described(limit))
        window = next((h.window for h in turn.lease.holds if h.limit_id == granted.limit_id), None)
        resets_at = (window or turn.lease.holds[0].window).end
        return EndStream(notice=used_up_text(limit, exchange, resets_at), code=refusal_code(limit))


def _conversation_id(body: dict[str, Any]) -> str | None:
    value = body.get("conversationId")
    if value is None or value in ("", "new"):
        return None
    if not isinstance(value, str) or not CONVERSATION_ID.fullmatch(value):
        text = "conversationId: expected letters, digits, - and _, at most 100."
        raise Refused(400, "invalid_conversation_id", text)
    return value
