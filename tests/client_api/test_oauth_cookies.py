"""The cookie of a flow."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from aiohttp import web
from multidict import CIMultiDict

from geko_proxy.client_api.oauth_cookies import FlowCookies
from geko_proxy.config import ServerSettings
from geko_proxy.exchange import Reply
from tests.client_api.conftest import Call


def request_with(*cookies: str) -> web.BaseRequest:
    headers = CIMultiDict([("Cookie", each) for each in cookies])
    return cast(web.BaseRequest, SimpleNamespace(headers=headers))


def test_with_https_no_sub_domain_can_plant_it(call: Call) -> None:
    cookies, reply = FlowCookies(ServerSettings(public_url="https://chat.test")), Reply(303)
    exchange, _ = call()
    cookies.set(exchange, reply, "acme", "v")
    assert reply.headers["Set-Cookie"] == (
        "__Host-geko_oauth_acme=v; Path=/; Max-Age=600; HttpOnly; SameSite=Lax; Secure"
    )
    assert cookies.read(exchange, request_with("__Host-geko_oauth_acme=v"), "acme") == "v"
    assert cookies.read(exchange, request_with("geko_oauth_acme=v"), "acme") is None


def test_without_https_only_the_provider_s_path_gets_it(call: Call) -> None:
    cookies, reply = FlowCookies(ServerSettings()), Reply(303)
    exchange, _ = call()
    cookies.clear(exchange, reply, "acme")
    assert reply.headers["Set-Cookie"] == (
        "geko_oauth_acme=; Path=/v1/auth/oauth/acme; Max-Age=0; HttpOnly; SameSite=Lax"
    )
    secure, _ = call(secure=True)  # behind a proxy that ends TLS
    cookies.set(secure, reply, "acme", "v")
    assert reply.headers.getall("Set-Cookie")[1].startswith("__Host-geko_oauth_acme=v; Path=/;")


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        (["geko_oauth_acme=a/+="], "a/+="),
        (["x=1; geko_oauth_acme=v; y=2"], "v"),
        (["geko_oauth_acme=a; geko_oauth_acme=b"], None),
        (["geko_oauth_acme=a", "geko_oauth_acme=a"], None),
        (["geko_oauth_acme=; geko_oauth_acme=a"], None),
        (["geko_oauth_acme="], None),
        (["geko_oauth_acme2=a"], None),
        ([";;=;"], None),
        ([], None),
    ],
)
def test_reading(call: Call, sent: list[str], found: str | None) -> None:
    exchange, _ = call()
    assert FlowCookies(ServerSettings()).read(exchange, request_with(*sent), "acme") == found
