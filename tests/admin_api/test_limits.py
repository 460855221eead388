"""The admin API of limits: who may do what, what is refused by which field, and what is on record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import uuid4

import msgspec
import pytest

from geko_proxy.accounts.api_keys import KeyScope, KeyTerms
from geko_proxy.admin_api.limits import Limits
from geko_proxy.config import Settings
from geko_proxy.errors import Refused
from geko_proxy.metering import limit_changes
from geko_proxy.metering.leases import Leases
from tests.admin_api.conftest import Guarded, Office

Value = Callable[[Any], Any]
TOMORROW = (datetime.now(UTC) + timedelta(days=1)).isoformat()
YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).isoformat()


@pytest.fixture
def place(office: Office) -> Office:
    """The office with what limits need."""
    leases = Leases(office.services.database)
    return replace(office, services=replace(office.services, settings=Settings(), leases=leases))


@pytest.fixture
def limits(place: Office) -> Limits:
    return cast(Limits, Guarded(place.services, Limits(place.services)))


def named(call: Any, limit_id: object) -> Any:
    """The same request about one limit."""
    exchange, request = call
    exchange.params = {**exchange.params, "limitId": str(limit_id)}
    return exchange, request


async def refused(endpoint: Any, call: Any) -> Refused:
    with pytest.raises(Refused) as found:
        await endpoint(*call)
    return found.value


async def make_key(place: Office, who: str) -> str:
    terms = KeyTerms("ci", (KeyScope.CHAT,), token_limit=70)
    tenant, workspace = place.first.tenant.tenant_id, place.first.workspace.workspace_id
    async with place.services.database.tenant(tenant) as scope:
        key_id, _ = await place.services.api_keys.create(scope, workspace, place.users[who], terms)
    return str(key_id)


async def test_a_limit_is_made_read_changed_and_deleted(limits: Limits, place: Office, value: Value) -> None:
    body = {
        "scope": "workspace",
        "period": "week",
        "startDay": 3,
        "unit": "cost",
        "amount": "12.50",
        "grace": 0.25,
        "alertAt": [95, 50, 95],
        "raise": {"by": 3, "until": TOMORROW},
    }
    made = value(await limits.create(*place.call("admin", body=body)))
    window = made.pop("window")
    limit_id = made.pop("id")
    assert made == {
        **body,
        "subject": "",
        "currency": "USD",
        "amount": "12.5",
        "grace": "0.25",
        "alertAt": [50, 95],
        "raise": {"by": "3", "until": TOMORROW.replace("+00:00", "Z")},
    }
    assert (window["used"], window["leased"], window["remaining"]) == ("0", "0", "15.5")
    assert window["timeZone"] == "UTC"
    read = value(await limits.get(*named(place.call("viewer"), limit_id)))
    assert read == {"id": limit_id, **made, "window": window}

    change: dict[str, Any] = {"amount": None, "raise": None, "alertAt": []}
    changed = value(await limits.change(*named(place.call("owner", body=change), limit_id)))
    assert (changed["amount"], changed["raise"], changed["alertAt"]) == (None, None, [])
    assert (changed["grace"], changed["window"]["remaining"]) == ("0.25", None)
    assert (await limits.delete(*named(place.call("owner"), limit_id))).status == 204
    for call in (limits.get, limits.delete):
        assert (await refused(call, named(place.call("owner"), limit_id))).status == 404


async def test_the_workspaces_quota_is_one_of_them(limits: Limits, place: Office, value: Value) -> None:
    (own,) = value(await limits.list_all(*place.call("member")))["limits"]
    workspace_id = str(place.first.workspace.workspace_id)
    assert (own["id"], own["amount"], own["window"]["remaining"]) == (workspace_id, 1000, 1000)
    exists = await refused(limits.create, place.call("owner", body={"scope": "workspace", "amount": 5}))
    assert (exists.status, exists.code) == (409, "limit_exists")
    await limits.delete(*named(place.call("owner"), workspace_id))
    tenant = place.first.tenant.tenant_id
    assert await place.services.limits.get_own(tenant, place.first.workspace.workspace_id) is None
    await limits.create(*place.call("owner", body={"scope": "workspace", "amount": 5}))
    assert await place.services.limits.get_own(tenant, place.first.workspace.workspace_id) == 5
    await limits.create(*place.call("owner", body={"scope": "workspace", "amount": 6, "startDay": 15}))
    assert await place.services.limits.get_own(tenant, place.first.workspace.workspace_id) == 5


async def test_members_see_what_concerns_them(limits: Limits, place: Office, value: Value) -> None:
    mine, others = await make_key(place, "member"), await make_key(place, "admin")
    for body in (
        {"scope": "member", "subject": "*"},
        {"scope": "member", "subject": str(place.users["member"]).upper()},
        {"scope": "member", "subject": str(place.users["viewer"])},
        {"scope": "model", "subject": "openAI/*"},
        {"scope": "key", "subject": mine, "period": "day"},
        {"scope": "key", "subject": others, "period": "day"},
    ):
        await limits.create(*place.call("owner", body={"amount": 10, **body}))

    async def seen(who: str) -> list[str]:
        found = value(await limits.list_all(*place.call(who)))["limits"]
        for each in found:
            await limits.get(*named(place.call(who), each["id"]))
        return [each["subject"] for each in found]

    everything = await seen("admin")
    member, viewer = str(place.users["member"]), str(place.users["viewer"])
    assert sorted(everything) == sorted(["", "*", member, viewer, "openAI/*", mine, mine, others, others])
    assert sorted(await seen("member")) == sorted(["", "*", member, "openAI/*", mine, mine])
    assert sorted(await seen("viewer")) == sorted(["", "*", viewer, "openAI/*"])
    hidden = value(await limits.list_all(*place.call("admin")))["limits"][-1]["id"]
    assert (await refused(limits.get, named(place.call("member"), hidden))).status == 404
    shown = value(await limits.list_all(*place.call("member")))["limits"]
    star = next(each for each in shown if each["subject"] == "*")
    assert "members" not in value(await limits.get(*named(place.call("member"), star["id"])))
    assert "members" in value(await limits.get(*named(place.call("admin"), star["id"])))

    tenant = place.first.tenant.tenant_id
    async with place.services.database.tenant(tenant) as scope:
        await scope.execute("update api_keys set revoked_at = now() where tenant_id = $1")
    assert mine not in await seen("admin")


async def test_only_admins_write_and_only_in_their_own_workspace(limits: Limits, place: Office) -> None:
    workspace_id = place.first.workspace.workspace_id
    body = {"scope": "workspace", "period": "day", "amount": 1}
    for who in ("member", "viewer"):
        assert (await refused(limits.create, place.call(who, body=body))).status == 403
        for endpoint in (limits.change, limits.delete):
            assert (await refused(endpoint, named(place.call(who, body={}), workspace_id))).status == 403
    for who, elsewhere in (("stranger", workspace_id), ("admin", place.second.workspace_id)):
        assert (await refused(limits.list_all, place.call(who, elsewhere))).status == 404
        assert (await refused(limits.create, place.call(who, elsewhere, body))).status == 404
    # a limit of another workspace of the same owner
    call = place.call("owner", place.second.workspace_id, {"amount": 1})
    assert (await refused(limits.change, named(call, workspace_id))).status == 404
    assert (await refused(limits.change, named(place.call("owner", body={}), "x"))).status == 404


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"scope", "amount"}),
        ({"scope": "team", "amount": "x", "periods": 1}, {"scope", "periods"}),
        ({"scope": "workspace", "subject": "x", "amount": 1.5}, {"subject", "amount"}),
        ({"scope": "workspace", "amount": "5"}, {"amount"}),
        ({"scope": "workspace", "amount": True}, {"amount"}),
        ({"scope": "workspace", "amount": -1, "grace": 10**18 + 1}, {"amount", "grace"}),
        ({"scope": "workspace", "amount": "1.0000000001", "unit": "cost"}, {"amount"}),
        ({"scope": "workspace", "amount": "1,5", "unit": "cost", "grace": -1}, {"amount", "grace"}),
        ({"scope": "workspace", "amount": 10**9 + 1, "unit": "cost"}, {"amount"}),
        ({"scope": "workspace", "amount": 1, "startDay": 31}, {"startDay"}),
        ({"scope": "workspace", "amount": 1, "startDay": 8, "period": "week"}, {"startDay"}),
        ({"scope": "workspace", "amount": 1, "startDay": 2, "period": "day"}, {"startDay"}),
        ({"scope": "workspace", "amount": 1, "period": "year", "unit": "words"}, {"period", "unit"}),
        ({"scope": "workspace", "amount": 1, "alertAt": [0, 101]}, {"alertAt"}),
        ({"scope": "workspace", "amount": 1, "alertAt": list(range(1, 22))}, {"alertAt"}),
        ({"scope": "workspace", "amount": 1, "raise": {"by": 5, "until": YESTERDAY}}, {"raise.until"}),
        ({"scope": "workspace", "amount": 1, "raise": {"by": 0, "until": TOMORROW}}, {"raise.by"}),
        (
            {"scope": "workspace", "amount": 1, "raise": {"by": 0.5, "until": YESTERDAY}},
            {"raise.by", "raise.until"},
        ),
        ({"scope": "workspace", "amount": 1, "raise": {"by": 5}}, {"raise"}),
        ({"scope": "workspace", "amount": 1, "raise": {"by": 5, "until": "2030-01-01T00:00:00"}}, {"raise"}),
        ({"scope": "workspace", "amount": 1, "raise": {"by": 5, "until": TOMORROW, "x": 1}}, {"raise"}),
        ({"scope": "member", "amount": 1}, {"subject"}),
        ({"scope": "member", "amount": 1, "subject": "**"}, {"subject"}),
        ({"scope": "member", "amount": 1, "subject": str(uuid4())}, {"subject"}),
        ({"scope": "key", "amount": 1, "subject": "*"}, {"subject"}),
        ({"scope": "key", "amount": 1, "subject": str(uuid4())}, {"subject"}),
        ({"scope": "model", "amount": 1, "subject": "gpt-4o"}, {"subject"}),
        ({"scope": "model", "amount": 1, "subject": "/gpt-4o"}, {"subject"}),
        ({"scope": "model", "amount": 1, "subject": "openAI/\x00"}, {"subject"}),
        ({"scope": "model", "amount": 1, "subject": "a/" + "x" * 299}, {"subject"}),
    ],
)
async def test_every_wrong_field_is_named(
    limits: Limits, place: Office, body: dict[str, Any], fields: set[str]
) -> None:
    bad = await refused(limits.create, place.call("owner", body=body))
    assert (bad.status, bad.code) == (400, "invalid_request")
    assert set(bad.details or {}) == fields


async def test_somebody_elses_key_and_member_are_unknown(limits: Limits, place: Office) -> None:
    key, theirs = await make_key(place, "admin"), str(place.stranger.user.user_id)
    for body in ({"scope": "key", "subject": key}, {"scope": "member", "subject": str(place.users["admin"])}):
        call = place.call("owner", place.second.workspace_id, {**body, "amount": 1})
        assert set((await refused(limits.create, call)).details or {}) == {"subject"}
    call = place.call("owner", body={"scope": "member", "subject": theirs, "amount": 1})
    assert set((await refused(limits.create, call)).details or {}) == {"subject"}


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"scope": "member"}, {"scope"}),
        (
            {"period": "day", "unit": "cost", "startDay": 2, "subject": "*"},
            {"period", "unit", "startDay", "subject"},
        ),
        ({"amount": "5", "grace": None}, {"grace"}),
        ({"amount": 0.5, "raise": {"by": 1, "until": YESTERDAY}}, {"amount", "raise.until"}),
    ],
)
async def test_what_is_limited_can_not_be_changed(
    limits: Limits, place: Office, body: dict[str, Any], fields: set[str]
) -> None:
    call = named(place.call("owner", body=body), place.first.workspace.workspace_id)
    bad = await refused(limits.change, call)
    assert (bad.status, set(bad.details or {})) == (400, fields)


async def test_a_workspace_has_so_many_limits(
    limits: Limits, place: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit_changes, "MAX_LIMITS", 2)
    body = {"scope": "model", "subject": "a/*", "amount": 1}
    await limits.create(*place.call("owner", body=body))
    same = await refused(limits.create, place.call("owner", body=body))
    assert (same.status, same.code) == (409, "too_many_limits")
    monkeypatch.setattr(limit_changes, "MAX_LIMITS", 9)
    assert (await refused(limits.create, place.call("owner", body=body))).code == "limit_exists"


async def test_every_change_is_on_record_with_before_and_after(
    limits: Limits, place: Office, value: Value
) -> None:
    body = {"scope": "member", "subject": "*", "amount": 10}
    limit_id = value(await limits.create(*place.call("admin", body=body)))["id"]
    await limits.change(*named(place.call("owner", body={"amount": 20}), limit_id))
    await limits.delete(*named(place.call("owner"), limit_id))
    async with place.services.database.tenant(place.first.tenant.tenant_id) as scope:
        rows = await scope.fetch(
            "select action, actor_user_id, target, details from audit_log where tenant_id = $1 order by occurred_at"
        )
    assert [row["action"] for row in rows] == ["limit.create", "limit.update", "limit.delete"]
    assert [row["actor_user_id"] for row in rows] == [place.users[who] for who in ("admin", "owner", "owner")]
    assert {row["target"] for row in rows} == {f"limit/{limit_id}"}
    details = [msgspec.json.decode(row["details"]) for row in rows]
    amounts = [tuple(each[side] and each[side]["amount"] for side in ("before", "after")) for each in details]
    assert amounts == [(None, 10), (10, 20), (20, None)]
