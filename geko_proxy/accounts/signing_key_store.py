"""Signing keys in the database: sealed there, and erased when they are retired."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import inf
from typing import Final

import msgspec

from geko_proxy.accounts.sealing import BrokenSeal, Sealer
from geko_proxy.accounts.signing_keys import BadKey, SigningKey, generate, key_of, read_pem, to_pem
from geko_proxy.storage.database import Database, System
from geko_proxy.storage.invalidation import Invalidation

TOPIC: Final = "signing_keys"

LIST: Final = "select * from list_signing_keys()"
ADD: Final = "select add_signing_key($1, $2, $3, $4, $5)"
RETIRE: Final = "select retire_signing_key($1, $2)"
RECORD: Final = "select record_installation_event($1, $2, $3, $4)"
EVENTS: Final = "select * from installation_events($1)"
ANNOUNCE: Final = "*"
GEKO: Final = "geko"  # the actor of what instances do by themselves


class UnknownKid(BadKey):
    """There is no such key, or it is retired already."""


class StillSigning(BadKey):
    """The only key of its algorithm that signs can't be retired."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A row. sealed: None once retired."""

    kid: str
    algorithm: str
    sealed: str | None
    created_at: datetime
    signs_from: datetime
    retired_at: datetime | None


@dataclass(frozen=True, slots=True)
class KeyEvent:
    """What was done to a key. actor: "geko", or who gave the command. details: JSON."""

    happened_at: datetime
    actor: str
    action: str
    target: str
    details: str


class SigningKeyStore:
    """SQL for signing keys; each change is in the installation's log, in the same transaction.

    actor: who makes the changes. Every method raises StoreError when the database is gone.
    """

    def __init__(
        self, database: Database, sealer: Sealer, invalidation: Invalidation, actor: str = GEKO
    ) -> None:
        self._actor = actor
        self._database = database
        self._sealer = sealer
        self._invalidation = invalidation

    async def rows(self) -> list[StoredKey]:
        """All rows, also retired ones, in the order in which they sign."""
        async with self._database.system() as system:
            return [StoredKey(*row) for row in await system.fetch(LIST)]

    async def add(self, algorithm: str, delay_s: float, unless_since: datetime | None = None) -> str | None:
        """Make a key that signs after delay_s seconds, or at once as the first of its algorithm; returns its name.

        unless_since: None is returned, and nothing made, when a newer key of the algorithm is there: several
        instances may try at once.
        """
        private = await asyncio.to_thread(generate, algorithm)
        key = key_of(private)
        sealed = self._sealer.seal(to_pem(private), place_of(key.kid))
        delay = timedelta(seconds=delay_s)
        async with self._database.system() as system:
            starts = await system.fetch_value(ADD, key.kid, algorithm, sealed, delay, unless_since)
            if starts is not None:
                await self._record(system, "signing_key.add", key.kid, algorithm=algorithm, signsFrom=starts)
                await self._invalidation.publish(system, TOPIC, ANNOUNCE)
        return None if starts is None else key.kid

    async def retire(self, kid: str, *, forced: bool = False) -> None:
        """End a key and its tokens on all instances, and erase its private part. Raises UnknownKid, StillSigning."""
        if "\0" in kid:
            raise UnknownKid("there is no such key")
        async with self._database.system() as system:
            result = await system.fetch_value(RETIRE, kid, forced)
            if result not in ("unknown", "signing"):
                await self._record(system, "signing_key.retire", kid, forced=forced)
            await self._invalidation.publish(system, TOPIC, ANNOUNCE)
        if result == "unknown":
            raise UnknownKid(f"{kid}: there is no such key, or it is retired already")
        if result == "signing":
            raise StillSigning(f"{kid}: no other key signs yet; rotate first, or force it")

    async def events(self, most: int = 100) -> list[KeyEvent]:
        """What was done to keys, the newest first."""
        async with self._database.system() as system:
            return [KeyEvent(*row) for row in await system.fetch(EVENTS, most)]

    async def _record(self, system: System, action: str, kid: str, **details: object) -> None:
        text = msgspec.json.encode(details).decode()
        await system.execute(RECORD, self._actor, action, kid, text)

    def open(self, row: StoredKey) -> SigningKey:
        """The key of a row. Raises BadKey when it can't be opened or is not what the row says."""
        try:
            key = read_pem(self._sealer.open(row.sealed or "", place_of(row.kid)).encode())
        except (BrokenSeal, ValueError):
            raise BadKey(f"signing key {row.kid} was sealed with another auth.encryption_secret") from None
        if (key.kid, key.algorithm) != (row.kid, row.algorithm) or key.private is None:
            raise BadKey(f"signing key {row.kid} is not the key that its row says")
        return replace(key, signs_from=row.signs_from.timestamp(), created_at=row.created_at.timestamp())


def with_ends(keys: Iterable[SigningKey], grace_s: float) -> list[SigningKey]:
    """The keys with the time when their tokens end: grace_s after the next one of the algorithm begins to sign."""
    by_algorithm: defaultdict[str, list[SigningKey]] = defaultdict(list)
    for key in sorted(keys, key=lambda key: (key.signs_from, key.kid)):
        by_algorithm[key.algorithm].append(key)
    ended: list[SigningKey] = []
    for line in by_algorithm.values():
        starts = [key.signs_from for key in line[1:]]
        ends = [start + grace_s for start in starts] + [inf]
        ended += [replace(key, ends_at=end) for key, end in zip(line, ends, strict=True)]
    return ended


def place_of(kid: str) -> str:
    """Where a private key belongs, so that it opens in no other row."""
    return f"signing_keys/{kid}"
