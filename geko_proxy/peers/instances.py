"""The instances that run on this database: each says every few seconds that it lives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from geko_proxy.errors import StoreError
from geko_proxy.storage.database import Database
from geko_proxy.storage.invalidation import Invalidation

log = logging.getLogger("geko.peers")

TOPIC: Final = "instances"
BEAT_S: Final = 4.0
GONE_S: Final = 13.0  # three beats and a moment; less than a lease lives
BEAT: Final = (
    "select coalesce(jsonb_object_agg(instance_id, url), '{}')::text as others from beat_instance($1, $2, $3)"
)
LEAVE: Final = "select leave_instances($1)"


class Instances:
    """This instance's heartbeat, and the others that live.

    instance_id: made anew with each process. on_gone: called with an instance that lives no more.
    """

    def __init__(self, database: Database, invalidation: Invalidation | None, instance_id: UUID) -> None:
        self._database = database
        self._invalidation = invalidation
        self.instance_id = instance_id
        self.url = ""
        self.others: Mapping[UUID, str] = {}
        self.on_gone: Callable[[UUID], None] = lambda _: None
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._beaten_at: float | None = None
        self._trust_from = 0.0
        self._warned = False
        if invalidation is not None:
            invalidation.subscribe(TOPIC, lambda _: self._changed.set())

    async def start(self, url: str) -> None:
        """Announce this instance. url: how the others reach it; empty: they don't."""
        self.url = url
        await self._try_to_beat()
        await self._announce()
        self._task = asyncio.create_task(self._beat_on(), name="heartbeat of this instance")

    async def stop(self) -> None:
        """Take the announcement back."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        try:
            await self._database.call(LEAVE, self.instance_id)
        except (StoreError, asyncpg.PostgresError) as error:
            log.warning("this instance is still announced: %s", error)
        await self._announce()

    async def beat(self) -> None:
        """Say that this instance lives, and learn who else does. Raises StoreError."""
        if self._beaten_at is not None and monotonic() - self._beaten_at > GONE_S / 2:
            self._trust_from = (
                monotonic() + GONE_S
            )  # the database was away: the others' heartbeats are old too
        row = await self._database.call(BEAT, self.instance_id, self.url, GONE_S)
        self._beaten_at = monotonic()
        others = _decoded(row["others"] if row is not None else "{}")
        if self._beaten_at < self._trust_from:
            others = {**self.others, **others}
        gone = set(self.others) - set(others)
        self.others = others
        for instance_id in gone:
            log.warning("instance %s is gone", instance_id)
            self.on_gone(instance_id)
        if others and not self.url and not self._warned:
            self._warned = True
            log.warning("other instances can't reach this one: set server.peer_url (docs/instances.md)")

    async def _beat_on(self) -> None:
        while True:
            try:
                async with asyncio.timeout(BEAT_S):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            await self._try_to_beat()

    async def _try_to_beat(self) -> None:
        try:
            await self.beat()
        except StoreError as error:
            log.warning("no heartbeat of this instance: %s", error)
        except Exception:
            log.exception("no heartbeat of this instance")

    async def _announce(self) -> None:
        """Have the others look now."""
        if self._invalidation is None:
            return
        try:
            await self._invalidation.publish(self._database, TOPIC, str(self.instance_id))
        except (StoreError, asyncpg.PostgresError) as error:
            log.warning("the other instances learn later of this one: %s", error)


def _decoded(text: str) -> dict[UUID, str]:
    return msgspec.json.decode(text, type=dict[UUID, str])
