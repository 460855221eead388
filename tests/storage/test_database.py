"""The wall between tenants, tried on every table there is, and the two kinds of transactions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import NamedTuple
from uuid import UUID, uuid4

import asyncpg
import pytest

from geko_proxy.accounts.oauth_accounts import OAuthAccounts, ProviderAccount
from geko_proxy.accounts.registration import Registration
from geko_proxy.accounts.sealing import Sealer
from geko_proxy.accounts.sessions import Sessions
from geko_proxy.accounts.shadow_store import ShadowStore
from geko_proxy.errors import StoreError
from geko_proxy.storage.database import Database, Scope
from geko_proxy.workspaces.audit import Audit
from geko_proxy.workspaces.config import WorkspaceConfig, WorkspaceConfigStore
from geko_proxy.workspaces.shared_links import SharedLink, SharedLinkStore

TABLES = """
select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = 'public' and c.relkind in ('r', 'p') and not c.relispartition order by 1"""

# Not for geko_app at all: no policy, because there is no right.
UNREACHABLE = {
    "installation_log",
    "instances",
    "join_domains",
    "login_emails",
    "oauth_subjects",
    "oauth_used_states",
    "schema_migrations",
    "signing_keys",
}


class Two(NamedTuple):
    """Two tenants with a row of each kind, and an unrestricted connection of the database's owner."""

    a: UUID
    b: UUID
    owner: asyncpg.Connection[asyncpg.Record]


@pytest.fixture
async def two(database: Database, dsn: str) -> AsyncIterator[Two]:
    tenants = [await fill(database, email) for email in ("a@example.org", "b@example.org")]
    owner = await asyncpg.connect(dsn)
    yield Two(tenants[0], tenants[1], owner)
    await owner.close()


async def fill(database: Database, email: str) -> UUID:
    """A tenant with a row in every table of accounts and workspaces."""
    user, tenant, workspace = await register(database, email)
    place = (tenant, workspace, user)
    await Sessions(database).open(tenant, user, workspace, "127.0.0.1", "test")
    await ShadowStore(database).put_if_absent(*place, "a" * 24, email)
    await WorkspaceConfigStore(database).put(tenant, workspace, WorkspaceConfig())
    await SharedLinkStore(database).put(SharedLink(tenant, "link", workspace, user))
    links = OAuthAccounts(database, Sealer("s" * 32))
    async with database.tenant(tenant) as scope:
        await links.link(scope, user, ProviderAccount("acme", "https://id.test", email, email, {}))
        await Audit().record(
            scope, actor_user_id=user, action="test", target="t", ip=None, request_id=None, details={"n": 1}
        )
    return tenant


async def register(database: Database, email: str) -> tuple[UUID, UUID, UUID]:
    done = await Registration(database).register(
        email=email, password="long enough", name="Somebody", token_limit=1000
    )
    return done.user.user_id, done.tenant.tenant_id, done.workspace.workspace_id


async def tables(two: Two) -> list[str]:
    return [row["relname"] for row in await two.owner.fetch(TABLES)]


async def test_every_table_has_the_wall(two: Two) -> None:
    unguarded = await two.owner.fetch(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') "
        "and not relrowsecurity"
    )
    assert {row["relname"] for row in unguarded} <= {"schema_migrations"}
    reachable = await two.owner.fetch(
        "select relname from pg_class where relispartition and relkind = 'r'"
        " and has_table_privilege('geko_app', oid, 'select, insert, update, delete')"
    )
    assert reachable == []  # only through the table that they are partitions of


async def test_other_tenants_rows_cannot_be_read(database: Database, two: Two) -> None:
    filled = set()
    for table in set(await tables(two)) - UNREACHABLE:
        if await two.owner.fetchval(f"select count(*) from {table} where tenant_id = $1", two.b):
            filled.add(table)
        async with database.tenant(two.a) as scope:
            rows = await scope.fetch(f"select tenant_id from {table} where $1::uuid is not null")
        assert {row["tenant_id"] for row in rows} <= {two.a}, table
    assert filled >= {
        "tenants",
        "users",
        "workspaces",
        "workspace_members",
        "workspace_config",
        "sessions",
        "shadow_accounts",
        "shared_links",
        "audit_log",
        "oauth_tokens",
        "quota_limits",
    }


