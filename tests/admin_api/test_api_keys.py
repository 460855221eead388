"""The endpoints of API keys: terms, owners, admins, and what is written down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec
import pytest

from geko_proxy.accounts import api_keys as store
from geko_proxy.admin_api.api_keys import ApiKeyEndpoints
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange
from geko_proxy.workspaces.roles import Role
from tests.admin_api.conftest import Office

Value = Callable[[Any], Any]
TERMS = {"name": " ci ", "scopes": ["chat", "chat"], "models": ["Mock/*"], "tokenLimit": 500}


@pytest.fixture
def endpoints(office: Office) -> ApiKeyEndpoints:
    return ApiKeyEndpoints(office.services)


def asked(office: Office, who: str, body: Any = None, key_id: str | None = None) -> Exchange:
    exchange, _ = office.call(who, body=body)
    exchange.role = Role(who) if who in set(Role) else Role.OWNER
    if key_id is not None:
        exchange.params = {**exchange.params, "keyId": key_id}
    return exchange


async def make(office: Office, endpoints: ApiKeyEndpoints, who: str = "member", **terms: Any) -> Any:
    reply = await endpoints.create(asked(office, who, {**TERMS, **terms}), office.call(who)[1])
    assert reply.status == 201
    return msgspec.json.decode(reply.body or b"")


async def test_a_key_is_made_shown_and_written_down(
    office: Office, endpoints: ApiKeyEndpoints, value: Value
) -> None:
    made = await make(office, endpoints)
    assert (made["name"], made["scopes"], made["tokenLimit"]) == ("ci", ["chat"], 500)
    assert made["workspaceId"] == str(office.first.workspace.workspace_id)
    text = made.pop("key")
    request = office.call("member")[1]
    assert value(await endpoints.get(asked(office, "member", key_id=made["id"]), request)) == made
    assert value(await endpoints.list_mine(asked(office, "member"), request))["apiKeys"] == [made]
    async with office.services.database.tenant(office.first.tenant.tenant_id) as scope:
        rows = await scope.fetch("select action, target, details::text from audit_log where tenant_id = $1")
    (row,) = [row for row in rows if row["action"].startswith("api_key.")]
    assert (row["action"], row["target"]) == ("api_key.create", f"api_key/{made['id']}")
    assert text[26:] not in row["details"]


async def test_a_change_leaves_the_rest_also_when_two_race(
    office: Office, endpoints: ApiKeyEndpoints, value: Value
) -> None:
    made = await make(office, endpoints)
    request = office.call("member")[1]
    bodies = [{"name": "renamed"}, {"tokenLimit": None}, {"models": None}, {"scopes": ["usage:read"]}]
    await asyncio.gather(
        *(endpoints.change(asked(office, "member", body, made["id"]), request) for body in bodies)
    )
    found = value(await endpoints.get(asked(office, "member", key_id=made["id"]), request))
    assert (found["name"], found["tokenLimit"], found["models"]) == ("renamed", None, None)
    assert found["scopes"] == ["usage:read"]


@pytest.mark.parametrize("body", [{"name": "\x00"}, {"expiresAt": "2001-01-01T00:00:00Z"}, {"models": ["x"]}])
async def test_a_bad_change_names_the_field(
    office: Office, endpoints: ApiKeyEndpoints, body: dict[str, Any]
) -> None:
    made = await make(office, endpoints)
    with pytest.raises(Refused) as caught:
        await endpoints.change(asked(office, "member", body, made["id"]), office.call("member")[1])
    assert caught.value.status == 400
    assert next(iter(body)) in str(caught.value.details)


@pytest.mark.parametrize(
    ("who", "scopes", "status"),
    [
        ("viewer", ["usage:read", "workspace:read"], 201),
        ("viewer", ["chat"], 403),
        ("member", ["workspace:write"], 403),
        ("admin", ["workspace:write"], 201),
    ],
)
async def test_a_key_may_have_what_its_owners_role_allows(
    office: Office, endpoints: ApiKeyEndpoints, who: str, scopes: list[str], status: int
) -> None:
    if status == 201:
        assert (await make(office, endpoints, who, scopes=scopes))["scopes"] == scopes
        return
    with pytest.raises(Refused) as caught:
        await make(office, endpoints, who, scopes=scopes)
    assert (caught.value.status, caught.value.code) == (status, "scope_not_allowed")


@pytest.mark.parametrize("who", ["owner", "admin", "viewer", "stranger"])
async def test_a_key_is_its_owners_alone(office: Office, endpoints: ApiKeyEndpoints, who: str) -> None:
    made = await make(office, endpoints)
    request = office.call(who)[1]
    for call, body in ((endpoints.get, None), (endpoints.change, {"name": "x"}), (endpoints.delete, None)):
        with pytest.raises(Refused) as caught:
            await call(asked(office, who, body, made["id"]), request)
        assert caught.value.status == 404


@pytest.mark.parametrize("key_id", ["", "x", "00000000-0000-0000-0000-000000000000", "{}"])
async def test_ids_that_name_no_key(office: Office, endpoints: ApiKeyEndpoints, key_id: str) -> None:
    for call in (endpoints.get, endpoints.delete, endpoints.delete_of_workspace):
        with pytest.raises(Refused) as caught:
            await call(asked(office, "owner", key_id=key_id), office.call("owner")[1])
        assert caught.value.status == 404


async def test_admins_see_all_keys_and_end_them(
    office: Office, endpoints: ApiKeyEndpoints, value: Value
) -> None:
    made = [await make(office, endpoints, who) for who in ("member", "owner")]
    request = office.call("admin")[1]
    listed = value(await endpoints.list_of_workspace(asked(office, "admin"), request))["apiKeys"]
    assert [(each["id"], each["user"]["email"]) for each in listed] == [
        (made[0]["id"], "member@a.example"),
        (made[1]["id"], "owner@a.example"),
    ]
    for who in ("member", "viewer", "stranger"):
        with pytest.raises(Refused):
            await endpoints.list_of_workspace(asked(office, who), request)
        with pytest.raises(Refused):
            await endpoints.delete_of_workspace(asked(office, who, key_id=made[0]["id"]), request)
    elsewhere, _ = office.call("owner", office.second.workspace_id)
    elsewhere.params = {**elsewhere.params, "keyId": made[0]["id"]}
    with pytest.raises(Refused):  # a key of another workspace
        await endpoints.delete_of_workspace(elsewhere, request)
    gone = await endpoints.delete_of_workspace(asked(office, "admin", key_id=made[0]["id"]), request)
    assert gone.status == 204
    assert await office.services.api_keys.verify(made[0]["key"]) is None
    key = await office.services.api_keys.verify(made[1]["key"])
    assert key is not None
    assert key.key_id == UUID(made[1]["id"])


async def test_one_key_too_many(
    office: Office, endpoints: ApiKeyEndpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_KEYS", 1)
    await make(office, endpoints)
    with pytest.raises(Refused) as caught:
        await make(office, endpoints)
    assert (caught.value.status, caught.value.code) == (409, "too_many_keys")
