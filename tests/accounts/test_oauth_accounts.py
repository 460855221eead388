"""Links between people and their accounts at providers, on a real database."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

import asyncpg
import pytest

from geko_proxy.accounts.oauth_accounts import (
    AlreadyLinked,
    LastSignIn,
    OAuthAccounts,
    ProviderAccount,
)
from geko_proxy.accounts.registration import EmailTaken, Registered
from geko_proxy.accounts.sealing import BrokenSeal, Sealer
from geko_proxy.accounts.users import UserStore
from geko_proxy.storage.database import Database
from tests.conftest import Account

GOOGLE = ProviderAccount("google", "https://g.test", "s1", "pat@acme.test", {"accessToken": "ya29.secret"})
GITHUB = ProviderAccount("github", "https://h.test", "s1", "pat@acme.test", {"accessToken": "gho_secret"})


@pytest.fixture
def accounts(database: Database) -> OAuthAccounts:
    return OAuthAccounts(database, Sealer("s" * 32))


async def link(database: Database, accounts: OAuthAccounts, owner: Account, account: ProviderAccount) -> None:
    async with database.tenant(owner.tenant_id) as scope:
        await accounts.link(scope, owner.user_id, account)


async def unlink(database: Database, accounts: OAuthAccounts, owner: tuple[UUID, UUID], name: str) -> bool:
    async with database.tenant(owner[0]) as scope:
        return await accounts.unlink(scope, owner[1], name) is not None


def place_of(registered: Registered) -> tuple[UUID, UUID]:
    return registered.user.tenant_id, registered.user.user_id


async def test_registration_makes_an_owner_without_a_password(
    database: Database, accounts: OAuthAccounts
) -> None:
    registered = await accounts.register(GOOGLE, "Pat", 1000)
    assert await accounts.find("https://g.test", "s1") == place_of(registered)
    found = await UserStore(database).find_login("pat@acme.test")
    assert found is not None
    assert found[1] is None
    assert (registered.tenant.name, registered.workspace.name) == ("Pat", "Default")
    for again in (GOOGLE, GITHUB):  # the subject, then the address, is taken
        with pytest.raises(EmailTaken):
            await accounts.register(again, "Pat", None)
    async with database.system() as system:
        assert await system.fetch_value("select count(*) from tenants") == 1


async def test_two_at_once_make_one_account(accounts: OAuthAccounts) -> None:
    made = await asyncio.gather(
        *(accounts.register(GOOGLE, "Pat", None) for _ in range(4)), return_exceptions=True
    )
    assert sorted(type(each).__name__ for each in made) == ["EmailTaken"] * 3 + ["Registered"]


async def test_a_subject_belongs_to_one_person_in_all_tenants(
    database: Database, accounts: OAuthAccounts, account: Account, stranger: Account
) -> None:
    await link(database, accounts, account, GOOGLE)
    with pytest.raises(AlreadyLinked):
        await link(database, accounts, stranger, GOOGLE)
    await link(database, accounts, stranger, GITHUB)  # the same subject of another issuer
    other = ProviderAccount("google", "https://g.test", "s2", "b@acme.test", {})
    with pytest.raises(AlreadyLinked):  # one of each provider
        await link(database, accounts, account, other)
    assert await accounts.find("https://g.test", "s2") is None
    assert await unlink(database, accounts, (account.tenant_id, account.user_id), "google")
    await link(database, accounts, stranger, GOOGLE)
    assert not await accounts.touch(account.tenant_id, account.user_id, GOOGLE)
    assert await accounts.touch(stranger.tenant_id, stranger.user_id, GOOGLE)


async def test_tokens_are_sealed_for_their_row(
    database: Database, dsn: str, accounts: OAuthAccounts, account: Account, stranger: Account
) -> None:
    await link(database, accounts, account, GOOGLE)
    await link(database, accounts, stranger, GITHUB)
    assert await accounts.tokens(account.tenant_id, account.user_id, "google") == GOOGLE.tokens
    assert await accounts.tokens(account.tenant_id, stranger.user_id, "github") is None
    connection = await asyncpg.connect(dsn)
    sealed = await connection.fetchval("select sealed_tokens from oauth_tokens where provider = 'google'")
    assert "ya29" not in sealed
    await connection.execute("update oauth_tokens set sealed_tokens = $1", sealed)
    await connection.close()
    with pytest.raises(BrokenSeal):
        await accounts.tokens(stranger.tenant_id, stranger.user_id, "github")


async def test_a_renamed_provider_keeps_its_people(
    database: Database, accounts: OAuthAccounts, account: Account
) -> None:
    await link(database, accounts, account, GOOGLE)
    renamed = ProviderAccount("corp", "https://g.test", "s1", "new@acme.test", {"accessToken": "2"})
    assert await accounts.touch(account.tenant_id, account.user_id, renamed)
    (found,) = await accounts.list_for_user(account.tenant_id, account.user_id)
    assert (found.provider, found.email) == ("corp", "new@acme.test")
    assert await accounts.tokens(account.tenant_id, account.user_id, "corp") == {"accessToken": "2"}


async def test_the_last_way_to_sign_in_stays(
    database: Database, accounts: OAuthAccounts, account: Account
) -> None:
    owner = place_of(await accounts.register(GOOGLE, "Pat", None))
    assert not await unlink(database, accounts, owner, "github")
    with pytest.raises(LastSignIn):
        await unlink(database, accounts, owner, "google")
    async with database.tenant(owner[0]) as scope:
        await accounts.link(scope, owner[1], GITHUB)
    ended = await asyncio.gather(
        *(unlink(database, accounts, owner, name) for name in ("google", "github")), return_exceptions=True
    )
    assert sorted(str(each) for each in ended) in (["True", "github"], ["True", "google"])
    # with a password the only link may go
    other = ProviderAccount("acme", "https://a.test", "s", "x@acme.test", {})
    await link(database, accounts, account, other)
    assert await unlink(database, accounts, (account.tenant_id, account.user_id), "acme")


async def test_tenants_see_and_release_only_their_own(
    database: Database, accounts: OAuthAccounts, account: Account, stranger: Account
) -> None:
    await link(database, accounts, account, GOOGLE)
    async with database.tenant(stranger.tenant_id) as scope:
        assert await scope.fetch("select * from oauth_tokens where $1::uuid is not null") == []
        await scope.execute("select release_oauth_subject('https://g.test', 's1') where $1::uuid is not null")
    assert await accounts.find("https://g.test", "s1") == (account.tenant_id, account.user_id)
    for table in ("oauth_subjects", "oauth_used_states"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with database.system() as system:
                await system.fetch(f"select * from {table}")


async def test_a_state_counts_once(dsn: str, accounts: OAuthAccounts) -> None:
    until = int(time.time()) + 600
    used = await asyncio.gather(*(accounts.use_state("state", until) for _ in range(5)))
    assert sorted(used) == [False] * 4 + [True]
    assert await accounts.use_state("another", until)
    connection = await asyncpg.connect(dsn)
    await connection.execute("update oauth_used_states set expires_at = now() - interval '1 hour'")
    assert await accounts.use_state("third", until)
    assert await connection.fetchval("select count(*) from oauth_used_states") == 1
    await connection.close()
