"""GitHub, which has OAuth but no ID token: its API says who holds the access token."""

from __future__ import annotations

from typing import Any, Final

from geko_proxy.config import OAuthProviderSettings
from geko_proxy.oauth.errors import OAuthFailed, refused, unavailable, untrusted
from geko_proxy.oauth.flows import Flow
from geko_proxy.oauth.http import ProviderHttp, bearer
from geko_proxy.oauth.providers import Person, checked_person, exchange_code, grant_url

HEADERS: Final = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}


class GitHubProvider:
    """github.com, or a GitHub Enterprise Server."""

    def __init__(self, settings: OAuthProviderSettings, http: ProviderHttp) -> None:
        self.settings = settings
        self._http = http
        # https://github.com/login/oauth: also what GitHub sends as `iss`
        self._issuer = settings.authorize_url.rpartition("/")[0]

    async def authorization_url(self, flow: Flow, redirect_uri: str) -> str:
        """See Provider."""
        return grant_url(self.settings.authorize_url, self.settings, flow, redirect_uri)

    async def check_issuer(self, issuer: str | None) -> None:
        """See Provider. Older servers send none."""
        if issuer not in (None, self._issuer):
            raise untrusted("the reply comes from another issuer")

    async def person(self, flow: Flow, code: str, redirect_uri: str) -> Person:
        """See Provider."""
        tokens = await exchange_code(
            self._http,
            self.settings.token_url,
            self.settings,
            flow=flow,
            code=code,
            redirect_uri=redirect_uri,
            auth_method="client_secret_post",
        )
        user = await self._ask("/user", tokens.access_token)
        if not isinstance(user, dict) or type(user.get("id")) is not int:
            raise unavailable("/user: no id")
        email = primary_email(await self._ask("/user/emails", tokens.access_token))
        name = user.get("name") or user.get("login")
        # the id: a login name can be given up and taken by somebody else
        return checked_person(self.settings, self._issuer, str(user["id"]), email, name, tokens)

    async def _ask(self, path: str, access_token: str) -> Any:
        answer = await self._http.get(
            self.settings.api_url.rstrip("/") + path, {**HEADERS, **bearer(access_token)}
        )
        if answer.status in (401, 403, 404):
            raise refused(f"{path}: status {answer.status}")
        if answer.status != 200:
            raise unavailable(f"{path}: status {answer.status}")
        return answer.value


def primary_email(value: Any) -> str:
    """The address that GitHub has verified and that its owner calls his first. Raises OAuthFailed."""
    if not isinstance(value, list):
        raise unavailable("/user/emails: no list")
    for each in value:
        if isinstance(each, dict) and each.get("primary") is True and isinstance(each.get("email"), str):
            if each.get("verified") is not True:
                raise OAuthFailed("email_not_verified", "GitHub's primary address is not verified")
            return str(each["email"])
    raise OAuthFailed("no_email", "GitHub names no primary address")
