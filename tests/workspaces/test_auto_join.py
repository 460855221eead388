"""Mail domains: whose they are, and which say nothing."""

from __future__ import annotations

import pytest

from geko_proxy.storage.database import Database
from geko_proxy.workspaces.auto_join import (
    AutoJoin,
    AutoJoinStore,
    DomainTaken,
    domain_of,
    domain_problems,
)
from geko_proxy.workspaces.roles import Role
from tests.conftest import Account


async def put(database: Database, account: Account, *domains: str) -> None:
    setting = AutoJoin(domains, account.workspace_id, Role.MEMBER) if domains else None
    async with database.tenant(account.tenant_id) as scope:
        await AutoJoinStore(database).put(scope, setting, account.user_id)


async def test_a_domain_is_of_one_tenant(database: Database, account: Account, stranger: Account) -> None:
    store = AutoJoinStore(database)
    await put(database, account, "a.example", "b.example")
    assert await store.get(account.tenant_id) == AutoJoin(
        ("a.example", "b.example"), account.workspace_id, Role.MEMBER
    )
    assert await store.find_tenant("X@A.example ") == account.tenant_id
    assert await store.find_tenant("x@sub.a.example") is None
    with pytest.raises(DomainTaken):
        await put(database, stranger, "c.example", "a.example")
    assert await store.get(stranger.tenant_id) is None
    assert await store.find_tenant("x@c.example") is None
    await put(database, account, "b.example", "d.example")
    await put(database, stranger, "a.example")
    assert await store.find_tenant("x@a.example") == stranger.tenant_id
    await put(database, account)
    assert await store.get(account.tenant_id) is None
    assert await store.find_tenant("x@b.example") is None


async def test_geko_reads_nobodys_list_of_domains(database: Database, account: Account) -> None:
    await put(database, account, "a.example")
    async with database.system() as system:
        assert await system.fetch("select * from own_join_domains()") == []
        with pytest.raises(Exception, match="permission denied"):
            await system.fetch("select * from join_domains")


def test_which_domains_can_be_given() -> None:
    proven = {"a.example", "gmail.com"}
    assert domain_problems(["a.example"], proven) == {}
    problems = domain_problems(["gmail.com", "b.example", "no domain", "a@a.example", ""], proven)
    assert list(problems) == [f"domains[{index}]" for index in range(5)]
    assert domain_of("A@B.Example") == "b.example"
