"""Discovery and the exchange with an OpenID Connect provider."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from aiohttp import web

from geko_proxy.accounts.sealing import Sealer
from geko_proxy.config import OAuthProviderSettings
from geko_proxy.config.oauth_settings import GOOGLE_ISSUER
from geko_proxy.oauth.errors import OAuthFailed
from geko_proxy.oauth.flows import Flow, Flows
from geko_proxy.oauth.http import ProviderHttp
from geko_proxy.oauth.openid import METADATA_TTL_S, OpenIdProvider, read_metadata
from tests.oidc_provider import CLIENT_ID, CLIENT_SECRET, ProviderState

REDIRECT = "https://chat.test/v1/auth/oauth/acme/callback"
FLOWS = Flows(Sealer("s" * 32))


def settings_of(issuer: str, **more: Any) -> OAuthProviderSettings:
    return OAuthProviderSettings(
        name="acme", kind="oidc", client_id=CLIENT_ID, client_secret=CLIENT_SECRET, issuer=issuer,
        scopes=("openid", "email"), **more,
    )  # fmt: skip


@pytest.fixture
def openid(http: ProviderHttp, provider: ProviderState) -> OpenIdProvider:
    return OpenIdProvider(settings_of(provider.url), http)


async def code_for(openid: OpenIdProvider, flow: Flow) -> str:
    """What the provider gives to the browser."""
    url = await openid.authorization_url(flow, REDIRECT)
    async with aiohttp.ClientSession() as browser, browser.get(url, allow_redirects=False) as reply:
        query = parse_qs(urlsplit(reply.headers["Location"]).query)
    assert query["state"] == [flow.state]
    return query["code"][0]


@pytest.mark.parametrize("methods", [["client_secret_basic"], ["client_secret_post"], ...])
async def test_a_person_comes_out(openid: OpenIdProvider, provider: ProviderState, methods: Any) -> None:
    provider.metadata = {"token_endpoint_auth_methods_supported": methods} if methods is not ... else {}
    flow = FLOWS.begin("acme", "/")
    person = await openid.person(flow, await code_for(openid, flow), REDIRECT)
    assert (person.issuer, person.subject) == (provider.url, "sub-1")
    assert (person.email, person.name) == ("pat@acme.test", "Pat Doe")
    assert person.tokens.access_token in provider.tokens
    assert person.tokens.refresh_token
    assert person.tokens.access_token not in repr(person)


async def test_a_code_is_worth_nothing_without_its_verifier_and_redirect(
    openid: OpenIdProvider, provider: ProviderState
) -> None:
    for flow, redirect in ((FLOWS.begin("acme", "/"), REDIRECT), (None, REDIRECT + "2")):
        own = FLOWS.begin("acme", "/")
        code = await code_for(openid, own)
        with pytest.raises(OAuthFailed) as found:
            await openid.person(flow or own, code, redirect)
        assert found.value.code == "provider_refused"


async def test_a_token_of_another_flow(openid: OpenIdProvider, provider: ProviderState) -> None:
    own = FLOWS.begin("acme", "/")
    code = await code_for(openid, own)
    with pytest.raises(OAuthFailed, match="nonce"):
        await openid.person(Flow("acme", "s", "another", own.verifier, "/", 0), code, REDIRECT)


async def test_discovery_is_asked_once_by_many_and_outlives_an_outage(
    http: ProviderHttp, provider: ProviderState
) -> None:
    now = [1000.0]
    openid = OpenIdProvider(settings_of(provider.url), http, lambda: now[0])
    await asyncio.gather(*(openid.metadata() for _ in range(5)))
    assert len(provider.requests) == 1
    now[0] += METADATA_TTL_S + 1
    provider.faults["/.well-known/openid-configuration"] = lambda request: web.Response(status=500, text="{}")
    assert (await openid.metadata()).token_endpoint == f"{provider.url}/token"
    assert len(provider.requests) == 2


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"issuer": "https://evil.test"}, "untrusted_reply"),
        ({"issuer": None}, "untrusted_reply"),
        ({"authorization_endpoint": "http://evil.test/"}, "provider_unavailable"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "provider_unavailable"),
        ({"token_endpoint": "http://evil.test/"}, "provider_unavailable"),
        ({"token_endpoint": None}, "provider_unavailable"),
        ({"jwks_uri": ["https://x.test"]}, "provider_unavailable"),
        ({"userinfo_endpoint": "file:///etc/passwd"}, "provider_unavailable"),
    ],
)
async def test_hostile_discovery(
    openid: OpenIdProvider, provider: ProviderState, changes: dict[str, Any], code: str
) -> None:
    provider.metadata = changes
    with pytest.raises(OAuthFailed) as found:
        await openid.authorization_url(FLOWS.begin("acme", "/"), REDIRECT)
    assert found.value.code == code
    provider.metadata = {}
    assert await openid.authorization_url(FLOWS.begin("acme", "/"), REDIRECT)  # a failure is not kept


async def test_the_issuer_of_the_reply(openid: OpenIdProvider, provider: ProviderState) -> None:
    await openid.check_issuer(None)
    await openid.check_issuer(provider.url)
    for wrong in (provider.url + "/", "", "https://evil.test"):
        with pytest.raises(OAuthFailed):
            await openid.check_issuer(wrong)


async def test_an_announced_issuer_may_not_be_left_out(
    openid: OpenIdProvider, provider: ProviderState
) -> None:
    provider.metadata = {"authorization_response_iss_parameter_supported": True}
    with pytest.raises(OAuthFailed):
        await openid.check_issuer(None)


def test_google_has_two_spellings_of_its_issuer(http: ProviderHttp) -> None:
    assert OpenIdProvider(settings_of(GOOGLE_ISSUER), http)._issuers == [GOOGLE_ISSUER, "accounts.google.com"]
    assert OpenIdProvider(settings_of("https://id.test"), http)._issuers == ["https://id.test"]


def test_userinfo_need_not_be_there() -> None:
    urls = dict.fromkeys(("authorization_endpoint", "token_endpoint", "jwks_uri"), "https://id.test/x")
    assert read_metadata(dict(urls)).userinfo_endpoint is None
