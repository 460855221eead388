"""Rules of rate limits: what geko.toml may say, and which requests they cover."""

from __future__ import annotations

from typing import Any

import pytest

from geko_proxy.exchange import Exchange
from geko_proxy.filters.rate_rules import RateRule, kind_of, read_rules
from tests.fake_services import exchange_of, own_exchange

GOOD = {"name": "chat", "by": "user", "limit": 5}


def read(**changes: Any) -> tuple[RateRule, ...]:
    return read_rules([{**GOOD, **changes}], ("user", "key"))


def test_a_rule_as_it_stands_in_the_file() -> None:
    assert read(routes=["chat", "login"], window_s=10) == (
        RateRule("chat", "user", 5, "requests", 10, frozenset({"chat", "login"})),
    )
    assert read(count="turns") == (RateRule("chat", "user", 5, "turns"),)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"name": "Chat"}, r"rules\[0\].name"),
        ({"name": 'a"b'}, r"rules\[0\].name"),
        ({"by": "ip"}, r"rules\[0\].by: expected one of user, key"),
        ({"by": ["user"]}, r"rules\[0\].by"),
        ({"count": "bytes"}, r"rules\[0\].count"),
        ({"limit": 0}, r"rules\[0\].limit"),
        ({"limit": True}, r"rules\[0\].limit"),
        ({"window_s": "60"}, r"rules\[0\].window_s"),
        ({"count": "turns", "window_s": 60}, r"rules\[0\].window_s"),
        ({"count": "turns", "routes": ["login"]}, r"rules\[0\].routes"),
        ({"routes": ["chats"]}, r"rules\[0\].routes"),
        ({"routes": "chat"}, r"rules\[0\].routes"),
        ({"routes": [["chat"]]}, r"rules\[0\].routes"),
        ({"burst": 5}, r"rules\[0\].burst: there is no such key"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(ValueError, match=place):
        read(**changes)


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(ValueError, match="twice") as caught:
        read_rules([GOOD, GOOD, 7, {"name": "x"}], ("user",))
    text = str(caught.value)
    for part in ("rules[2]: expected a table", "rules[3].by", "rules[3].limit"):
        assert part in text


def stream() -> Exchange:
    return exchange_of("GET", "/api/agents/chat/stream/abc")


@pytest.mark.parametrize(
    ("exchange", "kind"),
    [
        (exchange_of("POST", "/api/agents/chat/openAI", {}), "chat"),
        (stream(), "stream"),
        (exchange_of("GET", "/api/agents/chat/status/abc"), "poll"),
        (exchange_of("GET", "/api/agents/chat/active"), "poll"),
        (exchange_of("POST", "/api/agents/chat/abort", {}), "api"),
        (exchange_of("GET", "/api/models"), "api"),
        (exchange_of("GET", "/api/agents/v1/models"), "api"),
        (exchange_of("GET", "/images/1/x.png"), "media"),
        (exchange_of("POST", "/api/auth/login", {}), "login"),
        (exchange_of("POST", "/api/auth/register", {}), "login"),
        (exchange_of("POST", "/api/auth/refresh", {}), "session"),
        (exchange_of("GET", "/health"), "health"),
        (exchange_of("GET", "/api/nothing"), "other"),
        (own_exchange("auth.me"), "account"),
        (own_exchange("librechat.balance"), "account"),
        (own_exchange("chat.send"), "api"),
        (own_exchange("workspaces.quota.put"), "admin"),
        (own_exchange("something.new"), "admin"),
    ],
)
def test_the_kind_of_a_request(exchange: Exchange, kind: str) -> None:
    assert kind_of(exchange) == kind


def test_reconnects_and_polls_are_no_chat() -> None:
    (chat,) = read(routes=["chat"])
    (turns,) = read(count="turns")
    (everything,) = read()
    for kind in ("stream", "poll", "media", "api"):
        assert not chat.covers(kind)
        assert not turns.covers(kind)
        assert everything.covers(kind)
    assert chat.covers("chat")
    assert turns.covers("chat")


def test_policies_are_items_of_structured_fields() -> None:
    assert RateRule("a", "ip", 100, window_s=60).policy == '"a";q=100;w=60'
    assert RateRule("b", "user", 3, "turns").policy == '"b";q=3;qu="concurrent-requests"'
