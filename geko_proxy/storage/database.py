"""The connection pool and the two ways to use it: `tenant()` for one tenant's rows, `system()` for the few
look-ups across tenants. Both act as the role geko_app, so Row Level Security holds whoever GEKO logs in as.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import asyncpg

from geko_proxy.errors import StoreError

if TYPE_CHECKING:
    from asyncpg import Connection, Record
    from asyncpg.pool import PoolConnectionProxy
    from asyncpg.transaction import Transaction

# Both settings end with the transaction, so nothing is left on a connection that PgBouncer hands to somebody else.
ENTER: Final = "select set_config('role', 'geko_app', true), set_config('geko.tenant_id', $1, true)"

DIRECT: Final = 4  # connections past a PgBouncer, for steps that hold a lock on a row that everybody wants

LOST: Final = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server ends a connection just as a statement starts
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InternalClientError,  # what a statement gets that meets the end of its idle connection
)


class System:
    """One transaction that belongs to no tenant: it may read `tenants` and call the look-up functions of sql/.

    Arguments and results are asyncpg's: uuid ↔ UUID, timestamptz ↔ aware datetime, jsonb ↔ str.
    Every method raises StoreError when the database is gone, and asyncpg.PostgresError for the rest.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: PoolConnectionProxy[Record]) -> None:
        self._connection = connection

    async def fetch(self, sql: str, *args: object) -> list[Record]:
        """All rows of a query."""
        with lost_is_store_error():
            return await self._connection.fetch(sql, *args)

    async def fetch_row(self, sql: str, *args: object) -> Record | None:
        """The first row of a query, or None."""
        with lost_is_store_error():
            return await self._connection.fetchrow(sql, *args)

    async def fetch_value(self, sql: str, *args: object) -> Any:
        """The first column of the first row, or None."""
        with lost_is_store_error():
            return await self._connection.fetchval(sql, *args)

    async def execute(self, sql: str, *args: object) -> str:
        """Runs a statement; returns PostgreSQL's command tag, for example "UPDATE 1"."""
        with lost_is_store_error():
            return await self._connection.execute(sql, *args)


class Scope(System):
    """One transaction in one tenant. Every method passes `tenant_id` as $1; the caller's arguments start at $2."""

    __slots__ = ("tenant_id",)

    def __init__(self, connection: PoolConnectionProxy[Record], tenant_id: UUID) -> None:
        super().__init__(connection)
        self.tenant_id = tenant_id

    async def fetch(self, sql: str, *args: object) -> list[Record]:
        """All rows of a query."""
        return await super().fetch(sql, self.tenant_id, *args)

    async def fetch_row(self, sql: str, *args: object) -> Record | None:
        """The first row of a query, or None."""
        return await super().fetch_row(sql, self.tenant_id, *args)

    async def fetch_value(self, sql: str, *args: object) -> Any:
        """The first column of the first row, or None."""
        return await super().fetch_value(sql, self.tenant_id, *args)

    async def execute(self, sql: str, *args: object) -> str:
        """Runs a statement; returns PostgreSQL's command tag, for example "UPDATE 1"."""
        return await super().execute(sql, self.tenant_id, *args)


