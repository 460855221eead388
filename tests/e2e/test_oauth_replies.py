"""What a hostile, broken or absent provider answers, against the running server."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from aiohttp import web

from tests.e2e.people import call
from tests.e2e.test_oauth import (
    Browser,
    browser,
    client,
    code_of,
    geko,
    provider,
    provider_server,
)
from tests.id_token_attacks import BAD_CLAIMS, BAD_SIGNATURES
from tests.oidc_provider import ProviderState

__all__ = ["browser", "client", "geko", "provider", "provider_server"]  # the fixtures of the other file


@pytest.mark.parametrize("name", BAD_CLAIMS)
async def test_id_tokens_that_do_not_fit(browser: Browser, provider: ProviderState, name: str) -> None:
    provider.claims = BAD_CLAIMS[name]
    await turned_away(browser)
    provider.claims = {}
    assert await browser.sign_in() == "/"


@pytest.mark.parametrize("name", BAD_SIGNATURES)
async def test_id_tokens_that_are_forged(browser: Browser, provider: ProviderState, name: str) -> None:
    provider.sign = BAD_SIGNATURES[name]
    await turned_away(browser)


async def turned_away(browser: Browser) -> None:
    location = await browser.sign_in()
    assert code_of(location) in ("untrusted_reply", "provider_unavailable"), location
    assert browser.cookies == {}


def status(code: int) -> Any:
    return lambda request: web.Response(status=code, text="{}")


def body(text: str | bytes) -> Any:
    raw = text.encode() if isinstance(text, str) else text
    return lambda request: web.Response(body=raw, content_type="application/json")


async def huge(request: web.Request) -> web.StreamResponse:
    """Much more than anybody needs, without an end."""
    reply = web.StreamResponse()
    await reply.prepare(request)
    try:
        for _ in range(10_000):
            await reply.write(b"[" * 65_536)
    except ConnectionError:
        pass
    return reply


def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


FAULTS = {
    "error": status(500),
    "no JSON": body("<html>"),
    "a list": body("[]"),
    "not UTF-8": body(b"\xff\xfe"),
    "deep": body("[" * 100_000),
    "a redirect": lambda request: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}),
    "huge": huge,
    "closed": hang_up,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    ("start", "path"),
    [
        ("google", "/token"),
        ("github", "/login/oauth/access_token"),
        ("github", "/api/user"),
        ("github", "/api/user/emails"),
    ],
)
async def test_broken_replies(
    browser: Browser, provider: ProviderState, start: str, path: str, fault: str
) -> None:
    provider.faults[path] = FAULTS[fault]
    code = code_of(await browser.sign_in(f"/v1/auth/oauth/{start}"))
    assert code in ("provider_unavailable", "no_email", "provider_refused")
    assert browser.cookies == {}


@pytest.mark.parametrize(
    "reply",
    [
        '{"error": "invalid_grant"}',
        '{"access_token": 5, "token_type": "bearer"}',
        '{"access_token": "a\\r\\nX-Evil: b", "token_type": "bearer"}',
        '{"access_token": "a", "token_type": "mac"}',
        '{"access_token": "a", "token_type": "bearer"}',
        '{"access_token": "a", "token_type": "bearer", "id_token": 5}',
    ],
)
async def test_token_replies(browser: Browser, provider: ProviderState, reply: str) -> None:
    provider.faults["/token"] = body(reply)
    assert code_of(await browser.sign_in()) in (
        "provider_refused",
        "provider_unavailable",
        "untrusted_reply",
    )


async def test_a_slow_provider_holds_nobody_else_up(browser: Browser, provider: ProviderState) -> None:
    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    provider.faults["/token"] = slow
    callback = await browser.to_provider()
    waiting = asyncio.create_task(browser.back(callback))
    started = time.monotonic()
    assert (await call(browser.client, "GET", "/healthz")).status == 200
    assert time.monotonic() - started < 5
    assert code_of(await waiting) == "provider_unavailable"


async def test_the_address_only_in_userinfo(browser: Browser, provider: ProviderState) -> None:
    provider.in_id_token = False
    assert await browser.sign_in() == "/"
    assert "GET /userinfo" in provider.requests
    assert provider.person is not None
    assert (await browser.me())["email"] == provider.person["email"]


async def test_userinfo_about_somebody_else(browser: Browser, provider: ProviderState) -> None:
    provider.in_id_token = False
    other = '{"sub": "sub-other", "email": "a@acme.test", "email_verified": true}'
    provider.faults["/userinfo"] = body(other)
    assert code_of(await browser.sign_in()) == "untrusted_reply"


@pytest.mark.parametrize(
    ("emails", "code"),
    [
        ([], "no_email"),
        ([{"email": "a@acme.test", "verified": True}], "no_email"),
        ([{"email": "a@acme.test", "verified": True, "primary": False}], "no_email"),
        ([{"email": "a@acme.test", "verified": "true", "primary": True}], "email_not_verified"),
        ([{"email": "no address", "verified": True, "primary": True}], "no_email"),
        (["a@acme.test", None], "no_email"),
    ],
)
async def test_githubs_addresses(
    browser: Browser, provider: ProviderState, emails: list[Any], code: str
) -> None:
    provider.emails = emails
    assert code_of(await browser.sign_in("/v1/auth/oauth/github")) == code


async def test_hostile_names(browser: Browser, provider: ProviderState) -> None:
    assert provider.person is not None
    provider.person["name"] = "\x00<script>\u202e\n" + "x" * 5000
    assert await browser.sign_in() == "/"
    name = (await browser.me())["name"]
    assert len(name) <= 80
    assert name.isprintable()


async def test_secrets_do_not_reach_the_log(browser: Browser, provider: ProviderState, geko: Any) -> None:
    callback = await browser.to_provider()
    await browser.back(callback)
    provider.sign = BAD_SIGNATURES["alg none"]
    await browser.sign_in()
    log = geko.log_text()
    code = callback.partition("code=")[2].partition("&")[0]
    for secret in (
        code,
        "geko-client-secret",
        *provider.tokens,
        browser.cookies.get("__Host-geko_refresh", "-none-"),
    ):
        assert secret not in log
    assert "algorithm 'none' is not allowed" in log
