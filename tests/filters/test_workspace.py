"""Membership, role and the two directions of the workspace filter."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast
from uuid import uuid4

import msgspec
import pytest

from geko_proxy.accounts.api_keys import ApiKeys, KeyScope
from geko_proxy.errors import EndStream, Refused, StoreError, UpstreamError
from geko_proxy.exchange import Exchange, Reply, Route
from geko_proxy.filters import workspace as module
from geko_proxy.filters.base import NoOptions
from geko_proxy.filters.workspace import Watch, WorkspaceFilter
from geko_proxy.librechat import ROWS
from geko_proxy.sse import SseEvent
from geko_proxy.workspaces.config import WorkspaceConfig
from geko_proxy.workspaces.members import MemberStore
from geko_proxy.workspaces.roles import Role
from tests.fake_services import World, exchange_of, identity, own_exchange, reply_of

SMALL = WorkspaceConfig(models=("Mock/gpt-4o-mini",), mcp_servers=())
CHAT = ("POST", "/api/agents/chat/Mock")
MINI = {"endpoint": "Mock", "model": "gpt-4o-mini"}


def filter_of(world: World) -> WorkspaceFilter:
    return WorkspaceFilter(NoOptions(), world.services())


async def answered(world: World, exchange: Exchange, reply: Reply) -> Reply:
    """The reply after both hooks."""
    checked = filter_of(world)
    assert await checked.on_request(exchange) is None
    exchange.reply = reply
    assert await checked.on_reply(exchange) is None
    return reply


async def refusal(world: World, exchange: Exchange) -> Refused:
    with pytest.raises(Refused) as refused:
        await filter_of(world).on_request(exchange)
    return refused.value


async def test_the_facts_are_set() -> None:
    world = World(config=SMALL, role=Role.ADMIN)
    exchange = exchange_of("GET", "/api/convos")
    await filter_of(world).on_request(exchange)
    assert (exchange.workspace, exchange.role, exchange.config) == (world.workspace, Role.ADMIN, SMALL)


async def test_an_ordinary_request_asks_the_caches_only() -> None:
    world = World(config=SMALL)
    checked = filter_of(world)
    await checked.on_request(exchange_of("GET", "/api/convos"))
    world.reads.clear()
    await checked.on_request(exchange_of("GET", "/api/convos"))
    assert world.reads == ["role", "config"]  # both are cached by their stores
    assert world.librechat.calls == []


async def test_who_is_no_member_any_more_is_told_so() -> None:
    refused = await refusal(World(role=None), exchange_of("GET", "/api/convos"))
    assert (refused.status, refused.code) == (403, "not_a_member")
    assert "no longer a member" in refused.message


@pytest.mark.parametrize("role", [None, Role.OWNER])
async def test_an_archived_workspace_is_closed(role: Role | None) -> None:
    world = World(role=role)
    assert world.workspace is not None
    world.workspace = replace(world.workspace, archived_at=datetime.now(UTC))
    refused = await refusal(world, exchange_of("GET", "/api/convos"))
    assert (refused.status, refused.code) == (403, "workspace_archived")


async def test_who_was_removed_can_still_leave_for_another_workspace() -> None:
    exchange = own_exchange("auth.switch")
    await filter_of(World(role=None)).on_request(exchange)
    assert exchange.role is None
    assert (await refusal(World(role=None), own_exchange("usage"))).code == "not_a_member"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/convos", None),
        ("GET", "/api/messages/c1", None),
        ("HEAD", "/api/user", None),
        ("GET", "/api/agents/chat/stream/c1", None),
        ("POST", "/api/endpoints/context-projection", None),
        ("POST", "/api/agents/chat/Mock", 403),
        ("POST", "/api/agents/chat/abort", 403),
        ("DELETE", "/api/convos", 403),
        ("POST", "/api/convos/fork", 403),
        ("PUT", "/api/messages/c1/m1", 403),
        ("POST", "/api/files", 403),
        ("POST", "/api/agents", 403),
        ("POST", "/api/presets", 403),
        ("POST", "/api/share/c1", 403),
        ("POST", "/api/agents/v1/chat/completions", 403),
    ],
)
async def test_a_viewer_reads_only(method: str, path: str, status: int | None) -> None:
    world = World(role=Role.VIEWER)
    exchange = exchange_of(method, path, {} if method != "GET" else None)
    if status is None:
        await filter_of(world).on_request(exchange)
    else:
        assert (await refusal(world, exchange)).status == status


def test_no_writing_route_is_open_to_viewers_by_mistake() -> None:
    seen = WorkspaceFilter.routes
    known = {"user/terms/accept", "context_projection"}
    writing = {
        rule.operation
        for methods, _, rule in ROWS
        if rule.route in seen and set(methods.split(",")) - {"GET", "HEAD"}
    }
    assert known <= writing  # the exceptions still exist; all others are refused by their method


async def test_nobody_signed_in_sees_the_sign_in_page_only() -> None:
    world = World()
    await filter_of(world).on_request(exchange_of("GET", "/api/config", anonymous=True))
    await filter_of(world).on_request(exchange_of("GET", "/api/banner", anonymous=True))
    assert (await refusal(world, exchange_of("GET", "/api/models", anonymous=True))).status == 401


async def test_a_chat_message_is_checked_and_its_model_noted() -> None:
    exchange = exchange_of(*CHAT, {**MINI, "overrideConvoId": "c"})
    await filter_of(World(config=SMALL)).on_request(exchange)
    assert exchange.model == "Mock/gpt-4o-mini"
    assert msgspec.json.decode(exchange.request.body or b"") == MINI
    refused = await refusal(World(config=SMALL), exchange_of(*CHAT, {"endpoint": "Mock", "model": "gpt-4o"}))
    assert (refused.status, refused.code) == (403, "model_not_allowed")


async def test_a_discovery_reply_is_cut_down_and_cannot_be_cached() -> None:
    models = {"Mock": ["gpt-4o", "gpt-4o-mini"]}
    reply = await answered(World(config=SMALL), exchange_of("GET", "/api/models"), reply_of(models))
    assert await reply.json() == {"Mock": ["gpt-4o-mini"]}
    assert reply.headers["Cache-Control"] == "no-store"
    assert not {"ETag", "Content-Length"} & set(reply.headers)


async def test_a_reply_that_stays_as_it_is_cannot_be_cached_either() -> None:
    reply = await answered(World(), exchange_of("GET", "/api/models"), reply_of({"Mock": ["gpt-4o"]}))
    assert reply.headers["Cache-Control"] == "no-store"
    assert "ETag" not in reply.headers


async def test_endpoints_keep_librechats_content_type() -> None:
    reply = reply_of({"Mock": {}, "Other": {}})
    reply.headers["Content-Type"] = "text/html; charset=utf-8"
    await answered(World(config=SMALL), exchange_of("GET", "/api/endpoints"), reply)
    assert (reply.body, reply.headers["Content-Type"]) == (b'{"Mock":{}}', "text/html; charset=utf-8")


async def test_configuration_for_the_sign_in_page_and_for_an_account() -> None:
    for anonymous in (True, False):
        exchange = exchange_of("GET", "/api/config", anonymous=anonymous)
        reply = await answered(World(config=SMALL), exchange, reply_of({"socialLogins": ["google"]}))
        assert (await reply.json())["socialLogins"] == []


@pytest.mark.parametrize("status", [304, 401, 404, 500])
async def test_errors_of_librechat_pass(status: int) -> None:
    reply = reply_of({"message": "x"}, status)
    await answered(World(config=SMALL), exchange_of("GET", "/api/models"), reply)
    assert (reply.body, reply.headers["ETag"]) == (b'{"message":"x"}', 'W/"1"')


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"Mock":{}}'])
@pytest.mark.parametrize("status", [200, 206])
async def test_a_list_that_is_not_understood_is_never_passed_on(body: bytes, status: int) -> None:
    exchange = exchange_of("GET", "/api/models")
    with pytest.raises(UpstreamError):
        await answered(World(config=SMALL), exchange, Reply(status, body=body))


async def test_head_does_not_tell_the_length_of_the_whole_list() -> None:
    reply = Reply(200, reply_of({}).headers, b"")
    await answered(World(config=SMALL), exchange_of("HEAD", "/api/models"), reply)
    assert "Content-Length" not in reply.headers


async def test_other_replies_are_left_alone() -> None:
    value: Any = [{"conversationId": "c"}]
    reply = await answered(World(config=SMALL), exchange_of("GET", "/api/convos"), reply_of(value))
    assert reply.headers["ETag"] == 'W/"1"'


def test_it_sees_whatever_needs_an_account() -> None:
    assert set(Route) - WorkspaceFilter.routes == {Route.ASSET, Route.PUBLIC, Route.BLOCKED}


class Members:
    """The roles of one person, and a generation that the test moves."""

    def __init__(self) -> None:
        self.generation: int | None = 1
        self.current: Role | None = Role.MEMBER
        self.reads = 0
        self.away = False

    async def role(self, *_: object) -> Role | None:
        self.reads += 1
        if self.away:
            raise StoreError("away")
        return self.current


async def look(watch: Watch) -> None:
    found = watch.look(SseEvent.message({}))
    if found is not None:
        assert await found is None


async def test_a_running_answer_looks_at_the_role_only_when_there_is_news() -> None:
    members = Members()
    watch = Watch(cast(MemberStore, members), identity())
    for _ in range(5):
        await look(watch)
    assert members.reads == 1
    members.generation = 2
    await look(watch)
    await look(watch)
    assert members.reads == 2
    members.generation, members.current = 3, None
    with pytest.raises(EndStream, match="no longer a member"):
        await look(watch)


async def test_a_running_answer_ends_for_a_viewer_and_while_nothing_is_heard() -> None:
    members = Members()
    members.generation = None
    watch = Watch(cast(MemberStore, members), identity())
    for _ in range(5):
        await look(watch)
    assert members.reads == 1  # not once per event
    members.generation, members.current = 4, Role.VIEWER
    with pytest.raises(EndStream, match="role"):
        await look(watch)


async def test_a_running_answer_outlives_an_outage_of_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can be removed while it is away; once it is back there is another look, with news or without."""
    now = 100.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    members = Members()
    watch = Watch(cast(MemberStore, members), identity())
    members.away = True
    for _ in range(5):
        await look(watch)
    assert members.reads == 1  # not once per event
    members.away, members.current = False, None
    now += module.DEAF_S
    with pytest.raises(EndStream, match="no longer a member"):
        await look(watch)


class Keys:
    """What a key is good for, and a generation that the test moves."""

    def __init__(self) -> None:
        self.generation: int | None = 1
        self.current = frozenset({KeyScope.CHAT})
        self.reads = 0

    async def scopes(self, key_id: object) -> frozenset[KeyScope]:
        self.reads += 1
        return self.current


async def test_an_answer_of_a_key_looks_at_the_key_when_there_is_news() -> None:
    members, keys = Members(), Keys()
    watch = Watch(cast(MemberStore, members), identity(), cast(ApiKeys, keys), uuid4())
    without = Watch(cast(MemberStore, members), identity(), cast(ApiKeys, keys), None)
    for _ in range(5):
        await look(watch)
        await look(without)
    assert keys.reads == 1
    keys.generation, keys.current = 2, frozenset({KeyScope.USAGE_READ})
    await look(without)
    with pytest.raises(EndStream, match="API key"):
        await look(watch)
