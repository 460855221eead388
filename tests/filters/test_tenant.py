"""Tenants, pictures and shared links."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from geko_proxy.errors import Refused, UpstreamError
from geko_proxy.exchange import Exchange, Reply, Route
from geko_proxy.filters.tenant import TenantFilter, TenantOptions
from geko_proxy.workspaces.shared_links import SharedLink
from geko_proxy.workspaces.tenants import TenantStatus
from tests.fake_services import (
    ACCOUNT,
    TENANT,
    USER,
    WORKSPACE,
    World,
    account_of,
    exchange_of,
    own_exchange,
    reply_of,
)

COLLEAGUE, STRANGER = "c" * 24, "d" * 24


def filter_of(world: World, **options: Any) -> TenantFilter:
    return TenantFilter(TenantOptions(**options), world.services())


async def refusal(world: World, exchange: Exchange, **options: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        await filter_of(world, **options).on_request(exchange)
    return refused.value


async def answered(world: World, exchange: Exchange, reply: Reply) -> None:
    """Run both hooks."""
    checked = filter_of(world)
    await checked.on_request(exchange)
    exchange.reply = reply
    assert await checked.on_reply(exchange) is None


async def test_the_tenant_is_set() -> None:
    world = World()
    for exchange in (exchange_of("GET", "/api/convos"), own_exchange("usage")):
        await filter_of(world).on_request(exchange)
        assert exchange.tenant is world.tenant


async def test_a_tenant_that_is_unknown_or_suspended_may_not_work() -> None:
    known = World()
    assert known.tenant is not None
    suspended = World(tenant=replace(known.tenant, status=TenantStatus.SUSPENDED))
    for world in (World(tenant=None), suspended):
        refused = await refusal(world, exchange_of("GET", "/api/convos"))
        assert (refused.status, refused.code) == (403, "tenant_not_active")


async def test_nobody_signed_in_sees_the_sign_in_page_only() -> None:
    await filter_of(World()).on_request(exchange_of("GET", "/api/config", anonymous=True))
    assert (await refusal(World(), exchange_of("GET", "/api/user", anonymous=True))).status == 401


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        (f"/images/{ACCOUNT}/cat.png", True),
        (f"/images/{ACCOUNT}/agent-1-avatar-2.png", True),
        (f"/images/{COLLEAGUE}/agent-1-avatar-2.png", True),
        (f"/images/{COLLEAGUE}/cat.png", False),
        (f"/images/{COLLEAGUE}/agent-x/cat.png", False),
        (f"/images/{STRANGER}/agent-1-avatar-2.png", False),
        (f"/images/{STRANGER}/cat.png", False),
        (f"/images/{ACCOUNT.upper()}/cat.png", False),
    ],
)
async def test_pictures_of_others_are_not_shown(path: str, seen: bool) -> None:
    accounts = [account_of(COLLEAGUE, uuid4()), account_of(STRANGER, uuid4(), uuid4())]
    world, exchange = World(accounts=accounts), exchange_of("GET", path)
    if seen:
        await filter_of(world).on_request(exchange)
    else:
        assert (await refusal(world, exchange)).status == 403


@pytest.mark.parametrize("path", ["/api/share/s1", "/api/share/s1/config", "/api/share/s1/files/f1/download"])
@pytest.mark.parametrize(
    ("tenant", "workspace", "reach", "seen"),
    [
        (TENANT, WORKSPACE, "workspace", True),
        (TENANT, WORKSPACE, "tenant", True),
        (TENANT, uuid4(), "workspace", False),
        (TENANT, uuid4(), "tenant", True),
        (uuid4(), WORKSPACE, "tenant", False),
        (None, None, "tenant", False),
    ],
)
async def test_shared_links_of_others_are_not_there(
    path: str, tenant: Any, workspace: Any, reach: str, seen: bool
) -> None:
    world, exchange = World(), exchange_of("GET", path)
    if tenant is not None:
        world.links[(tenant, "s1")] = SharedLink(tenant, "s1", workspace, USER)
    if seen:
        await filter_of(world, shared_links=reach).on_request(exchange)
    else:
        refused = await refusal(world, exchange, shared_links=reach)
        assert (refused.status, refused.message) == (404, "Shared link not found")


async def test_the_story_of_a_link() -> None:
    world = World()
    create = exchange_of("POST", "/api/share/c1", {})
    await answered(world, create, reply_of({"_id": "x", "shareId": "s1", "conversationId": "c1"}))
    assert world.links == {(TENANT, "s1"): SharedLink(TENANT, "s1", WORKSPACE, USER)}
    assert create.request.overrides["accept-encoding"] == "identity"

    await answered(world, exchange_of("PATCH", "/api/share/s1", {}), reply_of({"shareId": "s2"}))
    assert list(world.links) == [(TENANT, "s2")]

    await answered(
        world, exchange_of("DELETE", "/api/share/s2"), reply_of({"success": True, "shareId": "s2"})
    )
    assert world.links == {}


async def test_a_link_that_was_not_recorded_is_found_by_its_owner() -> None:
    world = World()
    own = {"success": True, "shareId": "s1", "conversationId": "c1"}
    await answered(world, exchange_of("GET", "/api/share/link/c1"), reply_of(own))
    await answered(world, exchange_of("GET", "/api/share/link/c2"), reply_of({"conversationId": "c2"}))
    assert list(world.links) == [(TENANT, "s1")]


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_a_refusal_of_librechat_changes_nothing(status: int) -> None:
    world = World()
    link = world.links[(TENANT, "s1")] = SharedLink(TENANT, "s1", WORKSPACE, USER)
    await answered(world, exchange_of("DELETE", "/api/share/s1"), reply_of({"shareId": "s1"}, status))
    await answered(world, exchange_of("POST", "/api/share/c1", {}), reply_of({"shareId": "s2"}, status))
    assert list(world.links.values()) == [link]


@pytest.mark.parametrize("value", [{}, [], {"shareId": ["s1"]}, {"shareId": ""}])
async def test_a_new_link_without_an_id_is_an_error(value: Any) -> None:
    with pytest.raises(UpstreamError):
        await answered(World(), exchange_of("POST", "/api/share/c1", {}), reply_of(value))


def test_options() -> None:
    with pytest.raises(ValueError, match="shared_links"):
        TenantOptions(shared_links="world")


def test_it_sees_whatever_needs_an_account() -> None:
    assert set(Route) - TenantFilter.routes == {Route.ASSET, Route.PUBLIC, Route.BLOCKED}
