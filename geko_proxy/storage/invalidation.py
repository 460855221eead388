"""Tells every instance over LISTEN/NOTIFY that something cached has changed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import asyncpg

from geko_proxy.errors import StoreError
from geko_proxy.storage.database import LOST, Database, Scope, System, lost_is_store_error

if TYPE_CHECKING:
    from asyncpg import Connection, Record

logger = logging.getLogger(__name__)

CHANNEL: Final = "geko_invalidation"
EVERYTHING: Final = "*"
NOTIFY: Final = f"select pg_notify('{CHANNEL}', $1)"
# A scope passes its tenant as $1 to every statement, and PostgreSQL wants each parameter used.
NOTIFY_IN_TENANT: Final = f"select pg_notify('{CHANNEL}', $2) where $1::uuid is not null"

RECONNECT_S: Final = 0.5
HEARTBEAT_S: Final = 20.0
TIMEOUT_S: Final = 5.0


class Invalidation:
    """Listens on one connection of its own, and calls the subscribers of a topic with the changed key.

    dsn: a postgresql:// address that reaches the server itself; PgBouncer in transaction mode loses LISTEN.
    After a lost connection every subscriber is called with "*": whatever it holds may be old.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._subscribers: defaultdict[str, list[Callable[[str], None]]] = defaultdict(list)
        self._connection: Connection[Record] | None = None
        self._task: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether changes made elsewhere arrive now. While they don't, caches must not be trusted."""
        return self._connection is not None and not self._lost.is_set()

    async def start(self) -> None:
        """Connects and listens. Raises StoreError when the server cannot be reached."""
        await self._connect()
        self._task = asyncio.create_task(self._keep_listening(), name="invalidation")

    async def stop(self) -> None:
        """Stops listening and closes the connection."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        await self._disconnect()

    def subscribe(self, topic: str, callback: Callable[[str], None]) -> None:
        """Calls `callback` with the key of every change of a topic, or "*" for "anything may have changed"."""
        self._subscribers[topic].append(callback)

    async def publish(self, target: System | Database, topic: str, key: str) -> None:
        """Announces a change to all instances, this one included.

        target: the transaction that makes the change (it is announced when that commits), or the database.
        key: what changed; "a/b/*" stands for all keys that begin with "a/b/". topic must not contain a space.
        """
        message = f"{topic} {key}"
        if isinstance(target, Scope):
            await target.execute(NOTIFY_IN_TENANT, message)
        elif isinstance(target, System):
            await target.execute(NOTIFY, message)
        else:
            async with target.system() as system:
                await system.execute(NOTIFY, message)

    async def _keep_listening(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), HEARTBEAT_S)
            if self._lost.is_set() or not await self._answers():
                self._lost.set()
                logger.warning("invalidation: connection lost, caches are bypassed until it is back")
                await self._reconnect()

    async def _answers(self) -> bool:
        """One round trip: a connection whose other end vanished silently would never tell us."""
        if self._connection is None:
            return False
        try:
            await self._connection.execute("select 1", timeout=TIMEOUT_S)
        except LOST:
            return False
        return True

    async def _reconnect(self) -> None:
        await self._disconnect()
        while True:
            try:
                await self._connect()
            except StoreError:
                await asyncio.sleep(RECONNECT_S)
            else:
                break
        for topic in list(self._subscribers):
            self._dispatch(topic, EVERYTHING)

    async def _connect(self) -> None:
        with lost_is_store_error():
            connection = await asyncpg.connect(self._dsn, timeout=TIMEOUT_S, statement_cache_size=0)
            self._lost.clear()
            connection.add_termination_listener(lambda _: self._on_terminated(connection))
            await connection.add_listener(CHANNEL, self._on_notify)
        self._connection = connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            try:
                await connection.close(timeout=TIMEOUT_S)
            except LOST:
                connection.terminate()

    def _on_terminated(self, connection: Connection[Record]) -> None:
        if self._connection is connection:
            self._lost.set()

    def _on_notify(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        topic, _, key = str(payload).partition(" ")
        self._dispatch(topic, key)

    def _dispatch(self, topic: str, key: str) -> None:
        for callback in self._subscribers.get(topic, ()):
            try:
                callback(key)
            except Exception:
                logger.exception("invalidation: subscriber of %s failed", topic)
