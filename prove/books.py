"""The books of both sides: what the provider produced and reported, and what GEKO charged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from uuid import UUID

import aiohttp
import asyncpg

from prove.servers import Postgres

CHARGES = """
select conversation_id, sum(tokens)::bigint as tokens, bool_or(estimated) as estimated,
    count(*) filter (where source = 'recovered' and tokens > 0) as recoveries
from usage_events where workspace_id = $1 group by conversation_id"""
TURNS = """
select conversation_id, coalesce(outcome, state) as outcome from turns where workspace_id = $1 and call_kind is null"""
WINDOW = """
select coalesce(sum(used), 0)::bigint as used, coalesce(sum(leased), 0)::bigint as leased,
    (select amount from quota_limits where limit_id = $1) as token_limit,
    (select coalesce(sum(tokens), 0)::bigint from usage_events where workspace_id = $1) as ledger,
    (select count(*) from leases where workspace_id = $1) as leases
from limit_windows where limit_id = $1"""


@dataclass(frozen=True, slots=True)
class Produced:
    """What the provider made in one conversation. reported: it told LibreChat so; else it was cut off before.

    ended_at: when its last answer ended there, Unix seconds.
    """

    tokens: int
    reported: bool
    ended_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Charged:
    """What GEKO charged one conversation, and what it says of its turns."""

    tokens: int = 0
    estimated: bool = False
    recoveries: int = 0
    outcomes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """A workspace's quota now, in tokens; ledger: what its entries sum up to; leases: how many there are."""

    used: int
    leased: int
    token_limit: int | None
    ledger: int
    leases: int

    @property
    def free(self) -> int:
        """What is neither used nor leased."""
        return 10**18 if self.token_limit is None else self.token_limit - self.used - self.leased

    @property
    def consistent(self) -> bool:
        """Nothing is leased, and what is used is what the ledger says."""
        return self.leased == 0 and self.leases == 0 and self.used == self.ledger


@dataclass
class Books:
    """Reads both. The connection goes to PostgreSQL itself, past PgBouncer and past Row Level Security."""

    postgres: Postgres
    librechat_url: str
    _connection: asyncpg.Connection[asyncpg.Record] | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    @asynccontextmanager
    async def open(cls, postgres: Postgres, librechat_url: str) -> AsyncIterator[Books]:
        """Open while the context is."""
        books = cls(postgres, librechat_url)
        try:
            yield books
        finally:
            if books._connection is not None:
                books._connection.terminate()

    async def fetch(self, sql: str, *args: object) -> list[asyncpg.Record]:
        """All rows of a query; connects anew after a restart."""
        async with self._lock:
            if self._connection is None or self._connection.is_closed():
                self._connection = await asyncpg.connect(self.postgres.dsn)
            return await self._connection.fetch(sql, *args)

    async def window(self, workspace_id: str) -> Window:
        """All windows of a workspace together."""
        (row,) = await self.fetch(WINDOW, UUID(workspace_id))
        return Window(**row)

    async def charged(self, workspace_id: str) -> dict[str | None, Charged]:
        """By conversation; None: turns whose conversation was never named."""
        outcomes: dict[str | None, list[str]] = {}
        for row in await self.fetch(TURNS, UUID(workspace_id)):
            outcomes.setdefault(row["conversation_id"], []).append(row["outcome"])
        charges = {row["conversation_id"]: row for row in await self.fetch(CHARGES, UUID(workspace_id))}
        found: dict[str | None, Charged] = {}
        for conversation in outcomes.keys() | charges.keys():
            booked = charges.get(conversation)
            paid = (
                Charged(booked["tokens"], booked["estimated"], booked["recoveries"]) if booked else Charged()
            )
            found[conversation] = replace(paid, outcomes=tuple(outcomes.get(conversation, ())))
        return found

    async def produced(self, conversations: Collection[str]) -> dict[str, Produced]:
        """What the stand-in's provider knows of these conversations, each model call counted."""
        url = self.librechat_url + "/__standin__/log"
        async with aiohttp.ClientSession() as session, session.get(url) as reply:
            entries = await reply.json()
        found: dict[str, Produced] = {}
        for entry in entries:
            conversation = entry["conversation"]
            if conversation in conversations and entry["usage"] is not None:
                before = found.get(conversation, Produced(0, reported=True))
                found[conversation] = Produced(
                    before.tokens + entry["usage"]["total_tokens"],
                    before.reported and entry["usage_sent"],
                    max(before.ended_at, entry["ended_at"] or 0.0),
                )
        return found

    async def forget(self) -> None:
        """Empty the provider's log, which holds a limited number of calls."""
        url = self.librechat_url + "/__standin__/clear"
        async with aiohttp.ClientSession() as session, session.post(url) as reply:
            reply.raise_for_status()

    async def settled(self, workspace_id: str, within_s: float) -> float | None:
        """Wait until nothing is leased and no turn runs; the seconds it took, None: longer than that."""
        begun = time.monotonic()
        while time.monotonic() - begun < within_s:
            running = await self.fetch(
                "select count(*) as n from turns where workspace_id = $1 and ended_at is null",
                UUID(workspace_id),
            )
            if running[0]["n"] == 0 and (await self.window(workspace_id)).leases == 0:
                return time.monotonic() - begun
            await asyncio.sleep(0.05)
        return None
