"""The rate limit filters: whose requests they count, what they tell, and what they do without Redis."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from multidict import CIMultiDict, CIMultiDictProxy
from redis.asyncio import Redis

from geko_proxy.accounts.api_keys import ApiKey, KeyScope
from geko_proxy.config import FilterSettings
from geko_proxy.errors import ConfigError
from geko_proxy.exchange import Exchange, Request, Route
from geko_proxy.filters import rate_limit as module
from geko_proxy.filters.base import Refused
from geko_proxy.filters.loader import check_filters
from geko_proxy.filters.rate_limit import (
    RateLimitFilter,
    RateLimitOptions,
    UserRateLimitFilter,
    UserRateLimitOptions,
)
from geko_proxy.services import Services
from tests.fake_services import TENANT, USER, WORKSPACE, identity
from tests.redis_server import RedisServer

Rule = dict[str, Any]


def make_exchange(
    address: str = "a", at: float = 600.0, route: Route = Route.API, operation: str = "test"
) -> Exchange:
    request = Request("GET", "/", "", CIMultiDictProxy(CIMultiDict()), client_ip=address)
    return Exchange(uuid4().hex, request, route, operation, {}, at)


def by_address(limit: int, redis: Redis | None = None, *rules: Rule) -> RateLimitFilter:
    options = RateLimitOptions(limit=limit, rules=cast(Any, rules))
    return RateLimitFilter(options, cast(Services, SimpleNamespace(redis=redis)))


def by_person(*rules: Rule, redis: Redis | None = None) -> UserRateLimitFilter:
    options = UserRateLimitOptions(rules=cast(Any, rules))
    return UserRateLimitFilter(options, cast(Services, SimpleNamespace(redis=redis)))


def chat(at: float = 600.0, **who: Any) -> Exchange:
    exchange = make_exchange(at=at, route=Route.CHAT, operation="chat")
    exchange.user = replace(identity(), **who)
    return exchange


async def passes(limiter: RateLimitFilter, exchange: Exchange) -> bool:
    try:
        await limiter.on_request(exchange)
    except Refused as refused:
        return (refused.status, bool(refused.retry_after_s)) != (429, True)
    return True


async def test_the_default_rule_refuses_with_a_time_to_wait() -> None:
    limiter = by_address(2)
    for _ in range(2):
        assert await limiter.on_request(make_exchange("10.0.0.1")) is None
    refused = make_exchange("10.0.0.1", 615.0)
    with pytest.raises(Refused) as caught:
        await limiter.on_request(refused)
    assert (caught.value.status, caught.value.retry_after_s) == (429, 45)
    assert caught.value.details == {"rules": ["default"]}
    assert refused.limit_headers == (
        ("RateLimit-Policy", '"default";q=2;w=60'),
        ("RateLimit", '"default";r=0;t=45'),
    )
    assert await limiter.on_request(make_exchange("10.0.0.2")) is None


async def test_what_passes_is_told_what_is_left() -> None:
    limiter = by_address(9, None, {"name": "login", "by": "ip", "limit": 4, "routes": ["login"]})
    exchange = make_exchange(at=610.0, route=Route.PUBLIC, operation="auth.login")
    await limiter.on_request(exchange)
    assert dict(exchange.limit_headers) == {
        "RateLimit-Policy": '"default";q=9;w=60, "login";q=4;w=60',
        "RateLimit": '"default";r=8;t=50, "login";r=3;t=50',
    }


async def test_a_rule_counts_its_kinds_alone() -> None:
    limiter = by_address(100, None, {"name": "login", "by": "ip", "limit": 1, "routes": ["login"]})
    for _ in range(5):
        assert await passes(limiter, make_exchange())
    login = [make_exchange(route=Route.PUBLIC, operation="auth.login") for _ in range(2)]
    assert [await passes(limiter, each) for each in login] == [True, False]
    assert await passes(limiter, make_exchange(route=Route.PUBLIC, operation="auth.refresh"))


async def test_a_rule_called_default_takes_the_place_of_the_first() -> None:
    limiter = by_address(1, None, {"name": "default", "by": "ip", "limit": 3, "routes": ["api"]})
    assert [await passes(limiter, make_exchange()) for _ in range(4)] == [True, True, True, False]


async def test_an_ipv6_network_is_one_address() -> None:
    limiter = by_address(2)
    found = [await passes(limiter, make_exchange(f"2001:db8:0:1::{n}")) for n in range(3)]
    assert found == [True, True, False]
    assert await passes(limiter, make_exchange("2001:db8:0:2::1"))


async def test_what_an_endpoint_starts_itself_does_not_count_again() -> None:
    limiter = by_address(1)
    parent = make_exchange(route=Route.OWN, operation="chat.send")
    child = make_exchange(route=Route.CHAT, operation="chat")
    child.parent = parent
    await limiter.on_request(parent)
    await limiter.on_request(child)


async def test_a_message_over_v1_counts_as_chat_once() -> None:
    limiter = by_person(
        {"name": "chat", "by": "user", "limit": 1, "routes": ["chat"]},
        {"name": "both", "by": "user", "limit": 2, "routes": ["chat", "api"]},
    )
    for expected in (True, False):
        parent = make_exchange(route=Route.OWN, operation="chat.send")
        parent.user = identity()
        assert await passes(limiter, parent)
        child = chat()
        child.parent = parent
        assert await passes(limiter, child) is expected


async def test_people_keys_and_workspaces_have_their_own_counts() -> None:
    key = ApiKey(TENANT, uuid4(), WORKSPACE, USER, "ci", frozenset({KeyScope.CHAT}))
    limiter = by_person(
        {"name": "u", "by": "user", "limit": 3},
        {"name": "k", "by": "key", "limit": 1},
        {"name": "w", "by": "workspace", "limit": 4},
    )
    with_key = [chat(), chat()]
    for each in with_key:
        each.api_key = key
    assert [await passes(limiter, each) for each in with_key] == [True, False]
    assert "k" not in dict(chat().limit_headers)
    assert [await passes(limiter, chat()) for _ in range(3)] == [True, True, False]  # 3 of the person
    other = uuid4()
    assert [await passes(limiter, chat(user_id=other)) for _ in range(2)] == [
        True,
        False,
    ]  # 4 of the workspace
    assert await passes(limiter, chat(user_id=other, workspace_id=uuid4()))


async def test_who_is_not_signed_in_is_left_to_the_rules_by_address() -> None:
    limiter = by_person({"name": "u", "by": "user", "limit": 1})
    for _ in range(3):
        assert await passes(limiter, make_exchange(operation="config"))


async def test_running_turns_are_limited_and_end() -> None:
    limiter = by_person({"name": "t", "by": "user", "count": "turns", "limit": 2})
    first, second = chat(), chat()
    assert await passes(limiter, first)
    assert await passes(limiter, second)
    refused = chat()
    with pytest.raises(Refused, match="Only 2 answers"):
        await limiter.on_request(refused)
    await limiter.on_finish(refused)  # it never counted
    assert not await passes(limiter, chat())
    poll = make_exchange(route=Route.STREAM)
    poll.user = first.user
    assert await passes(limiter, poll)
    await limiter.on_finish(first)
    last = chat()
    assert await passes(limiter, last)
    assert dict(last.limit_headers)["RateLimit"] == '"t";r=0'


async def test_two_instances_share_one_limit(redis: Redis) -> None:
    one, two = by_address(3, redis), by_address(3, redis)
    assert [await passes(each, make_exchange()) for each in (one, two, one, two, one)] == [
        True,
        True,
        True,
        False,
        False,
    ]


async def test_two_instances_share_the_running_turns(redis: Redis) -> None:
    rule = {"name": "t", "by": "workspace", "count": "turns", "limit": 1}
    one, two = by_person(rule, redis=redis), by_person(rule, redis=redis)
    running = chat()
    assert await passes(one, running)
    assert not await passes(two, chat())
    await one.on_finish(running)
    assert await passes(two, chat())


async def test_redis_fails_and_comes_back(
    redis_process: RedisServer,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "REDIS_RETRY_S", 0.2)
    turn = {"name": "t", "by": "user", "count": "turns", "limit": 2}
    one, two = by_person(turn, redis=redis), by_person(turn, redis=redis)
    held = [chat(time.time()) for _ in range(2)]
    assert await passes(one, held[0])
    redis_process.stop()
    try:
        assert await passes(one, held[1])  # counted here alone, and it knows of its own
        assert not await passes(one, chat(time.time()))
        assert "limiting in this process" in caplog.text
        assert len(caplog.records) == 1  # not one line a request
        await one.on_finish(held[1])
    finally:
        redis_process.start()
    await asyncio.sleep(0.25)
    assert one._shared is not None
    await one._shared.renew(dict(one._held))  # as every 20 seconds
    assert await passes(two, chat(time.time()))
    assert not await passes(two, chat(time.time()))
    assert not await passes(one, chat(time.time()))


async def test_leases_of_running_turns_are_prolonged(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENEW_S", 0.05)
    rule = {"name": "t", "by": "user", "count": "turns", "limit": 1}
    limiter = by_person(rule, redis=redis)
    await limiter.start()
    try:
        assert await passes(limiter, chat())
        await redis.flushall()
        await asyncio.sleep(0.3)
        assert not await passes(by_person(rule, redis=redis), chat())
    finally:
        await limiter.stop()


@pytest.mark.parametrize("options", [{"limit": 0}, {"window_s": -1}, {"limit": True}, {"limit": "5"}])
def test_bad_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        RateLimitOptions(**options)


def configured(*names: str, **options: Any) -> list[FilterSettings]:
    return [FilterSettings(name=name, options=options if "rate" in name else {}) for name in names]


def test_rules_are_checked_with_the_configuration() -> None:
    rules = [{"name": "u", "by": "user", "limit": 5}]
    checked = check_filters(configured("auth", "tenant", "workspace", "rate_limit_user", rules=rules))
    assert checked[-1].options.rules[0].limit == 5
    with pytest.raises(ConfigError, match="rate_limit_user must stand after workspace"):
        check_filters(configured("auth", "rate_limit_user", "tenant", "workspace", rules=rules))
    with pytest.raises(ConfigError, match=r"filters\[0\].options: rules\[0\].by: expected one of ip"):
        check_filters(configured("rate_limit", "auth", "tenant", "workspace", rules=rules))


async def test_what_another_instance_passes_on_was_counted_there() -> None:
    limit = by_address(1)
    for _ in range(3):
        exchange = make_exchange()
        exchange.hop = cast(Any, object())
        assert await limit.on_request(exchange) is None
    assert await limit.on_request(make_exchange()) is None
    with pytest.raises(Refused):
        await limit.on_request(make_exchange())
