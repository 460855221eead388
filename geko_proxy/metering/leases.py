"""Leases: how a turn takes tokens from its workspace's quota before they are passed on, and settles at the end.

PostgreSQL decides alone: nothing is counted in this process, so any number of instances share one limit exactly.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import msgspec
from cachetools import LRUCache

from geko_proxy.errors import StoreError
from geko_proxy.metering import statements
from geko_proxy.metering.ledger import Charge
from geko_proxy.metering.windows import Window
from geko_proxy.storage.database import Database

if TYPE_CHECKING:
    from asyncpg import Record

log = logging.getLogger(__name__)

ATTEMPTS: Final = 6
BACKOFF_S: Final = 0.005
KNOWN_WINDOWS: Final = 10_000
RECOVERY_BATCH: Final = 100
MAX_ID_CHARS: Final = 200


class TurnState(StrEnum):
    """What became of a turn. CUT: ended for the quota. REFUSED: LibreChat did not take it. LOST: its GEKO died."""

    RUNNING = "running"
    DONE = "done"
    ABORTED = "aborted"
    CUT = "cut"
    FAILED = "failed"
    REFUSED = "refused"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class NewTurn:
    """A turn about to start. conversation_id None: a new chat, LibreChat will name it. key_id: the API key it came
    with; its budget then counts beside the workspace's quota.

    Raises ValueError for a conversation id that is empty, longer than 200 characters or holds a NUL.
    """

    tenant_id: UUID
    workspace_id: UUID
    user_id: UUID
    conversation_id: str | None
    endpoint: str
    model: str
    turn_id: UUID = field(default_factory=uuid4)
    key_id: UUID | None = None

    def __post_init__(self) -> None:
        if self.conversation_id is not None:
            check_conversation_id(self.conversation_id)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of a running turn to `granted` tokens of its window; `Leases.top_up` adds to it."""

    tenant_id: UUID
    workspace_id: UUID
    user_id: UUID
    turn_id: UUID
    window: Window
    granted: int
    key_id: UUID | None = None


