"""One attempt, against a real receiver that behaves badly."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from aiohttp import web

from geko_proxy.alerts.sender import MAX_REPLY_BYTES, WebhookSender, retry_after
from geko_proxy.alerts.signing import new_secret
from geko_proxy.alerts.targets import Targets
from tests.alerts.receiver import receiving

SECRET = new_secret()
HERE = [ip_network("127.0.0.0/8")]


@pytest.fixture
async def sender() -> AsyncIterator[WebhookSender]:
    made = WebhookSender(Targets(HERE), 1.0)
    yield made
    await made.close()


async def test_a_signed_message_arrives(sender: WebhookSender) -> None:
    async with receiving() as receiver:
        attempt = await sender.send(receiver.url, SECRET, "msg_1", '{"type":"x","é":1}')
        assert (attempt.status, attempt.delivered) == (200, True)
        (got,) = receiver.got
        assert got.verified(SECRET) == {"type": "x", "é": 1}
        assert (got.path, got.id, got.headers["content-type"]) == ("/hook", "msg_1", "application/json")
        assert "cookie" not in got.headers


@pytest.mark.parametrize("status", [300, 400, 401, 404, 410, 429, 500, 503])
async def test_only_2xx_is_a_success(sender: WebhookSender, status: int) -> None:
    async with receiving(status) as receiver:
        attempt = await sender.send(receiver.url, SECRET, "msg_1", "{}")
    assert (attempt.status, attempt.delivered, attempt.error) == (status, False, f"status {status}")
    assert attempt.gone == (status == 410)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(sender: WebhookSender, status: int) -> None:
    async with receiving() as other:
        away = web.Response(status=status, headers={"Location": other.url})
        async with receiving(away) as receiver:
            attempt = await sender.send(receiver.url, SECRET, "msg_1", "{}")
        assert (attempt.delivered, attempt.status) == (False, status)
        assert other.got == []


async def test_a_receiver_that_hangs_is_left(sender: WebhookSender) -> None:
    async with receiving("hang") as receiver:
        attempt = await sender.send(receiver.url, SECRET, "msg_1", "{}")
    assert attempt.error == "no reply within 1 s"


async def test_an_endless_reply_is_not_read(sender: WebhookSender) -> None:
    async with receiving(web.Response(body=b"x" * 50 * MAX_REPLY_BYTES)) as receiver:
        before = time.monotonic()
        attempt = await sender.send(receiver.url, SECRET, "msg_1", "{}")
        assert attempt.delivered
        assert time.monotonic() - before < 1  # not until the time limit


async def test_a_packed_reply_is_not_unpacked(sender: WebhookSender) -> None:
    bomb = web.Response(body=b"no gzip at all", headers={"Content-Encoding": "gzip"})
    async with receiving(bomb) as receiver:
        assert (await sender.send(receiver.url, SECRET, "msg_1", "{}")).delivered


async def test_a_broken_connection_and_a_closed_port(sender: WebhookSender) -> None:
    async with receiving("break") as receiver:
        attempt = await sender.send(receiver.url, SECRET, "msg_1", "{}")
        assert (attempt.delivered, attempt.status) == (False, None)
    gone = await sender.send(receiver.url, SECRET, "msg_1", "{}")
    assert gone.error == "no connection"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "2130706433"])
async def test_nothing_inner_is_connected_to(host: str) -> None:
    """Also a literal address, for which no name is looked up."""
    strict = WebhookSender(Targets(), 1.0)
    async with receiving() as receiver:
        port = receiver.url.split(":")[2]
        for scheme in ("http", "https"):
            attempt = await strict.send(f"{scheme}://{host}:{port}", SECRET, "msg_1", "{}")
            assert not attempt.delivered
            assert attempt.status is None
            words = ("may not reach", "http only", "no address", "not valid")
            assert any(each in attempt.error for each in words), attempt
        assert receiver.got == []
    await strict.close()


async def test_a_name_that_changes_its_address_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: public when it is saved, this machine when it is sent."""
    answers = iter(["93.184.216.34", "127.0.0.1"])

    def look_up(host: str, port: int, *_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    async with receiving() as receiver:
        port = receiver.url.split(":")[2].split("/")[0]
        targets = Targets()
        strict = WebhookSender(targets, 1.0)
        monkeypatch.setattr("geko_proxy.alerts.targets.socket.getaddrinfo", look_up)
        await targets.check(f"https://rebound.example:{port}/")
        attempt = await strict.send(f"https://rebound.example:{port}/", SECRET, "msg_1", "{}")
        assert not attempt.delivered
        assert attempt.status is None
        assert receiver.got == []
        await strict.close()


async def test_a_receiver_without_tls_is_told_apart(sender: WebhookSender) -> None:
    async with receiving() as receiver:
        attempt = await sender.send(receiver.url.replace("http:", "https:"), SECRET, "msg_1", "{}")
    assert "TLS" in attempt.error


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        ("99999999999", 86_400),
        ("", None),
        ("-5", None),
        ("soon", None),
        ("1.5", None),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    assert retry_after(text) == seconds


def test_retry_after_a_date() -> None:
    at = datetime.now(UTC) + timedelta(seconds=100)
    assert 95 <= (retry_after(f"{at:%a, %d %b %Y %H:%M:%S} GMT") or 0) <= 100
    assert retry_after("Mon, 01 Jan 2001 00:00:00 GMT") == 0
