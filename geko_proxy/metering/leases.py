"""Leases: how a turn takes tokens from its limits before they are passed on, and settles at the end.

PostgreSQL decides alone: nothing is counted in this process, so any number of instances share one limit exactly.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import msgspec
from cachetools import LRUCache

from geko_proxy.errors import StoreError
from geko_proxy.metering import statements
from geko_proxy.metering.call_rows import NO_CALL, CallRow
from geko_proxy.metering.ledger import Charge
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.metering.limits import Actor, Hold, Unit, arrays
from geko_proxy.metering.windows import Window
from geko_proxy.storage.database import Database

if TYPE_CHECKING:
    from asyncpg import Record

log = logging.getLogger(__name__)

ATTEMPTS: Final = 6
BACKOFF_S: Final = 0.005
KNOWN_WINDOWS: Final = 10_000
RECOVERY_BATCH: Final = 100
BY_CALLS: Final = -1  # the room of a turn that needs no lease: its calls on the LLM side have theirs
MAX_ID_CHARS: Final = 200


class Amount(NamedTuple):
    """What is taken or used: tokens, and what they cost in billionths of the currency."""

    tokens: int
    cost: int = 0


@dataclass(frozen=True, slots=True)
class NewTurn:
    """A turn about to start. conversation_id None: a new chat, LibreChat will name it. key_id: the API key it came
    with.

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
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        if self.conversation_id is not None:
            check_conversation_id(self.conversation_id)

    @property
    def actor(self) -> Actor:
        """Who asks which model."""
        return Actor(self.workspace_id, self.user_id, self.key_id, self.endpoint, self.model)


@dataclass(slots=True, unsafe_hash=True)
class Lease:
    """The right of a running turn to what was granted at its start, in its windows; `Leases.top_up` adds to it.

    context: tokens that its conversation held before, part of what was leased.
    conversation_id: as LibreChat has named it, for a turn that began without one. call: of a call, what its row says.
    """

    turn: NewTurn
    holds: tuple[Hold, ...] = field(hash=False)  # a new limit adds to them
    granted: Amount
    context: int = 0
    conversation_id: str | None = field(default=None, hash=False)
    call: CallRow = field(default=NO_CALL, hash=False)

    @property
    def tenant_id(self) -> UUID:
        return self.turn.tenant_id

    @property
    def turn_id(self) -> UUID:
        return self.turn.turn_id


class Granted(NamedTuple):
    """What a top-up gave. limit_id: the limit that gave less than was wanted. room: tokens that are still free in the
    narrowest window; None: no limit, or BY_CALLS."""

    tokens: int = 0
    cost: int = 0
    limit_id: UUID | None = None
    room: int | None = None


@dataclass(frozen=True, slots=True)
class Exhausted:
    """A limit has no room for the turn. used, leased and limit are in its unit."""

    used: int
    leased: int
    limit: int
    resets_at: datetime
    limit_id: UUID
    unit: Unit = Unit.TOKENS


@dataclass(frozen=True, slots=True)
class Busy:
    """An answer of this conversation is still running."""

    conversation_id: str


@dataclass(frozen=True, slots=True)
class Adopted:
    """A turn whose instance vanished, with what its last heartbeat said. This instance settles it now.

    owner: the instance that had it before.
    """

    lease: Lease
    consumed: Amount
    owner: UUID | None = None


