"""What a workspace may use: matching, checking, storing."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.storage.database import Database
from geko_proxy.storage.invalidation import Invalidation
from geko_proxy.workspaces.config import (
    InvalidConfig,
    VersionConflict,
    WorkspaceConfig,
    WorkspaceConfigStore,
    matches,
)
from tests.conftest import Account


@pytest.mark.parametrize(
    ("glob", "endpoint", "model", "expected"),
    [
        ("Mock/gpt-4o-mini", "Mock", "gpt-4o-mini", True),
        ("Mock/gpt-4o-mini", "Mock", "gpt-4o", False),
        ("Mock/gpt-4o", "Mock", "gpt-4o-mini", False),
        ("Mock/gpt-4o-mini", "mock", "gpt-4o-mini", False),
        ("Mock/gpt-4o-mini", "Mock", "gpt-4o-mini\n", False),
        ("openAI/*", "openAI", "o3", True),
        ("openAI/*", "azureOpenAI", "o3", False),
        ("openAI/gpt-*-mini", "openAI", "gpt-4o-mini", True),
        ("*/gpt-4o", "openAI", "gpt-4o", True),
        ("*/gpt-4o", "openAI", "x/gpt-4o", False),
        ("Router/meta/llama-3", "Router", "meta/llama-3", True),
        ("Router/*", "Router", "meta/llama-3", True),
        ("Router/*", "Router/meta", "llama-3", False),
        ("a/gpt-4[12]", "a", "gpt-41", False),
        ("a/gpt-4[12]", "a", "gpt-4[12]", True),
        ("a/gpt.4?", "a", "gptx4x", False),
    ],
)
def test_matching(glob: str, endpoint: str, model: str, *, expected: bool) -> None:
    assert matches(glob, endpoint, model) is expected
    assert WorkspaceConfig(models=("no/thing", glob)).allows_model(endpoint, model) is expected


@given(st.text(), st.text())
def test_none_allows_everything_and_an_empty_list_nothing(endpoint: str, model: str) -> None:
    assert WorkspaceConfig().allows_model(endpoint, model)
    assert WorkspaceConfig().allows_mcp(model)
    assert not WorkspaceConfig(models=()).allows_model(endpoint, model)
    assert not WorkspaceConfig(mcp_servers=()).allows_mcp(model)


def test_mcp_servers_are_names() -> None:
    config = WorkspaceConfig(mcp_servers=("files", "*"))
    assert config.allows_mcp("files")
    assert not config.allows_mcp("web")


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        (WorkspaceConfig(models=("gpt-4o",)), ["models[0]"]),
        (WorkspaceConfig(models=("a/b", "/b", "a/")), ["models[1]", "models[2]"]),
        (WorkspaceConfig(models=("a/b\0",)), ["models[0]"]),
        (WorkspaceConfig(mcp_servers=("", "x" * 300)), ["mcp_servers[0]", "mcp_servers[1]"]),
        (WorkspaceConfig(models=("a/*",) * 501), ["models"]),
        (WorkspaceConfig(default_model="gpt-4o"), ["default_model"]),
        (WorkspaceConfig(default_model="a/*"), ["default_model"]),
        (WorkspaceConfig(models=("a/*",), default_model="b/c"), ["default_model"]),
        (WorkspaceConfig(fallback=("a/b", "b", "a/*", "a/b")), ["fallback[1]", "fallback[2]", "fallback[3]"]),
        (WorkspaceConfig(models=("a/*",), fallback=("a/x", "b/x")), ["fallback[1]"]),
        (WorkspaceConfig(fallback=tuple(f"a/{number}" for number in range(11))), ["fallback"]),
        (WorkspaceConfig(models=("x",), default_model="y", mcp_servers=("",)), None),
    ],
)
async def test_all_problems_are_told(
    database: Database, account: Account, config: WorkspaceConfig, fields: list[str] | None
) -> None:
    store = WorkspaceConfigStore(database)
    with pytest.raises(InvalidConfig) as caught:
        await store.put(account.tenant_id, account.workspace_id, config)
    told = [problem.partition(":")[0] for problem in caught.value.problems]
    assert told == (fields or ["mcp_servers[0]", "models[0]", "default_model"])
    assert await store.get(account.tenant_id, account.workspace_id) == WorkspaceConfig()


async def test_is_stored_with_versions(database: Database, account: Account) -> None:
    store = WorkspaceConfigStore(database)
    place = (account.tenant_id, account.workspace_id)
    fallback = ("Mock/gpt-4o-mini", "Mock/gpt-4")
    config = WorkspaceConfig(("Mock/*",), "Mock/gpt-4o", ("files",), fallback=fallback)
    first = await store.put(*place, config, expected_version=0)
    assert first.version == 1
    assert await store.get(*place) == first
    assert first.fallback == fallback
    with pytest.raises(VersionConflict):
        await store.put(*place, config, expected_version=0)
    with pytest.raises(VersionConflict):
        await store.put(*place, config, expected_version=2)
    assert (await store.put(*place, WorkspaceConfig(models=()), expected_version=1)).version == 2
    assert (await store.get(*place)).models == ()
    assert (await store.put(*place, WorkspaceConfig())).version == 3


async def test_a_version_that_never_was_is_a_conflict(database: Database, account: Account) -> None:
    with pytest.raises(VersionConflict):
        await WorkspaceConfigStore(database).put(
            account.tenant_id, account.workspace_id, WorkspaceConfig(), expected_version=3
        )


async def test_of_racing_writers_with_one_version_one_wins(database: Database, account: Account) -> None:
    store = WorkspaceConfigStore(database)
    place = (account.tenant_id, account.workspace_id)
    for version in (0, 1):
        results = await asyncio.gather(
            *(store.put(*place, WorkspaceConfig(), expected_version=version) for _ in range(5)),
            return_exceptions=True,
        )
        assert sum(isinstance(result, WorkspaceConfig) for result in results) == 1


async def test_a_write_is_seen_by_other_instances_at_once(
    database: Database, invalidation: Invalidation, account: Account
) -> None:
    writer, reader = WorkspaceConfigStore(database), WorkspaceConfigStore(database, invalidation)
    place = (account.tenant_id, account.workspace_id)
    heard: asyncio.Queue[str] = asyncio.Queue()
    invalidation.subscribe("workspace_config", heard.put_nowait)
    assert (await reader.get(*place)).version == 0
    await writer.put(*place, WorkspaceConfig())
    assert (await reader.get(*place)).version == 0  # the writer above announces nothing
    await WorkspaceConfigStore(database, invalidation).put(*place, WorkspaceConfig())
    await heard.get()
    assert (await reader.get(*place)).version == 2


async def test_is_the_tenants_own(database: Database, account: Account, stranger: Account) -> None:
    store = WorkspaceConfigStore(database)
    await store.put(account.tenant_id, account.workspace_id, WorkspaceConfig(models=("a/b",)))
    assert await store.get(stranger.tenant_id, account.workspace_id) == WorkspaceConfig()
