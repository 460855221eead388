"""GitHub's own way: no ID token, its API says who it is."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from aiohttp import web

from geko_proxy.accounts.sealing import Sealer
from geko_proxy.config import OAuthProviderSettings
from geko_proxy.oauth.errors import OAuthFailed
from geko_proxy.oauth.flows import Flows
from geko_proxy.oauth.github import GitHubProvider, primary_email
from geko_proxy.oauth.http import ProviderHttp
from geko_proxy.oauth.openid import OpenIdProvider
from geko_proxy.oauth.providers import Person
from geko_proxy.oauth.registry import Providers
from tests.oidc_provider import CLIENT_ID, CLIENT_SECRET, ProviderState

REDIRECT = "https://chat.test/v1/auth/oauth/github/callback"


@pytest.fixture
def github(http: ProviderHttp, provider: ProviderState) -> GitHubProvider:
    return GitHubProvider(settings_of(provider.url), http)


def settings_of(url: str, name: str = "github", kind: str = "github") -> OAuthProviderSettings:
    return OAuthProviderSettings(
        name=name, kind=kind, client_id=CLIENT_ID, client_secret=CLIENT_SECRET, issuer=url,
        scopes=("read:user", "user:email"), authorize_url=f"{url}/login/oauth/authorize",
        token_url=f"{url}/login/oauth/access_token", api_url=f"{url}/api/",
    )  # fmt: skip


async def person_of(github: GitHubProvider) -> Person:
    flow = Flows(Sealer("s" * 32)).begin("github", "/")
    url = await github.authorization_url(flow, REDIRECT)
    assert "nonce" not in url
    async with aiohttp.ClientSession() as browser, browser.get(url, allow_redirects=False) as reply:
        code = parse_qs(urlsplit(reply.headers["Location"]).query)["code"][0]
    return await github.person(flow, code, REDIRECT)


async def test_the_number_and_the_primary_address_count(
    github: GitHubProvider, provider: ProviderState
) -> None:
    person = await person_of(github)
    assert (person.issuer, person.subject) == (f"{provider.url}/login/oauth", "1")
    assert (person.email, person.name) == ("pat@acme.test", "Pat Doe")


@pytest.mark.parametrize(
    ("user", "code"),
    [
        ({"login": "pat"}, "provider_unavailable"),
        ({"id": True}, "provider_unavailable"),
        ([], "provider_unavailable"),
    ],
)
async def test_users_without_a_number(
    github: GitHubProvider, provider: ProviderState, user: Any, code: str
) -> None:
    provider.faults["/api/user"] = lambda request: web.json_response(user)
    with pytest.raises(OAuthFailed) as found:
        await person_of(github)
    assert found.value.code == code


async def test_a_missing_permission_is_told_apart(github: GitHubProvider, provider: ProviderState) -> None:
    provider.faults["/api/user/emails"] = lambda request: web.json_response({}, status=404)
    with pytest.raises(OAuthFailed) as found:
        await person_of(github)
    assert found.value.code == "provider_refused"


async def test_the_issuer(github: GitHubProvider, provider: ProviderState) -> None:
    await github.check_issuer(None)
    await github.check_issuer(f"{provider.url}/login/oauth")
    with pytest.raises(OAuthFailed):
        await github.check_issuer(provider.url)


@pytest.mark.parametrize(
    "value", [None, {}, "x", [], [[]], [{"primary": True}], [{"primary": 1, "email": "a@b.test"}]]
)
def test_lists_without_a_primary_address(value: Any) -> None:
    with pytest.raises(OAuthFailed):
        primary_email(value)


async def test_the_registry(http: ProviderHttp) -> None:
    entries = [
        settings_of("https://a.test", "a", "oidc"),
        settings_of("https://b.test", "b"),
        settings_of("https://c.test", "c"),
    ]
    providers = Providers(entries, http)
    assert [each.settings.name for each in providers] == ["a", "b", "c"]
    assert isinstance(providers.get("a"), OpenIdProvider)
    assert providers.first("github") is providers.get("b")
    assert (providers.get("d"), providers.first("google")) == (None, None)
