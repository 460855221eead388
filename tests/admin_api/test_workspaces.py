"""Workspaces, what they may use, and their quota."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from geko_proxy.admin_api.workspaces import Workspaces
from geko_proxy.errors import Refused
from tests.admin_api.conftest import Guarded, Office

Value = Callable[[Any], Any]


@pytest.fixture
def workspaces(office: Office) -> Workspaces:
    return cast(Workspaces, Guarded(office.services, Workspaces(office.services)))


async def refused(endpoint: Any, call: Any) -> Refused:
    with pytest.raises(Refused) as found:
        await endpoint(*call)
    return found.value


async def test_ones_own_workspaces(workspaces: Workspaces, office: Office, value: Value) -> None:
    found = value(await workspaces.list_mine(*office.call("owner")))["workspaces"]
    assert [(each["name"], each["role"], each["current"]) for each in found] == [
        ("Default", "owner", True),
        ("Second", "owner", False),
    ]
    (only,) = value(await workspaces.list_mine(*office.call("member")))["workspaces"]
    assert only["role"] == "member"
    assert value(await workspaces.get(*office.call("member"))) == only


async def test_a_config_is_changed_field_by_field(
    workspaces: Workspaces, office: Office, value: Value
) -> None:
    open_config: dict[str, object] = {"models": None, "defaultModel": None, "mcpServers": None}
    open_config |= {"fallback": [], "version": 0}
    assert value(await workspaces.get_config(*office.call("viewer"))) == open_config
    first = {
        "models": ["Mock/gpt-4o-mini"],
        "defaultModel": "Mock/gpt-4o-mini",
        "mcpServers": [],
        "fallback": ["Mock/gpt-4o-mini"],
    }
    stored = value(await workspaces.put_config(*office.call("admin", body=first)))
    assert stored == {**first, "version": 1}
    second = value(await workspaces.put_config(*office.call("admin", body={"mcpServers": ["files"]})))
    assert second == {**first, "mcpServers": ["files"], "version": 2}
    third = value(await workspaces.put_config(*office.call("admin", body={"models": None, "version": 2})))
    assert (third["models"], third["mcpServers"]) == (None, ["files"])
    assert value(await workspaces.get_config(*office.call("viewer"))) == third


async def test_a_config_that_was_changed_meanwhile(workspaces: Workspaces, office: Office) -> None:
    await workspaces.put_config(*office.call("admin", body={"models": ["Mock/*"]}))
    conflict = await refused(workspaces.put_config, office.call("owner", body={"models": None, "version": 0}))
    assert (conflict.status, conflict.code) == (409, "version_conflict")


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"models": ["Mock/a", "nonsense"], "defaultModel": "Other/x"}, {"models[1]", "defaultModel"}),
        ({"mcpServers": ["a\x00"]}, {"mcpServers[0]"}),
        ({"models": "Mock/a", "mcp_servers": []}, {"models", "mcp_servers"}),
        ({"version": -1}, {"version"}),
        ({"fallback": None}, {"fallback"}),
        ({"models": ["Mock/a"], "fallback": ["Mock/a", "Mock/b", "Mock/*"]}, {"fallback[1]", "fallback[2]"}),
    ],
)
async def test_a_bad_config(
    workspaces: Workspaces, office: Office, body: dict[str, Any], fields: set[str]
) -> None:
    bad = await refused(workspaces.put_config, office.call("owner", body=body))
    assert (bad.status, bad.code) == (400, "invalid_request")
    assert set(bad.details or {}) == fields


async def test_the_quota(workspaces: Workspaces, office: Office, value: Value) -> None:
    assert value(await workspaces.get_quota(*office.call("viewer"))) == {"tokenLimit": 1000}
    await workspaces.put_quota(*office.call("admin", body={"tokenLimit": 5}))
    assert value(await workspaces.get_quota(*office.call("member"))) == {"tokenLimit": 5}
    await workspaces.put_quota(*office.call("owner", body={"tokenLimit": None}))
    assert value(await workspaces.get_quota(*office.call("member"))) == {"tokenLimit": None}


@pytest.mark.parametrize(
    "body", [{}, {"tokenLimit": -1}, {"tokenLimit": "5"}, {"tokenLimit": 2**63}, {"limit": 5}]
)
async def test_a_bad_quota(workspaces: Workspaces, office: Office, body: dict[str, Any]) -> None:
    assert (await refused(workspaces.put_quota, office.call("owner", body=body))).status == 400


async def test_only_owners_and_admins_write(workspaces: Workspaces, office: Office) -> None:
    for who in ("member", "viewer"):
        for endpoint in (workspaces.put_quota, workspaces.put_config):
            assert (await refused(endpoint, office.call(who, body={"tokenLimit": 1}))).status == 403
    stranger = office.call("stranger", office.first.workspace.workspace_id, body={"tokenLimit": 1})
    assert (await refused(workspaces.put_quota, stranger)).status == 404


async def test_changes_are_in_the_audit_log(workspaces: Workspaces, office: Office) -> None:
    await workspaces.put_quota(*office.call("admin", body={"tokenLimit": 5}))
    await workspaces.put_config(*office.call("owner", body={"models": ["Mock/*"]}))
    async with office.services.database.tenant(office.first.tenant.tenant_id) as scope:
        rows = await scope.fetch(
            "select action, actor_user_id, request_id from audit_log where tenant_id = $1 order by occurred_at"
        )
    assert [tuple(row) for row in rows] == [
        ("workspace.quota", office.users["admin"], "r1"),
        ("workspace.config", office.users["owner"], "r1"),
    ]
