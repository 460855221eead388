"""What browsers are told, and what other sites' pages and neighbouring hosts can't do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.people import Person, call, register
from tests.e2e.processes import Running, geko_environment, running

APP = "https://app.example"
PUBLIC = "https://chat.example"


@pytest.fixture(scope="module")
def https_geko(
    e2e_dsn: str, stand_in: Running, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A GEKO behind a proxy that speaks https, which another origin's pages may call."""
    log: Path = tmp_path_factory.mktemp("geko") / "log"
    settings = {
        "GEKO_SERVER_PUBLIC_URL": PUBLIC,
        "GEKO_SERVER_TRUSTED_PROXIES": "127.0.0.1",
        "GEKO_SERVER_CORS_ORIGINS": APP,
    }
    with running(["geko_proxy", "serve"], geko_environment(e2e_dsn, stand_in.url, **settings), log) as server:
        yield server


@pytest.fixture
async def https_client(https_geko: Running) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"}
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(https_geko.url, cookie_jar=jar, headers=headers) as session:
        yield session


async def test_every_reply_carries_what_keeps_browsers_safe(alice: Person) -> None:
    for path in ("/", "/api/user", "/v1/auth/me", "/api/nothing", "/v1/nothing", "/healthz"):
        answer = await alice.call("GET", path)
        headers = answer.headers
        assert headers["X-Content-Type-Options"] == "nosniff", path
        assert headers["X-Frame-Options"] == "SAMEORIGIN"
        assert "frame-ancestors 'self'" in headers["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in headers
        assert ("default-src 'none'" in headers["Content-Security-Policy"]) == (path != "/")


async def test_https_is_asked_for_and_kept(https_geko: Running, https_client: aiohttp.ClientSession) -> None:
    page = await call(https_client, "GET", "/", None, {})
    assert page.headers["Strict-Transport-Security"].startswith("max-age=")
    plain = {"X-Forwarded-Proto": "http"}
    async with https_client.get("/c/new?x=1", headers=plain, allow_redirects=False) as sent:
        assert (sent.status, sent.headers["Location"]) == (308, f"{PUBLIC}/c/new?x=1")
    refused = await call(https_client, "POST", "/v1/auth/login", b"{}", plain)
    assert (refused.status, refused.json["error"]["code"]) == (403, "https_required")


async def test_only_listed_origins_may_call_and_never_with_cookies(
    https_client: aiohttp.ClientSession,
) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    preflight = await call(https_client, "OPTIONS", "/v1/chat/send", None, {"Origin": APP, **asked})
    assert preflight.status == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == APP
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in preflight.headers
    for evil in ("https://evil.example", "null", "https://app.example.evil.example", "http://app.example"):
        other = await call(https_client, "OPTIONS", "/v1/chat/send", None, {"Origin": evil, **asked})
        assert "Access-Control-Allow-Origin" not in other.headers
        signing_in = await call(https_client, "POST", "/v1/auth/login", b"{}", {"Origin": evil})
        assert signing_in.status == 403
    listed = await call(
        https_client, "POST", "/v1/auth/login", b"{}", {"Origin": APP, "Sec-Fetch-Site": "cross-site"}
    )
    assert listed.status == 400  # let in: only the body is wrong
    assert listed.headers["Access-Control-Allow-Origin"] == APP
    assert "Origin" in listed.headers["Vary"]


async def test_a_cookie_of_a_neighbouring_host_is_not_believed(https_client: aiohttp.ClientSession) -> None:
    person = await register(https_client, "cookies@browser.example", "Cookie")
    own = f"__Host-geko_refresh={person.refresh_token}"
    path = "/v1/auth/refresh"
    # only a name with the prefix can't be set for a whole domain, and two of a name are one too many
    for tossed in (
        f"geko_refresh={person.refresh_token}",
        f"{own}; __Host-geko_refresh=other",
        f"{own}; {own}",
    ):
        answer = await call(https_client, "POST", path, None, {"Cookie": tossed})
        assert answer.status == 401, tossed
    good = await call(https_client, "POST", path, None, {"Cookie": own})
    assert good.status == 200
    cookie = good.headers["Set-Cookie"]
    assert cookie.startswith("__Host-geko_refresh=")
    assert {"Path=/", "HttpOnly", "SameSite=Strict", "Secure"} <= set(cookie.split("; "))
    assert "Domain" not in cookie