class Database:
    """A pool of connections to PostgreSQL 15 or later, directly or through PgBouncer in transaction mode."""

    def __init__(
        self,
        pool: asyncpg.Pool[Record],
        dsn: str,
        acquire_timeout_s: float,
        direct: asyncpg.Pool[Record] | None = None,
        *,
        keeps_statements: bool = True,
    ) -> None:
        self._pool = pool
        self._direct = direct
        self._keeps_statements = keeps_statements
        self._acquire_timeout_s = acquire_timeout_s
        self.dsn = dsn
        self.max_size = pool.get_max_size()

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        min_size: int = 1,
        max_size: int = 10,
        statement_cache_size: int = 100,
        acquire_timeout_s: float = 10.0,
        direct_dsn: str = "",
    ) -> Database:
        """Connects.

        dsn: a postgresql:// address. min_size, max_size: connections. statement_cache_size: prepared statements
        kept per connection; 0 for a PgBouncer that does not track them. acquire_timeout_s: how long a
        transaction waits for a free connection. direct_dsn: the server itself, where dsn is such a PgBouncer; `call`
        then takes a few connections to it. Raises StoreError when the server cannot be reached.
        """
        keeps_statements = statement_cache_size > 0
        with lost_is_store_error():
            pool = await _pool(dsn, min_size, max_size, statement_cache_size)
            direct = await _pool(direct_dsn, 1, DIRECT, 100) if direct_dsn and not keeps_statements else None
        return cls(pool, dsn, acquire_timeout_s, direct, keeps_statements=keeps_statements)

    async def close(self) -> None:
        """Waits for running transactions, then closes every connection."""
        await self._pool.close()
        if self._direct is not None:
            await self._direct.close()

    async def ping(self) -> None:
        """One round trip to the server. Raises StoreError when it does not answer."""
        with lost_is_store_error():
            await self._pool.execute("select 1", timeout=self._acquire_timeout_s)

    async def call(self, sql: str, *args: object) -> Record | None:
        """The first row of one statement that is a transaction of its own, in one round trip.

        Only for functions of sql/ that take the tenant and enter it themselves, and for what touches no table.
        """
        with lost_is_store_error():
            pool = self._direct or self._pool
            async with pool.acquire(timeout=self._acquire_timeout_s) as connection:
                if self._keeps_statements or self._direct is not None:
                    return await connection.fetchrow(sql, *args)
                # It is prepared in one round trip and run in the next. PgBouncer may pass them to two servers, and
                # the second then runs what somebody else prepared there, unless a transaction holds them together.
                async with connection.transaction():
                    return await connection.fetchrow(sql, *args)

    @asynccontextmanager
    async def tenant(self, tenant_id: UUID) -> AsyncIterator[Scope]:
        """One transaction that sees and writes the rows of one tenant only. It is never retried here."""
        async with self._transaction(str(tenant_id)) as connection:
            yield Scope(connection, tenant_id)

    @asynccontextmanager
    async def system(self) -> AsyncIterator[System]:
        """One transaction outside any tenant, for the few look-ups that come before the tenant is known."""
        async with self._transaction("") as connection:
            yield System(connection)

    @asynccontextmanager
    async def _transaction(self, tenant_id: str) -> AsyncIterator[PoolConnectionProxy[Record]]:
        with lost_is_store_error():
            connection = await self._pool.acquire(timeout=self._acquire_timeout_s)
        try:
            transaction = connection.transaction()
            with lost_is_store_error():
                await transaction.start()
            try:
                with lost_is_store_error():
                    await connection.execute(ENTER, tenant_id)
                yield connection
            except BaseException:
                await roll_back(transaction)
                raise
            with lost_is_store_error():
                await transaction.commit()
        finally:
            await self._pool.release(connection)


async def _pool(dsn: str, min_size: int, max_size: int, statement_cache_size: int) -> asyncpg.Pool[Record]:
    return await asyncpg.create_pool(
        dsn,
        min_size=min_size,
        max_size=max_size,
        statement_cache_size=statement_cache_size,
        server_settings={"application_name": "geko"},
        reset=leave_as_is,
    )


async def roll_back(transaction: Transaction) -> None:
    """Rolls back. When the connection is gone the server has done so, and the pool drops the connection."""
    with suppress(*LOST):
        await transaction.rollback()


async def leave_as_is(connection: Connection[Record]) -> None:
    """Replaces asyncpg's reset query: every setting ends with its transaction, so a round trip is saved."""


@contextmanager
def lost_is_store_error() -> Iterator[None]:
    """Turns "the server is gone, going, or full" into StoreError, and leaves every other error alone."""
    try:
        yield
    except LOST as error:
        if isinstance(error, ValueError):  # asyncpg's "this argument does not fit" is an InterfaceError too
            raise
        raise StoreError(f"database: {str(error) or type(error).__name__}") from error