class Leases:
    """Begins, tops up and settles leases. Methods raise StoreError when the database cannot do it.

    ttl_s: seconds without top_up or heartbeat after which a turn's instance is taken for dead. instance_id: this one.
    """

    def __init__(self, db: Database, *, ttl_s: float = 12.0, instance_id: UUID | None = None) -> None:
        self._db = db
        self._ttl_s = ttl_s
        self.instance_id = instance_id or uuid4()
        self._running_flush: asyncio.Task[None] | None = None
        self._next_flush: asyncio.Task[None] | None = None
        self._windows: LRUCache[tuple[UUID, UUID, str, Window], bool] = LRUCache(KNOWN_WINDOWS)

    async def open_windows(self, tenant_id: UUID, workspace_id: UUID, holds: Sequence[Hold]) -> None:
        """Opens windows with what the ledger holds for their time; asks the database once per process for each."""
        new = [hold for hold in holds if self._key(tenant_id, hold) not in self._windows]
        if not new:
            return
        ends, units = [hold.window.end for hold in new], [hold.unit.value for hold in new]
        found_by = [hold.scope.value for hold in new], [hold.pattern for hold in new]
        await self._call(
            tenant_id, statements.OPEN_WINDOWS, workspace_id, *arrays(new), ends, units, *found_by
        )
        for hold in new:
            self._windows[self._key(tenant_id, hold)] = True

    async def begin(
        self, turn: NewTurn, holds: tuple[Hold, ...], need: Amount, allowance: Amount, prompt_price: int = 0
    ) -> Lease | Exhausted | Busy:
        """Starts a turn: leases `need` and up to `allowance` more, as far as they fit.

        holds: the windows it leases in, as `holds_of` gives them. need: what the message adds to its conversation, at
        least 1 token is taken; what the conversation held at its last turn is added to it. prompt_price: billionths of
        the currency for a million tokens of that. Granted only while used + leased + need <= amount in each window.
        """
        need = Amount(max(1, need.tokens), max(0, need.cost))
        allowance = Amount(max(0, allowance.tokens), max(0, allowance.cost))
        wanted = (need.tokens, allowance.tokens, need.cost, allowance.cost)
        try:
            row = await self.start(
                statements.BEGIN, turn, holds, wanted, turn.conversation_id, extra=(prompt_price,)
            )
        except asyncpg.UniqueViolationError:
            return Busy(turn.conversation_id or "")
        if row["limit_id"] is not None:
            return exhausted_of(row)
        return Lease(turn, holds, Amount(row["amount"], row["cost"]), row["context"])

    async def start(
        self,
        sql: str,
        turn: NewTurn,
        holds: tuple[Hold, ...],
        wanted: tuple[int, int, int, int],
        conversation_id: str | None,
        extra: tuple[object, ...],
    ) -> Record:
        """Runs one of the functions that start a lease, which share their first parameters; `extra` are the rest.

        wanted: need and allowance in tokens, then in money.
        """
        names = (turn.turn_id, turn.user_id, conversation_id, turn.endpoint, turn.model, turn.key_id)
        place = (turn.workspace_id, *arrays(holds))
        rest = (self.instance_id, turn.started_at, self._ttl_s, *extra)
        for _ in range(2):  # the server may have lost in a crash what was opened a moment ago
            await self.open_windows(turn.tenant_id, turn.workspace_id, holds)
            row = await self._call(turn.tenant_id, sql, *place, *wanted, *names, *rest)
            if row is not None:
                return row
            self._forget(turn.tenant_id, holds)
        raise StoreError("a quota window has been deleted")

    async def hold(self, lease: Lease, holds: Sequence[Hold]) -> bool:
        """Lets a running turn count in more windows: those of a new limit, or of a new time zone.

        False: the lease is gone. What it holds already is passed over.
        """
        await self.open_windows(lease.tenant_id, lease.turn.workspace_id, holds)
        row = await self._call(lease.tenant_id, statements.HOLD, lease.turn_id, *arrays(holds))
        return row is not None

    async def give_back(self, lease: Lease, spare: Amount) -> Amount:
        """Gives back what a running turn can spare, as far as its limits have leased out more than they have now.

        Returns what was given back; nothing when the lease is gone.
        """
        wanted = (max(0, spare.tokens), max(0, spare.cost))
        row = await self._call(lease.tenant_id, statements.GIVE_BACK, lease.turn_id, *wanted)
        return Amount(row["amount"], row["cost"]) if row else Amount(0)

    async def set_conversation(self, lease: Lease, conversation_id: str) -> None:
        """Names the conversation of a turn that began without one.

        If another turn of it is running the name is left out and a warning logged. Raises ValueError as NewTurn.
        """
        check_conversation_id(conversation_id)
        try:
            await self._call(lease.tenant_id, statements.SET_CONVERSATION, lease.turn_id, conversation_id)
        except asyncpg.UniqueViolationError:
            log.warning("turn %s: its conversation has another running turn", lease.turn_id)

    async def top_up(self, lease: Lease, need: Amount, step: Amount, consumed: Amount) -> Granted:
        """Takes up to need + step more and says how much; nothing when the limits or the lease are at their end.

        need: what is missing; when it isn't granted the turn is marked as cut. consumed: what was used so far, stored
        for the case that this instance dies. Extends the lease.
        """
        wanted = (need.tokens, step.tokens, need.cost, step.cost)
        numbers = [max(0, number) for number in (*wanted, *consumed)]
        args = (lease.turn_id, *numbers, self._ttl_s)
        row = await self._call(lease.tenant_id, statements.TOP_UP, *args)
        if row is None:
            held = Amount(consumed.tokens - need.tokens, consumed.cost - need.cost)
            if await self.restore(lease, held, consumed):
                row = await self._call(lease.tenant_id, statements.TOP_UP, *args)
        return Granted(row["amount"], row["cost"], row["limit_id"], row["room"]) if row else Granted()

    async def restore(self, lease: Lease, granted: Amount, consumed: Amount) -> bool:
        """Takes a lease again whose start was lost in a crash of the server (decision 0060).

        False: the turn is known, so its lease is gone because it was taken over or has been settled.
        """
        turn, holds = lease.turn, lease.holds
        if not holds:
            return False
        self._forget(turn.tenant_id, holds)
        await self.open_windows(turn.tenant_id, turn.workspace_id, holds)
        amounts = [max(0, number) for number in (*granted, *consumed)]
        row = await self._call(
            turn.tenant_id,
            statements.RESTORE,
            turn.turn_id,
            *start_of(lease),
            *amounts,
            self.instance_id,
            self._ttl_s,
            *lease.call,
        )
        if restored := bool(row and row["restored"]):
            log.warning("turn %s: its start was lost with the server; taken up again", turn.turn_id)
        return restored

    async def heartbeat(self, tenant_id: UUID, consumed: Mapping[UUID, Amount]) -> set[UUID]:
        """Extends the leases of a tenant's turns and stores what they have used so far.

        Returns the turns whose lease is gone: they expired and another instance has taken them.
        """
        turns = list(consumed)
        tokens = [max(0, consumed[turn].tokens) for turn in turns]
        costs = [max(0, consumed[turn].cost) for turn in turns]
        row = await self._call(
            tenant_id, statements.HEARTBEAT, turns, tokens, costs, self.instance_id, self._ttl_s
        )
        return set(turns) - set(row["turn_ids"] if row else ())

    async def settle(
        self, lease: Lease, outcome: Outcome, charges: Sequence[Charge], *, recovering: bool = False
    ) -> None:
        """Ends a turn: writes its charges to the ledger, charges its windows, gives the rest of the lease back.

        Idempotent. recovering: this instance settles for another that vanished; if that one settles after all, the turn
        is corrected to its charges. A turn whose start the server has lost in a crash is charged all the same. Returns
        when it is on disk.
        """
        payload = msgspec.json.encode(charges).decode()
        args = (lease.turn_id, outcome.value, payload, recovering, *start_of(lease), *lease.call)
        await self._call(lease.tenant_id, statements.SETTLE, *args)
        if charges:
            await self._flush()

    async def release(self, lease: Lease) -> None:
        """Ends a turn that LibreChat refused: nothing is charged."""
        await self.settle(lease, Outcome.REFUSED, ())

    async def adopt(self, now: datetime | None = None, most: int = RECOVERY_BATCH) -> list[Adopted]:
        """Takes over turns of vanished instances, of all tenants; each goes to one instance only.

        now: None means the database's clock. They have to be settled with `recovering`, or kept alive by heartbeats.
        """
        async with self._db.system() as system:
            rows = await system.fetch(statements.ADOPT, self.instance_id, now, self._ttl_s, most)
        return [adopted_of(row) for row in rows]

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

    def _forget(self, tenant_id: UUID, holds: Sequence[Hold]) -> None:
        for hold in holds:
            self._windows.pop(self._key(tenant_id, hold), None)

    def _key(self, tenant_id: UUID, hold: Hold) -> tuple[UUID, UUID, str, Window]:
        return tenant_id, hold.limit_id, hold.subject, hold.window

    async def _call(self, tenant_id: UUID, sql: str, *args: object) -> Record | None:
        """One of the functions that enter the tenant themselves: one round trip."""
        return await repeated(lambda: self._db.call(sql, tenant_id, *args))


def exhausted_of(row: Record) -> Exhausted:
    """What the function that starts a lease says when a limit has no room."""
    amounts = row["used"], row["leased"], row["limited_to"]
    return Exhausted(*amounts, row["ends_at"], row["limit_id"], Unit(row["unit"]))


def adopted_of(row: Record) -> Adopted:
    """A row of adopt_leases."""
    names = (
        "tenant_id",
        "workspace_id",
        "user_id",
        "conversation_id",
        "endpoint",
        "model",
        "turn_id",
        "key_id",
    )
    turn = NewTurn(**{name: row[name] for name in names}, started_at=row["started_at"])
    granted = Amount(row["granted"], row["granted_cost"])
    return Adopted(Lease(turn, (), granted), Amount(row["consumed"], row["consumed_cost"]), row["owner"])


def start_of(lease: Lease) -> tuple[object, ...]:
    """What a turn's start wrote down: workspace, user, conversation, endpoint, model, key, time, and its windows."""
    turn = lease.turn
    conversation_id = turn.conversation_id or lease.conversation_id
    names = (turn.workspace_id, turn.user_id, conversation_id, turn.endpoint, turn.model, turn.key_id)
    return (*names, turn.started_at, *arrays(lease.holds))


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
