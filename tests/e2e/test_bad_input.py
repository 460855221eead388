"""Whatever is sent, the answer is a 4xx in the right shape, with a request id that stands in the log."""

from __future__ import annotations

import base64
import json
import socket
import time

import aiohttp
import jwt
import pytest

from tests.e2e.people import Person, call
from tests.e2e.processes import AUTH_SECRET, Running


async def check_logged(geko: Running, request_id: str) -> None:
    text = geko.log_text()
    assert request_id in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{bad", 400),
        (b"[1]", 400),
        (b'"text"', 400),
        (b"", 400),
        (b'{"text": "x", "endpoint": {"$ne": null}, "model": "gpt-4o"}', 400),
        (b'{"text": "x", "endpoint": "Mock", "model": ["gpt-4o"]}', 400),
        (b'{"text": "x", "endpoint": "Mock", "model": "gpt-4o", "conversationId": 7}', 400),
        (
            b'{"text": "x", "endpoint": "Mock", "model": "gpt-4o", "conversationId": "' + b"c" * 300 + b'"}',
            400,
        ),
        (b'{"text": "' + b"x" * 3_200_000 + b'"}', 413),
        (b"[" * 100_000, 400),
        (b"\xff\xfe\x00", 400),
        (b'{"text": "\xff", "endpoint": "Mock"}', 400),
    ],
)
async def test_a_bad_chat_body(geko: Running, alice: Person, body: bytes, status: int) -> None:
    answer = await alice.call("POST", "/api/agents/chat/Mock", body)
    assert answer.status == status, answer
    assert answer.json["message"]
    assert answer.json.get("type") or answer.json.get("error")
    await check_logged(geko, answer.headers["X-Request-Id"])


@pytest.mark.parametrize("path", ["/v1/auth/login", "/v1/auth/register", "/v1/auth/refresh", "/v1/chat/send"])
@pytest.mark.parametrize("body", [b"{bad", b"[]", b'{"email": 1, "message": 2, "refreshToken": {}}', b"{}"])
async def test_a_bad_v1_body(geko: Running, alice: Person, path: str, body: bytes) -> None:
    answer = await alice.call("POST", path, body)
    assert 400 <= answer.status < 422, answer
    error = answer.json["error"]
    assert error["code"]
    assert error["message"]
    assert error["requestId"] == answer.headers["X-Request-Id"]
    await check_logged(geko, error["requestId"])


def unsigned(claims: dict[str, object]) -> str:
    parts = [json.dumps(part).encode() for part in ({"alg": "none", "typ": "JWT"}, claims)]
    return b".".join([base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts] + [b""]).decode()


async def test_tokens_that_are_not_ours(geko: Running, alice: Person) -> None:
    claims = jwt.decode(alice.token, options={"verify_signature": False})
    tokens = [
        "",
        "aaa.bbb.ccc",
        "x" * 5000,
        unsigned(claims),
        jwt.encode(claims, "another-secret" * 4, algorithm="HS256"),
        jwt.encode({**claims, "exp": int(time.time()) - 10}, AUTH_SECRET, algorithm="HS256"),
        jwt.encode({**claims, "type": "refresh"}, AUTH_SECRET, algorithm="HS256"),
        jwt.encode({**claims, "aud": "other"}, AUTH_SECRET, algorithm="HS256"),
        jwt.encode({**claims, "tenantId": {"$ne": None}}, AUTH_SECRET, algorithm="HS256"),
        alice.token[:-4] + "AAAA",
    ]
    for token in tokens:
        for path in ("/api/user", "/v1/auth/me"):
            answer = await alice.call("GET", path, Authorization=f"Bearer {token}")
            assert answer.status == 401, (token, answer)
    answer = await alice.call("GET", "/api/user", Authorization="Bearer x")
    assert answer.json["message"]
    assert "Traceback" not in geko.log_text()


async def test_a_session_that_was_ended_is_over_at_once(alice: Person) -> None:
    assert (await alice.call("GET", "/v1/auth/me")).status == 200
    assert (await alice.call("POST", "/v1/auth/logout")).status in (200, 204)
    for path in ("/v1/auth/me", "/api/user", "/api/convos"):
        assert (await alice.call("GET", path)).status == 401


async def raw(geko: Running, request: bytes) -> bytes:
    host, port = geko.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(request)
        connection.settimeout(5)
        return connection.recv(65536)


@pytest.mark.parametrize(
    "target",
    [
        "//api/user", "/api/../api/user", "/api/%2e%2e/user", "/api%2fuser", "/%5capi/user", "/api/user%00", "/api/%zz",
        "/api/agents/chat/stream/../../../user", "/./api/user", "/images/..%2f..%2fx",
    ],
)  # fmt: skip
async def test_path_tricks(geko: Running, target: str) -> None:
    reply = await raw(geko, f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert reply.startswith(b"HTTP/1.1 400"), reply


async def test_requests_that_two_servers_would_read_differently(geko: Running) -> None:
    both = b"POST /api/user HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert (await raw(geko, both)).split()[1] == b"400"
    two = b"POST /api/user HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd"
    assert (await raw(geko, two)).split()[1] == b"400"


async def test_a_websocket_is_refused(client: aiohttp.ClientSession) -> None:
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
               "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip
    answer = await call(client, "GET", "/api/user", headers=headers)
    assert answer.status == 400


async def test_unknown_and_blocked_routes(client: aiohttp.ClientSession, alice: Person) -> None:
    assert (await alice.call("GET", "/api/nothing-here")).json == {"message": "Endpoint not found"}
    assert (await alice.call("DELETE", "/api/user")).status == 405
    assert (await alice.call("GET", "/v1/nothing")).json["error"]["code"] == "not_found"
    assert (await call(client, "TRACE", "/")).status in (404, 405)
    options = await call(client, "OPTIONS", "/api/user")
    assert options.status == 204
    assert "GET" in options.headers["Allow"]


async def test_compressed_bodies_are_refused_where_they_are_read(alice: Person) -> None:
    answer = await alice.call("POST", "/api/agents/chat/Mock", b"\x1f\x8b", Content_Encoding="gzip")
    assert answer.status == 415
