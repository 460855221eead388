"""Requests to providers: everything that is no answer becomes one error."""

from __future__ import annotations

import asyncio
import gzip

import pytest
from aiohttp import web

from geko_proxy.oauth.errors import OAuthFailed
from geko_proxy.oauth.http import ProviderHttp, bearer
from tests.oidc_provider import ProviderState


async def failure(http: ProviderHttp, url: str) -> str:
    with pytest.raises(OAuthFailed) as found:
        await http.get(url)
    assert found.value.code == "provider_unavailable"
    return found.value.detail


async def test_json_and_status_come_back(http: ProviderHttp, provider: ProviderState) -> None:
    provider.faults["/x"] = lambda request: web.json_response(
        {"cookie": request.headers.get("Cookie"), "token": request.headers["Authorization"]},
        status=418,
        headers={"Set-Cookie": "a=b"},
    )
    for _ in range(2):
        answer = await http.get(f"{provider.url}/x", bearer("t"))
        assert (answer.status, answer.members()) == (418, {"cookie": None, "token": "Bearer t"})


async def test_a_form_is_sent_as_one(http: ProviderHttp, provider: ProviderState) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.json_response(dict(await request.post()))

    provider.faults["/x"] = echo
    assert (await http.post_form(f"{provider.url}/x", "a=1&b=%26")).value == {"a": "1", "b": "&"}


async def test_redirects_are_not_followed(http: ProviderHttp, provider: ProviderState) -> None:
    provider.faults["/x"] = lambda request: web.json_response({}, status=302, headers={"Location": "/keys"})
    assert (await http.get(f"{provider.url}/x")).status == 302
    assert provider.requests == ["GET /x"]


async def test_size_counts_after_decompression(http: ProviderHttp, provider: ProviderState) -> None:
    packed = gzip.compress(b" " * 10_000_000)
    provider.faults["/x"] = lambda request: web.Response(body=packed, headers={"Content-Encoding": "gzip"})
    assert "more than 10000 bytes" in await failure(http, f"{provider.url}/x")


async def test_silence_and_absence(http: ProviderHttp, provider: ProviderState) -> None:
    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    provider.faults["/x"] = slow
    assert "no answer in 1 s" in await failure(http, f"{provider.url}/x")
    assert "Connect" in await failure(http, "http://127.0.0.1:1/x")
    assert "Invalid" in await failure(http, "http://[x")


async def test_what_is_no_object(http: ProviderHttp, provider: ProviderState) -> None:
    provider.faults["/x"] = lambda request: web.json_response([])
    answer = await http.get(f"{provider.url}/x")
    with pytest.raises(OAuthFailed, match="no JSON object"):
        answer.members()
