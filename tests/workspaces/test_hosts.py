"""Host names of workspaces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.storage.database import Database
from geko_proxy.workspaces.hosts import SlugTaken, WorkspaceHosts, compile_pattern
from tests.conftest import Account

PATTERN = "{workspace}.{tenant}.example.org"
slugs = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True)


@given(slugs, slugs, st.one_of(st.none(), st.integers(1, 65535)))
def test_a_host_name_is_read_as_it_was_made(workspace: str, tenant: str, port: int | None) -> None:
    host = PATTERN.format(workspace=workspace, tenant=tenant) + (f":{port}" if port else "")
    found = compile_pattern(PATTERN).fullmatch(host)
    assert found is not None
    assert (found["workspace"], found["tenant"]) == (workspace, tenant)


@pytest.mark.parametrize(
    "host",
    ["example.org", "a.example.org", "x.a.b.example.org", "a.b.exampleXorg", "a.b.example.org.evil", ".a.example.org",
     "-a.b.example.org", "a.b.example.org:", "a.b.example.org\n"],
)  # fmt: skip
def test_what_is_no_workspaces_host(host: str) -> None:
    assert compile_pattern(PATTERN).fullmatch(host) is None


async def test_names_are_of_one_tenant_and_one_workspace(
    database: Database, account: Account, stranger: Account
) -> None:
    hosts = WorkspaceHosts(database, None, PATTERN)
    async with database.tenant(account.tenant_id) as scope:
        await hosts.set_workspace(scope, account.workspace_id, "one")
    assert await hosts.address(account.tenant_id, account.workspace_id) is None
    async with database.tenant(account.tenant_id) as scope:
        await hosts.set_tenant(scope, "acme")
    assert await hosts.address(account.tenant_id, account.workspace_id) == "one.acme.example.org"
    with pytest.raises(SlugTaken):
        async with database.tenant(stranger.tenant_id) as scope:
            await hosts.set_tenant(scope, "acme")
    async with database.tenant(stranger.tenant_id) as scope:
        await hosts.set_workspace(scope, stranger.workspace_id, "one")  # names are the tenant's own
        await hosts.set_workspace(scope, account.workspace_id, "stolen")
    assert await hosts.address(account.tenant_id, account.workspace_id) == "one.acme.example.org"
