"""The refresh cookie: never for scripts, never for other origins, Secure wherever browsers speak https."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import pytest

from geko_proxy.client_api.cookies import RefreshCookies
from geko_proxy.config.settings import ServerSettings
from geko_proxy.exchange import Reply
from tests.client_api.conftest import HOST, Call

EXPIRES = datetime(2026, 11, 29, 18, 3, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("chosen", "public_url", "https", "secure"),
    [
        ("auto", "", False, False),
        ("auto", "", True, True),
        ("auto", "https://chat.example", False, True),
        ("auto", "http://chat.example", False, False),
        (True, "", False, True),
        (False, "https://chat.example", True, False),
    ],
)
def test_attributes(
    call: Call, chosen: bool | Literal["auto"], public_url: str, https: bool, secure: bool
) -> None:
    cookies = RefreshCookies(ServerSettings(cookie_secure=chosen, public_url=public_url))
    exchange, _ = call(secure=https)
    reply = Reply(200)
    cookies.set(exchange, reply, "token", EXPIRES)
    name = "__Host-geko_refresh" if secure else "geko_refresh"
    wanted = f"{name}=token; Path=/; Expires=Sun, 29 Nov 2026 18:03:02 GMT; HttpOnly; SameSite=Strict"
    assert reply.headers["Set-Cookie"] == wanted + ("; Secure" if secure else "")
    assert reply.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("origin", "believed"),
    [
        (None, True),
        (f"http://{HOST}", True),
        ("https://public.example", True),
        ("https://evil.example", False),
        ("null", False),
        ("", False),
    ],
)
def test_pages_of_other_origins_have_no_cookie(call: Call, origin: str | None, believed: bool) -> None:
    cookies = RefreshCookies(ServerSettings(public_url="https://public.example"))
    headers = {} if origin is None else {"Origin": origin}
    exchange, request = call(cookies={"__Host-geko_refresh": "token"}, headers=headers)
    assert cookies.read(exchange, request) == ("token" if believed else None)
