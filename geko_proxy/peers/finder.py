"""Finds out which instance reads an answer. Asked only about answers that are not read here."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final
from uuid import UUID

from cachetools import TTLCache

from geko_proxy.accounts.tokens import Identity
from geko_proxy.errors import Refused
from geko_proxy.peers.instances import GONE_S, Instances
from geko_proxy.storage.database import Database

FIND: Final = "select * from find_turn($1, $2, $3, $4, $5, $6)"
CONVERSATION_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
LINGER_S: Final = 30.0  # for so long an instance keeps an answer after its end (turns.LINGER_S)
PAUSE_S: Final = 0.2  # a miss is believed for so long, whoever asks
WAIT_S: Final = 0.6  # a browser may come a moment before the message that it follows
MAX_MISSES: Final = 60  # of one person in MISSES_S
MISSES_S: Final = 10.0

Key = tuple[UUID, UUID, str | None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer is read. url: None when that instance is gone, empty when it can't be reached."""

    turn_id: UUID
    instance_id: UUID
    running: bool
    url: str | None


class TurnFinder:
    """Looks turns up in the database, each at most once in PAUSE_S however many ask for it."""

    def __init__(
        self, database: Database, instances: Instances, clock: Callable[[], float] = monotonic
    ) -> None:
        self._database = database
        self._instances = instances
        self._asking: dict[Key, asyncio.Task[Place | None]] = {}
        self._missed: TTLCache[Key, bool] = TTLCache(10_000, PAUSE_S, clock)
        self._misses: TTLCache[UUID, list[None]] = TTLCache(10_000, MISSES_S, clock)

    async def find(self, caller: Identity, conversation_id: str) -> Place | None:
        """Where the caller's answer in this conversation is read, or was until a moment ago.

        With other instances about, waits a moment for one that is about to begin. Raises Refused 429 for somebody
        who asks for too many that don't run, and StoreError.
        """
        if not CONVERSATION_ID.fullmatch(conversation_id):
            return None
        place = await self._ask(caller, conversation_id)
        waited = 0.0
        while place is None and self._instances.others and waited < WAIT_S:
            waited += PAUSE_S
            await asyncio.sleep(PAUSE_S)
            place = await self._ask(caller, conversation_id)
        if place is None:
            self._misses.setdefault(caller.user_id, []).append(None)
        return place

    async def latest(self, caller: Identity) -> Place | None:
        """Where the answer is read that the caller began last, of those that run. Raises as `find`."""
        return await self._ask(caller, None)

    async def _ask(self, caller: Identity, conversation_id: str | None) -> Place | None:
        if len(self._misses.get(caller.user_id, ())) >= MAX_MISSES:
            text = "You asked for too many answers that don't run."
            raise Refused(429, "rate_limited", text, retry_after_s=int(MISSES_S))
        key = (caller.workspace_id, caller.user_id, conversation_id)
        if key in self._missed:
            return None
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._look_up(caller, conversation_id))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        place = await asyncio.shield(task)
        if place is None:
            self._missed[key] = True
        return place

    async def _look_up(self, caller: Identity, conversation_id: str | None) -> Place | None:
        ids = (caller.tenant_id, caller.workspace_id, caller.user_id)
        row = await self._database.call(FIND, *ids, conversation_id, LINGER_S, GONE_S)
        return Place(row["turn_id"], row["instance_id"], row["running"], row["url"]) if row else None