class Granted(NamedTuple):
    """What a top-up gave, in tokens. by_key: if it is less than wanted, the key's budget is why, not the quota."""

    amount: int
    by_key: bool = False


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The quota (by_key: the API key's budget) has no room for the turn. All numbers are tokens."""

    used: int
    leased: int
    limit: int
    resets_at: datetime
    by_key: bool = False


@dataclass(frozen=True, slots=True)
class Busy:
    """An answer of this conversation is still running."""

    conversation_id: str


class Leases:
    """Begins, tops up and settles leases. Methods raise StoreError when the database cannot do it.

    ttl_s: seconds without top_up or heartbeat after which a turn's instance is taken for dead. instance_id: of this
    process; it says where a turn is read.
    """

    def __init__(self, db: Database, *, ttl_s: float = 20.0, instance_id: UUID | None = None) -> None:
        self._db = db
        self.instance_id = instance_id
        self._ttl_s = ttl_s
        self._running_flush: asyncio.Task[None] | None = None
        self._next_flush: asyncio.Task[None] | None = None
        self._windows: LRUCache[tuple[UUID, UUID, datetime], bool] = LRUCache(KNOWN_WINDOWS)

    async def ensure_window(self, tenant_id: UUID, workspace_id: UUID, window: Window) -> None:
        """Opens the quota window of a workspace; asks the database once per process."""
        key = (tenant_id, workspace_id, window.start)
        if key not in self._windows:
            await self._fetch(tenant_id, statements.OPEN_WINDOW, workspace_id, window.start, window.end)
            self._windows[key] = True

    async def ensure_key_window(self, tenant_id: UUID, key_id: UUID, window: Window) -> None:
        """Opens the window of a key's budget; asks the database once per process."""
        key = (tenant_id, key_id, window.start)
        if key not in self._windows:
            await self._fetch(tenant_id, statements.OPEN_KEY_WINDOW, key_id, window.start, window.end)
            self._windows[key] = True

    async def begin(
        self, turn: NewTurn, window: Window, need: int, allowance: int
    ) -> Lease | Exhausted | Busy:
        """Starts a turn: leases `need` tokens and up to `allowance` more, as far as they fit.

        need: the estimated prompt, at least 1 is taken. Granted only while used + leased + need <= limit, for the
        workspace and for the turn's key. Leases of vanished instances are recovered before anything is refused.
        """
        need, allowance = max(1, need), max(0, allowance)
        await self.ensure_window(turn.tenant_id, turn.workspace_id, window)
        if turn.key_id is not None:
            await self.ensure_key_window(turn.tenant_id, turn.key_id, window)
        outcome = await self._begin(turn, window, need, allowance)
        if isinstance(outcome, Lease) or not await self._recover_workspace(turn):
            return outcome
        return await self._begin(turn, window, need, allowance)

    async def set_conversation(self, lease: Lease, conversation_id: str) -> None:
        """Names the conversation of a turn that began without one.

        If another turn of it is running the name is left out and a warning logged. Raises ValueError as NewTurn.
        """
        check_conversation_id(conversation_id)
        try:
            await self._call(lease.tenant_id, statements.SET_CONVERSATION, lease.turn_id, conversation_id)
        except asyncpg.UniqueViolationError:
            log.warning("turn %s: its conversation has another running turn", lease.turn_id)

    async def top_up(self, lease: Lease, step: int, consumed: int) -> Granted:
        """Takes up to `step` more tokens and says how many; 0: the quota, the budget or the lease is at its end.

        consumed: tokens used so far, stored for the case that this instance dies. Extends the lease.
        """
        row = await self._call(
            lease.tenant_id,
            statements.TOP_UP,
            lease.turn_id,
            max(0, step),
            max(0, consumed),
            self._ttl_s,
            lease.key_id,
        )
        return Granted(row["amount"], row["by_key"]) if row else Granted(0)

    async def heartbeat(self, lease: Lease, consumed: int) -> bool:
        """Extends the lease and stores the tokens used so far; False: it has expired and was recovered."""
        row = await self._call(
            lease.tenant_id, statements.HEARTBEAT, lease.turn_id, max(0, consumed), self._ttl_s
        )
        return row is not None

    async def settle(self, lease: Lease, state: TurnState, charges: Sequence[Charge]) -> None:
        """Ends a turn: writes its charges to the ledger, charges the window, gives the rest of the lease back.

        Idempotent. A turn that was recovered meanwhile is corrected to the real charges. Returns when it is on disk.
        """
        payload = msgspec.json.encode(charges).decode()
        await self._call(
            lease.tenant_id, statements.SETTLE, lease.turn_id, state.value, payload, lease.key_id
        )
        if charges:
            await self._flush()

    async def _flush(self) -> None:
        """Wait until what was committed is on disk; those who come while one flush runs share the next."""
        if self._next_flush is None:
            self._next_flush = asyncio.create_task(self._flush_after(self._running_flush))
        await asyncio.shield(self._next_flush)

    async def _flush_after(self, running: asyncio.Task[None] | None) -> None:
        if running is not None:
            await asyncio.wait({running})
        self._running_flush, self._next_flush = self._next_flush, None
        await self._db.call(statements.FLUSH)

    async def release(self, lease: Lease) -> None:
        """Ends a turn that LibreChat refused: nothing is charged."""
        await self.settle(lease, TurnState.REFUSED, ())

    async def recover_expired(self, now: datetime | None = None) -> int:
        """Ends the turns of vanished instances, of all tenants; returns how many.

        Each is charged what its last heartbeat said, marked as estimated. now: None means the database's clock.
        """
        recovered = 0
        while True:
            async with self._db.system() as system:
                rows = await system.fetch(statements.FIND_EXPIRED, now, RECOVERY_BATCH)
            done = sum([await self._recover(row["tenant_id"], row["turn_id"], now) for row in rows])
            recovered += done
            if len(rows) < RECOVERY_BATCH or not done:
                return recovered

    async def _begin(
        self, turn: NewTurn, window: Window, need: int, allowance: int
    ) -> Lease | Exhausted | Busy:
        key = (turn.workspace_id, window.start, need, allowance)
        names = (turn.turn_id, turn.user_id, turn.conversation_id, turn.endpoint, turn.model)
        try:
            row = await self._call(turn.tenant_id, statements.BEGIN, *key, *names, self._ttl_s, turn.key_id)
        except asyncpg.UniqueViolationError:
            return Busy(turn.conversation_id or "")
        if row is None:
            self._windows.pop((turn.tenant_id, turn.workspace_id, window.start), None)
            if turn.key_id is not None:
                self._windows.pop((turn.tenant_id, turn.key_id, window.start), None)
            raise StoreError("the quota window has been deleted")
        if row["amount"] is None:
            numbers = (row["used"], row["leased"], row["token_limit"], row["ends_at"])
            return Exhausted(*numbers, by_key=row["by_key"])
        ids = (turn.tenant_id, turn.workspace_id, turn.user_id, turn.turn_id)
        if self.instance_id is not None:
            await self._call(turn.tenant_id, statements.OWN, turn.turn_id, self.instance_id)
        return Lease(*ids, window, granted=row["amount"], key_id=turn.key_id)

    async def _recover_workspace(self, turn: NewTurn) -> bool:
        row = await self._fetch(turn.tenant_id, statements.EXPIRED_OF_WORKSPACE, turn.workspace_id)
        turn_ids = row["turn_ids"] if row else []
        return any([await self._recover(turn.tenant_id, turn_id, None) for turn_id in turn_ids])

    async def _recover(self, tenant_id: UUID, turn_id: UUID, now: datetime | None) -> bool:
        row = await self._fetch(tenant_id, statements.RECOVER, turn_id, now)
        if row is not None:
            log.warning("turn %s: its instance has vanished, charged by its last heartbeat", turn_id)
        return row is not None

    async def _fetch(self, tenant_id: UUID, sql: str, *args: object) -> Record | None:
        """One statement in a transaction of a tenant."""

        async def run() -> Record | None:
            async with self._db.tenant(tenant_id) as scope:
                return await scope.fetch_row(sql, *args)

        return await repeated(run)

    async def _call(self, tenant_id: UUID, sql: str, *args: object) -> Record | None:
        """One of the functions that enter the tenant themselves: one round trip."""
        return await repeated(lambda: self._db.call(sql, tenant_id, *args))


async def repeated(run: Callable[[], Awaitable[Record | None]]) -> Record | None:
    """Runs a transaction of one statement again when PostgreSQL gives up a lock cycle."""
    for attempt in range(ATTEMPTS):
        try:
            return await run()
        except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
            await asyncio.sleep(BACKOFF_S * 2**attempt)
    raise StoreError("too many transactions want the same quota rows")


def check_conversation_id(conversation_id: str) -> None:
    """Raises ValueError for an id that no conversation can have: the client chooses what it sends."""
    if not 0 < len(conversation_id) <= MAX_ID_CHARS or "\x00" in conversation_id:
        raise ValueError("not a conversation id")