async def test_other_tenants_rows_cannot_be_changed_or_removed(database: Database, two: Two) -> None:
    for table in set(await tables(two)) - UNREACHABLE:
        before = await two.owner.fetch(f"select * from {table} where tenant_id = $1", two.b)
        for statement in (
            f"update {table} set tenant_id = $1 where tenant_id = $2",
            f"delete from {table} where tenant_id = $2 and $1::uuid is not null",
        ):
            with contextlib.suppress(asyncpg.InsufficientPrivilegeError):  # append-only: no right at all
                async with database.tenant(two.a) as scope:
                    tag = await scope.execute(statement, two.b)
                assert tag.endswith(" 0"), table
        assert before == await two.owner.fetch(f"select * from {table} where tenant_id = $1", two.b)


async def test_rows_cannot_be_inserted_for_another_tenant(database: Database, two: Two) -> None:
    for table in set(await tables(two)) - UNREACHABLE:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with database.tenant(two.a) as scope:
                await insert_stolen_row(scope, two, table)


async def insert_stolen_row(scope: Scope, two: Two, table: str) -> None:
    """Inserts a row that satisfies every constraint that is checked before the policy, with b's tenant_id."""
    columns = await two.owner.fetch(
        "select a.attname, format_type(a.atttypid, a.atttypmod) as type from pg_attribute a "
        "where a.attrelid = $1::regclass and a.attnum > 0 and not a.attisdropped "
        "and a.attidentity = '' and a.attgenerated = ''",
        f"public.{table}",
    )
    names = ", ".join(row["attname"] for row in columns)
    row = await two.owner.fetchval(f"select to_jsonb(t) from {table} t where tenant_id = $1", two.b)
    source = row if row is not None else f'{{"tenant_id": "{two.b}"}}'
    await scope.execute(
        f"insert into {table} ({names}) select {names} from jsonb_populate_record(null::{table}, $2::jsonb) "
        "where $1::uuid is not null",
        source,
    )


async def test_own_rows_cannot_be_given_to_another_tenant(database: Database, two: Two) -> None:
    for table in set(await tables(two)) - UNREACHABLE:
        with contextlib.suppress(asyncpg.InsufficientPrivilegeError):
            async with database.tenant(two.a) as scope:
                tag = await scope.execute(f"update {table} set tenant_id = $2 where tenant_id = $1", two.b)
            assert tag == "UPDATE 0", table  # a table in which tenant a has no row


