"""Lets answers that run obey limits, and time zones, that change, and give back what they can spare."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from geko_proxy.filters.base import Exchange
from geko_proxy.metering.grants import MeteredTurn
from geko_proxy.metering.leases import Amount, NewTurn
from geko_proxy.metering.limits import Hold, Limit

if TYPE_CHECKING:
    from geko_proxy.services import Services

log = logging.getLogger("geko.filters.quota")

Holds = Callable[[Exchange, NewTurn], Awaitable[tuple[tuple[Hold, ...], Sequence[Limit]]]]


class QuotaChanges:
    """holds: the windows that a turn holds now, and its workspace's limits."""

    def __init__(self, services: Services, holds: Holds) -> None:
        self._services = services
        self._holds = holds

    @property
    def generations(self) -> tuple[int | None, int | None]:
        """Another value after each change of a limit or time zone anywhere; with None while changes can't be heard."""
        return self._services.limits.generation, self._services.tenants.generation

    async def apply(self, turns: Mapping[Exchange, MeteredTurn]) -> None:
        """Let turns obey what has changed since they looked last. Raises StoreError: to be done again."""
        current = self.generations
        if None in current:
            return
        for exchange, running in tuple(turns.items()):
            if running.seen != current:
                await self._obey(exchange, running)
                running.seen = current

    async def _obey(self, exchange: Exchange, running: MeteredTurn) -> None:
        turn = running.lease.turn
        tenant = await self._services.tenants.get(turn.tenant_id)
        if tenant is None:
            return
        exchange.tenant = tenant
        holds, limits = await self._holds(exchange, turn)
        if set(holds) - set(running.lease.holds):
            await self._services.leases.hold(running.lease, holds)
            running.hold(holds)
        if limits != running.limits:
            while running.ahead is not None:
                await asyncio.wait((running.ahead,))
            running.ahead = asyncio.create_task(self._give_back(running, running.take_spare()))
            await asyncio.wait((running.ahead,))
            running.limits = limits

    async def _give_back(self, turn: MeteredTurn, spare: Amount) -> None:
        """Give back what is leased beyond a limit that was lowered, so that the answer is cut now and not later."""
        given = spare
        try:
            given = await self._services.leases.give_back(turn.lease, spare)
        except Exception as error:  # noqa: BLE001  # it may be given back or not: leased again when it is needed
            log.warning("turn %s: leases anew: %s", turn.lease.turn_id, error)
        finally:
            turn.ahead = None
            turn.keep(spare, given)
