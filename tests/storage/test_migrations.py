"""Migrations: each once, in order, whole or not at all, and never changed afterwards."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from geko_proxy.accounts.registration import Registration
from geko_proxy.accounts.users import UserStore
from geko_proxy.storage.database import Database
from geko_proxy.storage.migrations import MigrationError, migrate, pending

SQL = Path(__file__).parents[2] / "sql"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0001_one.sql").write_text("create table one (n int); insert into one values (1);")
    (tmp_path / "0002_two.sql").write_text("create table two as select n + 1 as n from one;")
    (tmp_path / "notes.txt").write_text("not a migration")
    return tmp_path


async def value(dsn: str, sql: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_applies_in_order_and_once(empty_dsn: str, folder: Path) -> None:
    names = ["0001_one.sql", "0002_two.sql"]
    assert await pending(empty_dsn, folder) == names
    assert await migrate(empty_dsn, folder) == names
    assert await migrate(empty_dsn, folder) == []
    assert await pending(empty_dsn, folder) == []
    (folder / "0003_three.sql").write_text("insert into two values (3)")
    assert await migrate(empty_dsn, folder) == ["0003_three.sql"]
    assert await value(empty_dsn, "select array_agg(n order by n) from two") == [2, 3]


async def test_many_instances_at_once_apply_each_file_once(empty_dsn: str, folder: Path) -> None:
    (folder / "0003_three.sql").write_text("insert into one values (3); select pg_sleep(0.05)")
    applied = await asyncio.gather(*(migrate(empty_dsn, folder) for _ in range(8)))
    assert sorted(name for names in applied for name in names) == [
        "0001_one.sql",
        "0002_two.sql",
        "0003_three.sql",
    ]
    assert await value(empty_dsn, "select count(*) from one") == 2


async def test_a_failing_file_leaves_nothing_and_is_named(empty_dsn: str, folder: Path) -> None:
    (folder / "0002_two.sql").write_text("create table two (n int); select nonsense;")
    with pytest.raises(MigrationError, match=r"0002_two\.sql: .*nonsense"):
        await migrate(empty_dsn, folder)
    assert await pending(empty_dsn, folder) == ["0002_two.sql"]
    assert await value(empty_dsn, "select to_regclass('two')") is None


async def test_a_changed_file_is_refused_by_name(empty_dsn: str, folder: Path) -> None:
    await migrate(empty_dsn, folder)
    (folder / "0001_one.sql").write_text("create table one (n bigint)")
    for call in (migrate, pending):
        with pytest.raises(MigrationError, match=r"0001_one\.sql"):
            await call(empty_dsn, folder)


@pytest.mark.parametrize("name", ["0002_other.sql", "3_three.sql", "0003-three.sql", "three.sql"])
async def test_bad_names_are_refused(empty_dsn: str, folder: Path, name: str) -> None:
    (folder / name).write_text("select 1")
    with pytest.raises(MigrationError, match=r"\.sql"):
        await pending(empty_dsn, folder)


async def test_an_empty_folder_is_a_mistake(empty_dsn: str, tmp_path: Path) -> None:
    with pytest.raises(MigrationError):
        await migrate(empty_dsn, tmp_path)


async def test_the_products_migrations_leave_no_way_to_create_anything(empty_dsn: str) -> None:
    assert await migrate(empty_dsn, SQL) == sorted(path.name for path in SQL.glob("*.sql"))
    rights = """
        select has_schema_privilege('geko_app', 'public', 'create'),
            has_database_privilege('geko_app', current_database(), 'create'),
            has_database_privilege('geko_app', current_database(), 'temporary'),
            rolsuper or rolbypassrls or rolcanlogin or rolcreaterole or rolcreatedb
        from pg_roles where rolname = 'geko_app'"""
    connection = await asyncpg.connect(empty_dsn)
    try:
        assert tuple(await connection.fetchrow(rights) or ()) == (False,) * 4
    finally:
        await connection.close()


async def test_the_role_that_migrates_needs_not_be_superuser(
    server_dsn: str, empty_dsn: str, template: str
) -> None:
    database = urlsplit(empty_dsn).path.strip("/")
    role = f"owner_of_{database}"
    server = await asyncpg.connect(server_dsn)
    try:
        await server.execute(f"create role {role} createrole")
        await server.execute(f"grant geko_app to {role} with admin option")
        await server.execute(f"alter database {database} owner to {role}")
        await server.execute(f"alter role current_user in database {database} set role {role}")
        assert await value(empty_dsn, "select current_user") == role
        assert await migrate(empty_dsn, SQL)
        assert await value(empty_dsn, "select tableowner from pg_tables where tablename = 'users'") == role
        opened = await Database.open(empty_dsn)
        await Registration(opened).register(
            email="a@example.org", password="long enough", name="A", token_limit=1
        )
        assert await UserStore(opened).find_login("a@example.org") is not None
        await opened.close()
    finally:
        await server.execute(f"alter role current_user in database {database} reset role")
        owned = await asyncpg.connect(empty_dsn)
        await owned.execute(f"drop owned by {role} cascade")
        await owned.close()
        await server.execute(f"alter database {database} owner to current_user")
        await server.execute(f"drop owned by {role}")
        await server.execute(f"drop role {role}")
        await server.close()
