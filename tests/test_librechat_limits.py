"""LibreChat's limits and bans on GEKO's own calls."""

from __future__ import annotations

import logging

import pytest

from geko_proxy.errors import UpstreamLimited
from geko_proxy.librechat_limits import LimitedCalls, Refusal, family, is_ban, pause_s

DENIED = (
    b'event: message\ndata: {"message":{"text":"hi"},"created":true}\n\n'
    b'event: error\ndata: {"text":"{\\"type\\":\\"ban\\"}","final":true}\n\n'
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_429_pauses_such_calls_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    calls = LimitedCalls(clock)
    place = ("POST", "/api/auth/register", "")
    calls.check(*place)
    with pytest.raises(UpstreamLimited) as caught:
        calls.read(*place, Refusal(429, b"{}", b"40"))
    assert caught.value.retry_after_s == 40
    for _ in range(5):
        with pytest.raises(UpstreamLimited):
            calls.check(*place)
    (line,) = caplog.records
    assert line.levelno == logging.ERROR
    assert "REGISTER_MAX" in line.getMessage()
    assert "docs/librechat.md" in line.getMessage()
    calls.check("POST", "/api/auth/login", "")  # another limiter
    clock.now += 41
    calls.check(*place)


def test_one_accounts_limit_is_not_anothers() -> None:
    calls = LimitedCalls(Clock())
    with pytest.raises(UpstreamLimited):
        calls.read("GET", "/api/convos/1", "bearer a", Refusal(429, b"", None))
    with pytest.raises(UpstreamLimited):
        calls.check("GET", "/api/convos/2", "bearer a")
    calls.check("GET", "/api/convos/2", "bearer b")
    calls.check("POST", "/api/convos/2", "bearer a")
    calls.check("GET", "/api/messages/2", "bearer a")


@pytest.mark.parametrize("status", [200, 201, 400, 401, 404, 500, 503])
def test_other_replies_are_none_of_its_business(status: int) -> None:
    LimitedCalls().read("GET", "/api/user", "b", Refusal(status, b'{"message":"no"}', None))


@pytest.mark.parametrize(
    ("status", "body", "banned"),
    [
        (
            403,
            b'{"message":"Your account has been temporarily banned due to violations of our service."}',
            True,
        ),
        (403, b'{"message":"Forbidden"}', False),
        (200, DENIED, True),
        (200, DENIED.replace(b"ban", b"message_limit"), False),
        (
            200,
            b'event: message\ndata: {"text":"{\\"type\\":\\"ban\\"}"}\n\nevent: error\ndata: {"text":"no"}',
            False,
        ),
        (200, b'{"text":"temporarily banned"}', False),
        (404, b"temporarily banned", False),
    ],
)
def test_a_ban_is_told_from_other_refusals(status: int, body: bytes, banned: bool) -> None:
    assert is_ban(status, body) is banned
    if banned:
        with pytest.raises(UpstreamLimited):
            LimitedCalls().read("GET", "/x", "", Refusal(status, body, None))


@pytest.mark.parametrize(
    ("given", "seconds"), [(None, 30), (b"7", 7), (b"0", 1), (b"99999", 300), (b"-1", 30), (b"9" * 50, 30)]
)
def test_how_long_to_wait(given: bytes | None, seconds: int) -> None:
    assert pause_s(given) == seconds


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/api/auth/login", "/api/auth/login"),
        ("/api/convos/12-3", "/api/convos"),
        ("/api/agents/chat/status/1", "/api/agents/chat/status"),
        ("/api/agents/agent_1/expanded", "/api/agents"),
        ("/api/models?x=1", "/api/models"),
    ],
)
def test_the_kind_of_a_call(path: str, kind: str) -> None:
    assert family(path) == kind