@pytest.mark.parametrize(
    "statement",
    [
        "select * from login_emails",
        "insert into login_emails values ('c@example.org', gen_random_uuid(), gen_random_uuid())",
        "delete from login_emails",
        "select * from oauth_subjects",
        "update oauth_subjects set user_id = gen_random_uuid()",
        "delete from oauth_used_states",
        "select * from join_domains",
        "insert into join_domains values ('a.example', gen_random_uuid())",
        "delete from join_domains",
        "select * from schema_migrations",
        "select * from signing_keys",
        "update signing_keys set retired_at = null",
        "create table t (n int)",
        "create schema s",
        "create function f() returns int language sql as 'select 1'",
        "drop table users",
        "alter table users disable row level security",
        "create policy p on users using (true)",
        "truncate users",
        "update audit_log set action = 'nothing'",
        "delete from audit_log",
        "delete from tenants",
        "create role r",
        "copy users to program 'true'",
    ],
)
async def test_the_role_of_the_application_cannot(database: Database, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with database.system() as system:
            await system.execute(statement)
    async with database.system() as system:
        assert await system.fetch_value("select current_user") == "geko_app"


async def test_system_sees_all_tenants_and_nothing_else(database: Database, two: Two) -> None:
    async with database.system() as system:
        assert len(await system.fetch("select * from tenants")) == 2
        assert await system.execute("update tenants set name = 'mine'") == "UPDATE 0"
        for table in set(await tables(two)) - UNREACHABLE - {"tenants"}:
            assert await system.fetch(f"select * from {table}") == [], table


async def test_system_may_execute_no_function_that_crosses_tenants_but_the_known(two: Two) -> None:
    rows = await two.owner.fetch(
        "select p.proname, p.proconfig from pg_proc p where p.prosecdef and p.pronamespace = 'public'::regnamespace"
    )
    assert {"claim_login_email", "find_login_email"} <= {row["proname"] for row in rows}
    for row in rows:
        assert any(setting.startswith("search_path=") for setting in row["proconfig"] or ()), row["proname"]


async def test_a_login_email_is_claimed_for_the_own_tenant_only(database: Database, two: Two) -> None:
    with pytest.raises(asyncpg.PostgresError):
        async with database.system() as system:
            await system.execute("select claim_login_email('c@example.org', $1)", uuid4())


async def test_nothing_of_a_tenant_is_left_on_the_connection(dsn: str, two: Two) -> None:
    database = await Database.open(dsn, max_size=1)
    try:
        async with database.tenant(two.a) as scope:
            assert await scope.fetch_value("select pg_backend_pid() where $1::uuid is not null")
        async with database.system() as system:
            assert await system.fetch("select * from users") == []
        state = await database._pool.fetchrow(
            "select current_user = session_user as same, current_setting('geko.tenant_id', true) as tenant"
        )
        assert state is not None
        assert state["same"]
        assert not state["tenant"]
    finally:
        await database.close()


async def test_an_error_rolls_back_and_the_connection_goes_on(dsn: str, two: Two) -> None:
    database = await Database.open(dsn, max_size=1)
    try:
        for expression in ("1/0", "'text'::int"):
            with pytest.raises(asyncpg.DataError):
                await rename_and_fail(database, two.a, expression)
        async with database.tenant(two.a) as scope:
            assert await scope.fetch_value("select name from tenants where tenant_id = $1") == "Somebody"
    finally:
        await database.close()


async def rename_and_fail(database: Database, tenant_id: UUID, expression: str) -> None:
    async with database.tenant(tenant_id) as scope:
        await scope.execute("update tenants set name = 'changed' where tenant_id = $1")
        await scope.execute(f"select {expression} where $1::uuid is not null")


async def test_a_cancelled_transaction_gives_its_connection_back(dsn: str, two: Two) -> None:
    database = await Database.open(dsn, max_size=1)
    try:
        entered = asyncio.Event()

        async def hang() -> None:
            async with database.tenant(two.a) as scope:
                await scope.execute("update tenants set name = 'changed' where tenant_id = $1")
                entered.set()
                await scope.execute("select pg_sleep(60) where $1::uuid is not null")

        task = asyncio.create_task(hang())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with database.tenant(two.a) as scope:
            assert await scope.fetch_value("select name from tenants where tenant_id = $1") == "Somebody"
    finally:
        await database.close()


async def test_a_lost_connection_is_a_store_error_and_the_next_one_works(
    database: Database, two: Two
) -> None:
    with pytest.raises(StoreError):
        await lose_connection(database, two)
    await database.ping()


async def lose_connection(database: Database, two: Two) -> None:
    async with database.tenant(two.a) as scope:
        pid = await scope.fetch_value("select pg_backend_pid() where $1::uuid is not null")
        await two.owner.execute("select pg_terminate_backend($1)", pid)
        await scope.execute("select 1 where $1::uuid is not null")


async def test_the_callers_own_errors_are_left_alone(database: Database, two: Two) -> None:
    with pytest.raises(ConnectionRefusedError):
        async with database.tenant(two.a):
            raise ConnectionRefusedError
    with pytest.raises(asyncpg.DataError):
        async with database.tenant(two.a) as scope:
            await scope.fetch("select $2::int where $1::uuid is not null", "text")


async def test_no_server_is_a_store_error() -> None:
    with pytest.raises(StoreError):
        await Database.open("postgresql://postgres@127.0.0.1:1/postgres")


async def test_works_without_prepared_statements_as_pgbouncer_needs_it(dsn: str, two: Two) -> None:
    database = await Database.open(dsn, statement_cache_size=0)
    try:
        async with database.tenant(two.a) as scope:
            assert len(await scope.fetch("select * from users where tenant_id = $1")) == 1
    finally:
        await database.close()


async def test_without_prepared_statements_a_call_is_one_transaction(dsn: str) -> None:
    """PgBouncer would else run what another client prepared last on the server that the second half meets."""
    database = await Database.open(dsn, statement_cache_size=0)
    try:
        with pytest.raises(asyncpg.ActiveSQLTransactionError):  # what no transaction block may hold
            await database.call("discard all")
    finally:
        await database.close()


async def test_with_a_direct_address_a_call_goes_past_pgbouncer(dsn: str) -> None:
    database = await Database.open(dsn, statement_cache_size=0, direct_dsn=dsn)
    try:
        assert await database.call("discard all") is None  # alone, outside of any transaction block
        async with database.system() as system:
            assert await system.fetch_value("select 1") == 1
    finally:
        await database.close()
