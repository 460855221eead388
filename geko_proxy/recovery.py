"""Settles the turns of instances that have vanished, by what LibreChat knows of them (docs/recovery.md).

A turn is taken over by one instance at a time, as its lease is. An answer that still runs is read to its end like any
other turn; one that has ended is charged by its stored message; else its last heartbeat counts. Who has taken a turn
over keeps its lease alive, so an adopter that dies is replaced like anybody else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote
from uuid import UUID

from multidict import CIMultiDict, CIMultiDictProxy

from geko_proxy.accounts.api_keys import ApiKey
from geko_proxy.accounts.shadow import Shadow
from geko_proxy.accounts.tokens import Identity
from geko_proxy.errors import StoreError, UpstreamError
from geko_proxy.exchange import Exchange, Request, Route
from geko_proxy.metering.grants import MeteredTurn, Pricing
from geko_proxy.metering.keeper import HEARTBEAT_S, TICK_S
from geko_proxy.metering.leases import Adopted, Amount
from geko_proxy.metering.ledger import Charge, Ledger
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.metering.limits import holds_of
from geko_proxy.metering.meter import TurnMeter
from geko_proxy.metering.stored_answers import Message, estimate, find_answer, last_heartbeat, rollup_charge
from geko_proxy.turn import Turn
from geko_proxy.workspaces.roles import Role

if TYPE_CHECKING:
    from geko_proxy.filters.chain import Chain
    from geko_proxy.services import Services

log = logging.getLogger("geko.recovery")

LOOK_S: Final = 2.0
# After the database was away everybody's leases are old, and everybody beats first: a heartbeat, a tick, and some more.
GRACE_S: Final = HEARTBEAT_S + TICK_S + 4.0
AT_ONCE: Final = 16  # turns that LibreChat is asked about at the same time
MOST_WAITING: Final = 500  # turns that wait to be asked about; the rest is left to others, or to later
OWN_PATIENCE: Final = 5  # times that a lease of this instance may expire before it is taken for forgotten
LIBRECHAT_PATIENCE_S: Final = 3600.0  # how long it may be away before the estimate counts
PAUSE_S: Final = 1.0
UNFINISHED_TRIES: Final = 3  # LibreChat saves once more after an abort (contract §4.4)
EARLIER: Final = timedelta(hours=6)  # so long an earlier turn of a conversation may have run


class Recovery:
    """The janitor of one instance. chain: whose filters see the answers that are taken over."""

    def __init__(self, services: Services, chain: Chain, clock: Callable[[], float] = time.monotonic) -> None:
        self._services = services
        self._chain = chain
        self._clock = clock
        self._ledger = Ledger(services.database)
        self._trust_from = clock()
        self._waiting: dict[UUID, Adopted] = {}
        self._own: dict[UUID, int] = {}
        self._free = asyncio.Semaphore(AT_ONCE)
        self._loops: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin."""
        self._loops = [
            asyncio.create_task(self._every(LOOK_S, self.look), name="recovery"),
            asyncio.create_task(self._every(HEARTBEAT_S, self.beat), name="recovery heartbeats"),
        ]

    async def stop(self) -> None:
        """End; what waits is left to another instance, or to the next start."""
        tasks = [*self._loops, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def look(self) -> int:
        """Take over what has expired, unless the database was away a moment ago; how many turns. Raises StoreError."""
        room = MOST_WAITING - len(self._waiting)
        if room <= 0 or self._clock() < self._trust_from:
            return 0
        adopted = await self._services.leases.adopt(most=min(room, 100))
        taken = [each for each in adopted if not self._is_own(each)]
        for each in taken:
            self._waiting[each.lease.turn_id] = each
            task = asyncio.create_task(self._recover(each))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return len(taken)

    async def beat(self) -> None:
        """Keep the leases of turns that wait. Raises StoreError."""
        by_tenant: dict[UUID, dict[UUID, Amount]] = {}
        for turn_id, each in self._waiting.items():
            by_tenant.setdefault(each.lease.tenant_id, {})[turn_id] = each.consumed
        for tenant_id, consumed in by_tenant.items():
            await self._services.leases.heartbeat(tenant_id, consumed)

    def _is_own(self, adopted: Adopted) -> bool:
        """Whether the lease was this instance's: the turn still runs here, or will be settled when it can be."""
        turn_id = adopted.lease.turn_id
        if adopted.owner != self._services.leases.instance_id:
            return False
        self._own[turn_id] = self._own.get(turn_id, 0) + 1
        if self._own[turn_id] > OWN_PATIENCE:
            del self._own[turn_id]
            return turn_id in self._waiting
        return True

    async def _recover(self, adopted: Adopted) -> None:
        turn_id = adopted.lease.turn_id
        give_up_at = self._clock() + LIBRECHAT_PATIENCE_S
        try:
            while True:
                try:
                    async with self._free:
                        await self._try(adopted, last=self._clock() >= give_up_at)
                    return
                except (UpstreamError, StoreError) as error:
                    log.info("turn %s: not recovered yet: %s", turn_id, error)
                    await asyncio.sleep(PAUSE_S)
        except Exception:
            log.exception("turn %s could not be recovered", turn_id)
        finally:
            self._waiting.pop(turn_id, None)

    async def _try(self, adopted: Adopted, *, last: bool) -> None:
        """Take the answer over if it runs, else settle it. Raises StoreError; UpstreamError before the last try."""
        turn = adopted.lease.turn
        place = (turn.tenant_id, turn.workspace_id, turn.user_id)
        account = await self._services.shadow_store.get(*place)
        charges: list[Charge] = []
        if account is not None and turn.conversation_id is not None:
            shadow = Shadow(account.librechat_user_id, account.email)
            try:
                if await self._is_running(shadow, turn.conversation_id):
                    await self._take_over(adopted, shadow, turn.conversation_id)
                    return
                charges = await self._stored(adopted, shadow, turn.conversation_id)
            except UpstreamError:
                if not last:
                    raise
        await self._settle(adopted, charges)

    async def _get(self, shadow: Shadow, path: str) -> Any:
        """A reply of LibreChat; None if it says that there is nothing. Raises UpstreamError for anything else."""
        bearer = await self._services.shadows.bearer(shadow)
        answer = await self._services.client.call("GET", path, bearer=bearer)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise UpstreamError(f"LibreChat answered {answer.status}")
        return answer.value

    async def _is_running(self, shadow: Shadow, conversation_id: str) -> bool:
        status = await self._get(shadow, f"/api/agents/chat/status/{quote(conversation_id, safe='')}")
        return isinstance(status, dict) and status.get("active") is True

    async def _stored(self, adopted: Adopted, shadow: Shadow, conversation_id: str) -> list[Charge]:
        """What the stored answer says; empty: there is none. Never less than the last heartbeat if it is estimated."""
        turn = adopted.lease.turn
        paid = await self._ledger.other_runs(
            turn.tenant_id, turn.workspace_id, conversation_id, turn.turn_id, turn.started_at - EARLIER
        )
        path = f"/api/messages/{quote(conversation_id, safe='')}"
        messages, answer = await self._answer(adopted, shadow, path, paid)
        for _ in range(UNFINISHED_TRIES):
            if answer is None or rollup_charge(answer) is not None or not answer.get("unfinished"):
                break
            await asyncio.sleep(PAUSE_S)
            messages, answer = await self._answer(adopted, shadow, path, paid)
        if answer is None:
            return []
        exact = rollup_charge(answer)
        if exact is not None:
            return [exact]
        estimated = estimate(messages, answer, self._services.counter, turn.model)
        return [estimated] if estimated.tokens >= adopted.consumed.tokens else []

    async def _answer(
        self, adopted: Adopted, shadow: Shadow, path: str, paid: Mapping[str, int]
    ) -> tuple[Sequence[Message], Message | None]:
        """The stored messages of a conversation, and which one answers the turn."""
        given = await self._get(shadow, path)
        messages = [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
        return messages, find_answer(messages, adopted.lease.turn.started_at, paid)

    async def _settle(self, adopted: Adopted, charges: list[Charge]) -> None:
        """Charge what is known; without charges, what the last heartbeat said. Raises StoreError."""
        turn = adopted.lease.turn
        if charges:
            table = await self._services.prices.table(turn.tenant_id)
            charges = Pricing(turn, (), table).priced(charges)
        else:
            charges = last_heartbeat(*adopted.consumed, turn.model)
        await self._services.leases.settle(adopted.lease, Outcome.LOST, charges, recovering=True)
        estimated = any(each.estimated for each in charges)
        log.warning(
            "turn %s: its instance has vanished; charged %d tokens by %s",
            turn.turn_id,
            sum(each.tokens for each in charges),
            "estimate" if estimated else "LibreChat's stored answer",
        )

    async def _take_over(self, adopted: Adopted, shadow: Shadow, conversation_id: str) -> None:
        """Read an answer on that still runs. From here it is a turn of this instance. Raises StoreError."""
        exchange = await self._exchange(adopted)
        hooks = self._chain.events(exchange)
        turn = Turn(
            exchange,
            conversation_id,
            self._services.client,
            lambda: self._services.shadows.bearer(shadow),
            hooks,
            taken_over=True,
        )
        self._services.turns.start(turn, lambda: self._chain.finish(exchange))
        log.warning("turn %s: its instance has vanished; its answer is read on here", exchange.turn_id)

    async def _exchange(self, adopted: Adopted) -> Exchange:
        """The exchange of the message that began the turn, as far as it is known."""
        services, turn = self._services, adopted.lease.turn
        place = (turn.tenant_id, turn.workspace_id, turn.user_id)
        request = Request("POST", "/api/agents/chat", "", CIMultiDictProxy(CIMultiDict()), body=b"{}")
        exchange = Exchange(f"recovery-{turn.turn_id.hex[:12]}", request, Route.CHAT, "chat", {}, time.time())
        role = await services.members.role(*place)
        exchange.user = Identity(
            turn.user_id, turn.tenant_id, turn.workspace_id, role or Role.MEMBER, turn.turn_id
        )
        exchange.tenant = await services.tenants.get(turn.tenant_id)
        exchange.workspace = await services.workspaces.get(turn.tenant_id, turn.workspace_id)
        exchange.role, exchange.turn_id = role, turn.turn_id
        if turn.key_id is not None:  # the answer ends when the key is revoked, here as there
            ids = (turn.tenant_id, turn.key_id, turn.workspace_id, turn.user_id)
            exchange.api_key = ApiKey(*ids, name="", scopes=frozenset())
        exchange.model = f"{turn.endpoint}/{turn.model}"
        zone = exchange.tenant.time_zone if exchange.tenant is not None else "UTC"
        limits = await services.limits.list(turn.tenant_id, turn.workspace_id)
        lease = replace(adopted.lease, holds=holds_of(limits, turn.actor, turn.started_at, zone))
        pricing = Pricing(turn, lease.holds, await services.prices.table(turn.tenant_id))
        meter = TurnMeter(services.counter, turn.model)
        metered = MeteredTurn(lease, meter, 1, adopted.consumed.tokens, pricing)
        metered.recovering = True
        exchange.state[MeteredTurn] = metered
        return exchange

    async def _every(self, seconds: float, work: Callable[[], Any]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await work()
            except StoreError as error:
                log.info("recovery waits: %s", error)
                self._trust_from = self._clock() + GRACE_S
            except Exception:
                log.exception("recovery failed")
