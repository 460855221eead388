"""Meters chat answers and holds a workspace to its token quota: a lease before, top-ups while, a charge after.

What is not granted is not passed on. The rules of counting are in `metering`; this filter connects them to an exchange.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

import msgspec
from cachetools import LRUCache

from geko_proxy.errors import StoreError
from geko_proxy.filters import agents_quota
from geko_proxy.filters.agents_quota import AgentsAnswer, answer_of, is_answer
from geko_proxy.filters.base import EndStream, EventHook, Exchange, Filter, Refused, Reply, Route, SseEvent
from geko_proxy.librechat import concurrent_refusal
from geko_proxy.metering.keeper import LeaseKeeper
from geko_proxy.metering.leases import Busy, Exhausted, Granted, Lease, NewTurn, TurnState
from geko_proxy.metering.ledger import Charge, Source
from geko_proxy.metering.meter import TurnMeter
from geko_proxy.metering.prompt_estimate import attached_image_tokens, long_texts
from geko_proxy.metering.usage_events import step_and_text
from geko_proxy.metering.windows import month_window

if TYPE_CHECKING:
    from geko_proxy.services import Services

log = logging.getLogger("geko.filters.quota")

TRIES, PAUSE_S = 20, 0.5  # of a top-up while the database is away: the answer waits, and is not cut for that
MAX_INLINE = 50_000  # characters; more are counted in a thread
CONVERSATION_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
MAX_STEPS = 8  # a top-up grows to so many steps
MAX_RESERVE = 100  # tokens
COUNT_STEP = 64  # bytes of text, at least, between two counts while the grant is not in danger
REFUSAL_CODE = "quota_exceeded"
KEY_REFUSAL_CODE = "key_budget_exceeded"
AWAY_TEXT = "The answer was ended because the quota can't be checked at the moment. Try again soon."


@dataclass(frozen=True, slots=True)
class QuotaOptions:
    """allowance: tokens leased at the start beyond the estimated prompt; step: tokens leased at the first
    top-up; each that is granted whole doubles the next, up to 8 steps.
    """

    allowance: int = 200
    step: int = 100

    def __post_init__(self) -> None:
        for name in ("allowance", "step"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1_000_000:
                raise ValueError(f"{name}: expected a whole number from 1 to 1000000, got {value!r}")


class MeteredTurn:
    """One answer: its lease, its meter, and what became of it."""

    __slots__ = (
        "ahead",
        "dry",
        "final",
        "granted",
        "lease",
        "look_at",
        "meter",
        "need",
        "started",
        "state",
        "step",
    )

    def __init__(self, lease: Lease, meter: TurnMeter, step: int, need: int) -> None:
        self.step = step
        self.need = need
        self.ahead: asyncio.Task[None] | None = None  # the top-up that is under way while the answer goes on
        self.dry = False  # there was less than a step left: nothing is leased ahead any more
        self.lease = lease
        self.meter = meter
        self.granted = lease.granted
        self.started = False
        self.final: dict[str, Any] | None = None
        self.state = TurnState.FAILED
        self.look_at = 0
        self.look_later()

    def look_later(self) -> None:
        """Set `look_at`: what the meter's upper bound must pass before counting is worth while again."""
        early = 0 if self.dry or self.ahead is not None else self.reserve
        self.look_at = min(self.granted, max(self.granted - early, self.meter.consumed + COUNT_STEP))

    @property
    def so_far(self) -> int:
        """Tokens used until now: before LibreChat tells the size of the prompt, its estimate."""
        return self.meter.consumed or self.need

    @property
    def reserve(self) -> int:
        """Tokens that are left when more is leased: about a second of a fast model."""
        return min(self.step // 2, MAX_RESERVE)

    def add(self, wanted: int, granted: int, first_step: int) -> None:
        """Book a top-up: a long answer asks less often, as long as there is plenty."""
        self.granted += granted
        self.dry = granted < wanted
        self.step = first_step if self.dry else min(self.step * 2, first_step * MAX_STEPS)
        self.look_later()


class QuotaFilter(Filter):
    """Refuses with 429 what the quota has no room for, and cuts an answer that outgrows it."""

    name: ClassVar[str] = "quota"
    Options: ClassVar[type] = QuotaOptions
    routes: ClassVar[frozenset[Route]] = frozenset({Route.CHAT, Route.AGENTS_API})

    def __init__(self, options: QuotaOptions, services: Services) -> None:
        super().__init__(options, services)
        self._allowance = options.allowance
        self._step = options.step
        self._leases = services.leases
        self._turns: dict[Exchange, MeteredTurn] = {}
        self._contexts: LRUCache[tuple[UUID, str], int] = LRUCache(100_000)
        self._keeper = LeaseKeeper(self._leases, lambda: tuple(self._turns.values()))

    async def start(self) -> None:
        await self._keeper.start()

    async def stop(self) -> None:
        await self._keeper.stop()

    async def on_request(self, exchange: Exchange) -> Reply | None:
        if exchange.route is Route.AGENTS_API and not is_answer(exchange):
            return None
        identity = exchange.signed_in()
        assert exchange.tenant is not None
        body = await exchange.request.json()
        endpoint, _, model = (exchange.model or "").partition("/")
        try:
            turn = NewTurn(
                identity.tenant_id,
                identity.workspace_id,
                identity.user_id,
                _conversation_id(body),
                endpoint,
                model,
                key_id=exchange.api_key.key_id if exchange.api_key is not None else None,
            )
        except ValueError as error:
            raise Refused(400, "invalid_conversation_id", f"conversationId: {error}.") from None
        window = month_window(datetime.now(UTC), exchange.tenant.time_zone)
        of_agents_api = exchange.route is Route.AGENTS_API
        if of_agents_api:
            need = await agents_quota.estimate(body, model, self._count)
        else:
            need = await self._estimate(body, identity.workspace_id) + attached_image_tokens(body, model)
        outcome = await self._leases.begin(turn, window, need, self._allowance)
        if isinstance(outcome, Busy):
            raise concurrent_refusal()
        if isinstance(outcome, Exhausted):
            raise exhausted_refusal(outcome, exchange)
        exchange.turn_id = turn.turn_id
        if of_agents_api:
            meter = AgentsAnswer(exchange, body, self.services.counter, need).meter
        else:
            meter = TurnMeter(self.services.counter, model)
        self._turns[exchange] = MeteredTurn(outcome, meter, self._step, need)
        return None

    async def on_reply(self, exchange: Exchange) -> Reply | None:
        turn = self._turns.get(exchange)
        reply = exchange.reply
        if turn is None or reply is None or reply.status != 200:
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
        try:
            await self._leases.set_conversation(turn.lease, conversation_id)
        except StoreError as error:  # the answer runs already: refused now, nobody would count it
            log.warning("turn %s: its conversation is not recorded: %s", turn.lease.turn_id, error)

    def on_stream(self, exchange: Exchange) -> EventHook | None:
        turn = self._turns.get(exchange)
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
            if meter.at_most > turn.look_at and turn.final is None and turn.state is not TurnState.CUT:
                return self._look(exchange, turn)
            return None

        return count

    def _look_if_due(self, exchange: Exchange, turn: MeteredTurn) -> Awaitable[None] | None:
        due = turn.meter.at_most > turn.look_at and turn.state is not TurnState.CUT
        return self._look(exchange, turn) if due else None

    async def on_finish(self, exchange: Exchange) -> None:
        turn = self._turns.pop(exchange, None)
        if turn is None:
            return
        answer = answer_of(exchange)
        if answer is not None:
            turn.final = answer.final
            if turn.state is not TurnState.CUT:
                turn.state = TurnState.ABORTED if turn.final is None else TurnState.DONE
        if not turn.started:
            await self._keeper.settle(turn.lease, TurnState.REFUSED, ())
            return
        if turn.ahead is not None:
            await asyncio.wait((turn.ahead,))
        charges = turn.meter.finish(turn.final)
        if turn.state is TurnState.CUT:
            charges = within(charges, turn.granted)
        elif turn.state is TurnState.FAILED and not charges:
            charges = [unseen(turn)]
        if answer is None:
            self._remember(exchange, charges)
        await self._keeper.settle(turn.lease, turn.state, charges)
        log.info(
            "%s: turn %s %s, %d tokens",
            exchange.id,
            turn.lease.turn_id,
            turn.state,
            sum(charge.tokens for charge in charges),
        )

    async def _estimate(self, body: dict[str, Any], workspace_id: UUID) -> int:
        """Tokens of the prompt: every text in the body, and what the conversation held when it was last seen."""
        tokens = await self._count("\n".join(long_texts(body)))
        return tokens + self._contexts.get((workspace_id, str(body.get("conversationId"))), 0)

    async def _count(self, texts: str) -> int:
        count = self.services.counter.count
        return count(texts) if len(texts) < MAX_INLINE else await asyncio.to_thread(count, texts)

    def _remember(self, exchange: Exchange, charges: Sequence[Charge]) -> None:
        """Keep the size of a conversation's context for the estimate of its next turn."""
        reply = exchange.reply
        if not charges or exchange.user is None or reply is None or reply.body is None:
            return
        conversation_id = msgspec.json.decode(reply.body).get("conversationId")
        size = max(charge.input_tokens + charge.output_tokens for charge in charges)
        self._contexts[(exchange.user.workspace_id, str(conversation_id))] = size

    def _note(self, turn: MeteredTurn, data: dict[str, Any]) -> None:
        """Remember how the answer ended; take the usage that a resumed stream brings along."""
        if data.get("final"):
            turn.final = data
            if turn.state is not TurnState.CUT:
                turn.state = TurnState.ABORTED if data.get("aborted") else TurnState.DONE
        elif data.get("sync"):
            state = data.get("resumeState")
            usage = state.get("collectedUsage") if isinstance(state, dict) else None
            for each in usage if isinstance(usage, list) else ():
                turn.meter.on_event({"event": "on_token_usage", "data": each})

    def _look(self, exchange: Exchange, turn: MeteredTurn) -> Awaitable[None] | None:
        """Count. Lease ahead when the grant is nearly used up; make the stream wait only when it is."""
        left = turn.granted - turn.meter.consumed
        if left < 0:
            return self._top_up(exchange, turn)
        if left <= turn.reserve and not turn.dry and turn.ahead is None:
            turn.ahead = asyncio.create_task(self._lease_ahead(turn))
        turn.look_later()
        return None

    async def _lease_ahead(self, turn: MeteredTurn) -> None:
        wanted, granted = turn.step, 0
        try:
            granted = (await self._leases.top_up(turn.lease, wanted, turn.meter.consumed)).amount
        except Exception as error:  # noqa: BLE001  # the answer goes on with what it has
            log.warning("turn %s: nothing leased ahead: %s", turn.lease.turn_id, error)
        finally:
            turn.ahead = None
            turn.add(wanted, granted, self._step)

    async def _top_up(self, exchange: Exchange, turn: MeteredTurn) -> None:
        """Lease what the event at hand needs, and a step more; end the stream when there is not enough."""
        if turn.ahead is not None:
            await asyncio.wait((turn.ahead,))
        missing = turn.meter.consumed - turn.granted
        if missing <= 0:
            return
        wanted = missing + turn.step
        try:
            granted, by_key = await self._patient_top_up(turn, wanted)
        except StoreError as error:
            # raised on, it would take the meter off the stream before the provider's report
            turn.state = TurnState.CUT
            log.warning("%s: turn %s is cut: %s", exchange.id, turn.lease.turn_id, error)
            raise EndStream(notice=AWAY_TEXT, code="database_unavailable") from error
        turn.add(wanted, granted, self._step)
        if granted < missing:
            turn.state = TurnState.CUT
            code = KEY_REFUSAL_CODE if by_key else REFUSAL_CODE
            what = "the key's budget" if by_key else "the quota"
            log.info("%s: turn %s is cut: %s is used up", exchange.id, turn.lease.turn_id, what)
            raise EndStream(notice=quota_text(exchange, turn.lease.window.end, by_key=by_key), code=code)

    async def _patient_top_up(self, turn: MeteredTurn, wanted: int) -> Granted:
        for _ in range(TRIES - 1):
            try:
                return await self._leases.top_up(turn.lease, wanted, turn.meter.consumed)
            except StoreError as error:
                log.info("turn %s waits: %s", turn.lease.turn_id, error)
                await asyncio.sleep(PAUSE_S)
        return await self._leases.top_up(turn.lease, wanted, turn.meter.consumed)


def within(charges: list[Charge], granted: int) -> list[Charge]:
    """The charges of a cut answer: what was counted but not passed on is taken off the estimates."""
    over = sum(charge.tokens for charge in charges) - granted
    kept = []
    for charge in charges:
        if over > 0 and charge.estimated:
            less = min(over, charge.output_tokens)
            over -= less
            charge = replace(charge, output_tokens=charge.output_tokens - less)
        kept.append(charge)
    return kept


def _conversation_id(body: dict[str, Any]) -> str | None:
    value = body.get("conversationId")
    if value is None or value in ("", "new"):
        return None
    if not isinstance(value, str) or not CONVERSATION_ID.fullmatch(value):
        raise ValueError("expected letters, digits, - and _, at most 100")
    return value


def unseen(turn: MeteredTurn) -> Charge:
    """The charge of an answer that was started and never seen: its estimated prompt."""
    return Charge("geko", -3, "chat", "", "", turn.need, 0, estimated=True, source=Source.ESTIMATE)


def quota_text(exchange: Exchange, resets_at: datetime, *, by_key: bool = False) -> str:
    """What people read when the quota, or the budget of their API key, is used up."""
    if by_key and exchange.api_key is not None:
        key = exchange.api_key.name
        return (
            f"The monthly token budget of API key {key} is used up. It starts anew on {resets_at:%-d %B %Y}."
        )
    name = exchange.workspace.name if exchange.workspace is not None else "this workspace"
    return f"The monthly token quota of workspace {name} is used up. It starts anew on {resets_at:%-d %B %Y}."


def exhausted_refusal(outcome: Exhausted, exchange: Exchange) -> Refused:
    """429 with free text that LibreChat's client shows in a red box (contract §7.3)."""
    text = quota_text(exchange, outcome.resets_at, by_key=outcome.by_key)
    return Refused(
        429,
        KEY_REFUSAL_CODE if outcome.by_key else REFUSAL_CODE,
        text,
        librechat={"type": "google_error", "info": text},
        details={
            "used": outcome.used,
            "leased": outcome.leased,
            "limit": outcome.limit,
            "resetsAt": outcome.resets_at.isoformat(),
        },
        retry_after_s=int(outcome.resets_at.timestamp() - time.time()),
    )
