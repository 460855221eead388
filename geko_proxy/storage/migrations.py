"""Applies sql/NNNN_name.sql in the order of their numbers: forward only, each once, each in its own transaction."""

from __future__ import annotations

import hashlib
import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg

from geko_proxy.errors import StoreError
from geko_proxy.storage.database import lost_is_store_error

if TYPE_CHECKING:
    from asyncpg import Connection, Record

SOURCE: Final = Path(__file__).resolve().parents[2] / "sql"
MIGRATIONS: Final = SOURCE if SOURCE.is_dir() else Path(sysconfig.get_path("data"), "share/geko/sql")
"""GEKO's own: in the source tree, or where the wheel puts them."""

FILE_NAME: Final = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")

LOCK: Final = "select pg_advisory_xact_lock(7164775010)"

CREATE_TABLE: Final = """
create table if not exists public.schema_migrations (
    name text primary key,
    checksum text not null,
    applied_at timestamptz not null default now()
)"""

TABLE_EXISTS: Final = "select to_regclass('public.schema_migrations') is not null"


class MigrationError(StoreError):
    """A migration file that is misnamed, was changed after it was applied, or failed. The message names it."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of the directory."""

    name: str
    sql: str
    checksum: str


async def migrate(dsn: str, directory: Path) -> list[str]:
    """Applies what is missing; returns the names of the files applied now, in order.

    dsn: a postgresql:// address whose role may create tables and roles. directory: the folder with the files.
    Several instances may call it at once: one works, the others wait and find nothing left to do.
    Raises MigrationError; what was applied before the failing file stays applied.
    """
    migrations = load(directory)
    connection = await connect(dsn)
    try:
        applied = await read_applied(connection)
        missing = [m for m in migrations if not is_applied(m, applied)]
        return [m.name for m in missing if await apply(connection, m)]
    finally:
        await connection.close()


async def pending(dsn: str, directory: Path) -> list[str]:
    """The names of the files that `migrate` would apply. Raises MigrationError for a changed file."""
    migrations = load(directory)
    connection = await connect(dsn)
    try:
        applied = await read_applied(connection)
    finally:
        await connection.close()
    return [m.name for m in migrations if not is_applied(m, applied)]


def load(directory: Path) -> list[Migration]:
    """Reads the files in order. Raises MigrationError for a bad name or a number used twice."""
    numbers: dict[str, str] = {}
    migrations = []
    for path in sorted(directory.glob("*.sql")):
        match = FILE_NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path.name}: a migration is named NNNN_name.sql")
        if (other := numbers.setdefault(match[1], path.name)) != path.name:
            raise MigrationError(f"{path.name}: the number is taken by {other}")
        content = path.read_bytes()
        migrations.append(Migration(path.name, content.decode(), hashlib.sha256(content).hexdigest()))
    if not migrations:
        raise MigrationError(f"no migrations in {directory}")
    return migrations


async def connect(dsn: str) -> Connection[Record]:
    """A connection of its own, without prepared statements: works through PgBouncer too."""
    with lost_is_store_error():
        return await asyncpg.connect(dsn, statement_cache_size=0)


async def read_applied(connection: Connection[Record]) -> dict[str, str]:
    """The applied files: name → checksum."""
    with lost_is_store_error():
        if not await connection.fetchval(TABLE_EXISTS):
            return {}
        rows = await connection.fetch("select name, checksum from public.schema_migrations")
    return {row["name"]: row["checksum"] for row in rows}


def is_applied(migration: Migration, applied: dict[str, str]) -> bool:
    """Whether the file was applied. Raises MigrationError when it was, but with another content."""
    checksum = applied.get(migration.name)
    if checksum is not None and checksum != migration.checksum:
        raise MigrationError(
            f"{migration.name}: was changed after it had been applied; add a new file instead"
        )
    return checksum is not None


async def apply(connection: Connection[Record], migration: Migration) -> bool:
    """Applies one file unless another instance just did; says whether it did."""
    try:
        with lost_is_store_error():
            async with connection.transaction():
                await connection.execute(LOCK)
                await connection.execute(CREATE_TABLE)
                if is_applied(migration, await read_applied(connection)):
                    return False
                await connection.execute("set local search_path = public, pg_temp")
                await connection.execute(migration.sql)
                await connection.execute(
                    "insert into public.schema_migrations (name, checksum) values ($1, $2)",
                    migration.name,
                    migration.checksum,
                )
    except asyncpg.PostgresError as error:
        raise MigrationError(f"{migration.name}: {error}") from error
    return True
