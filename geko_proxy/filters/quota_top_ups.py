"""Leases more while an answer streams: ahead of what it needs, so that it waits only when there is nothing left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from geko_proxy.errors import StoreError
from geko_proxy.filters.base import EndStream, Exchange
from geko_proxy.llm.call import model_call_of
from geko_proxy.metering.grants import MeteredTurn
from geko_proxy.metering.leases import Amount, Granted
from geko_proxy.metering.lifecycle import Outcome

if TYPE_CHECKING:
    from geko_proxy.services import Services

log = logging.getLogger("geko.filters.quota")

# Of a top-up while the database is away: the answer waits, and is not cut for that.
TRIES: Final = 20
PAUSE_S: Final = 0.5
NOTHING: Final = Amount(0)
AWAY_TEXT: Final = "The answer was ended because the quota can't be checked at the moment. Try again soon."

Cut = Callable[[Exchange, MeteredTurn, Granted], Awaitable[EndStream]]


class TopUps:
    """step: tokens of an answer's first top-up. cut: makes the end of an answer that a limit leaves no room for."""

    def __init__(self, services: Services, step: int, cut: Cut) -> None:
        self._leases = services.leases
        self._calls = services.calls
        self._step = step
        self._cut = cut

    def look(self, exchange: Exchange, turn: MeteredTurn) -> Awaitable[None] | None:
        """Count. Lease ahead when the grant is nearly used up; what is returned is to be waited for, None: go on.

        Waiting raises EndStream when a limit has no room for the event at hand.
        """
        left = turn.left
        if left < 0:
            return self._top_up(exchange, turn)
        if left <= turn.reserve and not turn.dry and turn.ahead is None:
            turn.ahead = asyncio.create_task(self._lease_ahead(turn))
        turn.look_later()
        return None

    async def _lease_ahead(self, turn: MeteredTurn) -> None:
        wanted, granted = turn.step_amount(), Granted()
        try:
            granted = await self._leases.top_up(turn.lease, NOTHING, wanted, turn.consumed)
        except Exception as error:  # noqa: BLE001  # the answer goes on with what it has
            log.warning("turn %s: nothing leased ahead: %s", turn.lease.turn_id, error)
        finally:
            turn.ahead = None
            turn.add(wanted, granted, self._step)

    async def _top_up(self, exchange: Exchange, turn: MeteredTurn) -> None:
        """Lease what the event at hand needs, and a step more; end the stream when there is not enough."""
        if turn.ahead is not None:
            await asyncio.wait((turn.ahead,))
        missing, step = turn.missing, turn.step_amount()
        if missing == NOTHING:
            return
        try:
            granted = await self._patiently(turn, missing, step)
        except StoreError as error:
            # raised on, it would take the meter off the stream before the provider's report
            turn.outcome = Outcome.CUT
            log.warning("%s: turn %s is cut: %s", exchange.id, turn.lease.turn_id, error)
            raise EndStream(notice=AWAY_TEXT, code="database_unavailable") from error
        turn.add(Amount(missing.tokens + step.tokens, missing.cost + step.cost), granted, self._step)
        if granted.tokens < missing.tokens or granted.cost < missing.cost:
            turn.outcome = Outcome.CUT
            await self._tell_message(exchange, turn, granted)
            raise await self._cut(exchange, turn, granted)

    async def _tell_message(self, exchange: Exchange, turn: MeteredTurn, granted: Granted) -> None:
        """Tell the message of a call on the LLM side that a limit has cut it."""
        call = model_call_of(exchange)
        if call is None or call.origin.parent is None:
            return
        try:
            await self._calls.note_cut(turn.lease.tenant_id, call.origin.parent.turn_id, granted.limit_id)
        except StoreError as error:
            log.warning("turn %s: its message is not told of the cut: %s", turn.lease.turn_id, error)

    async def _patiently(self, turn: MeteredTurn, missing: Amount, step: Amount) -> Granted:
        for _ in range(TRIES - 1):
            try:
                return await self._leases.top_up(turn.lease, missing, step, turn.consumed)
            except StoreError as error:
                log.info("turn %s waits: %s", turn.lease.turn_id, error)
                await asyncio.sleep(PAUSE_S)
        return await self._leases.top_up(turn.lease, missing, step, turn.consumed)
