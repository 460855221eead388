"""Providers that speak OpenID Connect, found by discovery (OpenID Connect Discovery 1.0). Google is one of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from geko_proxy.config import OAuthProviderSettings
from geko_proxy.config.oauth_settings import GOOGLE_ISSUER, is_provider_url
from geko_proxy.oauth.errors import OAuthFailed, unavailable, untrusted
from geko_proxy.oauth.flows import Flow
from geko_proxy.oauth.http import ProviderHttp, bearer
from geko_proxy.oauth.id_tokens import Expected, verify
from geko_proxy.oauth.keys import KeyCache
from geko_proxy.oauth.providers import Person, ProviderTokens, checked_person, exchange_code, grant_url
from geko_proxy.oauth.single_flight import SingleFlight

METADATA_TTL_S: Final = 3600.0
WELL_KNOWN: Final = "/.well-known/openid-configuration"


@dataclass(frozen=True, slots=True)
class Metadata:
    """What GEKO uses of a discovery document."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None
    auth_method: str
    sends_issuer: bool


class OpenIdProvider:
    """A provider with an issuer. clock: a monotonic time in seconds."""

    def __init__(
        self,
        settings: OAuthProviderSettings,
        http: ProviderHttp,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._http = http
        self._clock = clock
        self._metadata: Metadata | None = None
        self._fetched_at = 0.0
        self._flight = SingleFlight(self._refresh)
        self._keys = KeyCache(self._fetch_keys, clock)
        self._issuers = [settings.issuer]
        if settings.issuer == GOOGLE_ISSUER:
            self._issuers.append(GOOGLE_ISSUER.removeprefix("https://"))  # Google's documentation names both

    async def authorization_url(self, flow: Flow, redirect_uri: str) -> str:
        """See Provider."""
        metadata = await self.metadata()
        return grant_url(metadata.authorization_endpoint, self.settings, flow, redirect_uri, nonce=flow.nonce)

    async def check_issuer(self, issuer: str | None) -> None:
        """See Provider. Must be there when the provider says that it sends it."""
        if issuer is None and not (await self.metadata()).sends_issuer:
            return
        if issuer != self.settings.issuer:
            raise untrusted("the reply comes from another issuer")

    async def person(self, flow: Flow, code: str, redirect_uri: str) -> Person:
        """See Provider."""
        metadata = await self.metadata()
        tokens = await exchange_code(
            self._http,
            metadata.token_endpoint,
            self.settings,
            flow=flow,
            code=code,
            redirect_uri=redirect_uri,
            auth_method=metadata.auth_method,
        )
        expected = Expected(self._issuers, self.settings.client_id, flow.nonce, tokens.access_token)
        claims = await verify(tokens.id_token, self._keys.find, expected)
        if "email" not in claims and metadata.userinfo_endpoint is not None:
            claims |= await self._user_info(metadata.userinfo_endpoint, tokens, claims["sub"])
        if "email" in claims and claims.get("email_verified") not in (True, "true"):  # some send a text
            raise OAuthFailed("email_not_verified", "email_verified is not true")
        person = checked_person(
            self.settings,
            self.settings.issuer,
            claims["sub"],
            claims.get("email"),
            claims.get("name"),
            tokens,
        )
        methods = claims.get("amr")  # of the ID token, which is signed: userinfo has no say in it
        return replace(person, mfa=isinstance(methods, list) and "mfa" in methods)

    async def metadata(self) -> Metadata:
        """The discovery document, at most an hour old, or older while the provider is down. Raises OAuthFailed."""
        if self._metadata is None or self._clock() - self._fetched_at > METADATA_TTL_S:
            return await self._flight.run()
        return self._metadata

    async def _refresh(self) -> Metadata:
        try:
            self._metadata = await self._discover()
        except OAuthFailed:
            if self._metadata is None:
                raise
        self._fetched_at = self._clock()
        return self._metadata

    async def _discover(self) -> Metadata:
        issuer = self.settings.issuer
        answer = await self._http.get(issuer.rstrip("/") + WELL_KNOWN)
        members = answer.members()
        if answer.status != 200:
            raise unavailable(f"discovery: status {answer.status}")
        if members.get("issuer") != issuer:  # Discovery 1.0, 4.3: identical
            raise untrusted(f"the discovery document is of issuer {members.get('issuer')!r:.200}")
        return read_metadata(members)

    async def _fetch_keys(self) -> dict[str, Any]:
        answer = await self._http.get((await self.metadata()).jwks_uri)
        if answer.status != 200:
            raise unavailable(f"keys: status {answer.status}")
        return answer.members()

    async def _user_info(self, endpoint: str, tokens: ProviderTokens, subject: str) -> dict[str, Any]:
        answer = await self._http.get(endpoint, bearer(tokens.access_token))
        members = answer.members()
        if answer.status != 200:
            raise unavailable(f"userinfo: status {answer.status}")
        if members.get("sub") != subject:  # OpenID Connect Core, 5.3.2
            raise untrusted("userinfo is about another subject")
        return {key: members[key] for key in ("email", "email_verified", "name") if key in members}


def read_metadata(members: dict[str, Any]) -> Metadata:
    """What GEKO uses of a discovery document. Raises OAuthFailed."""

    def url(key: str) -> str:
        value = members.get(key)
        if not isinstance(value, str) or not is_provider_url(value):
            raise unavailable(f"discovery: {key} is no usable address")
        return value

    # client_secret_basic is the default (Discovery 1.0, 3), but half of the providers decode it in ways of their own
    methods = members.get("token_endpoint_auth_methods_supported")
    post = isinstance(methods, list) and "client_secret_post" in methods
    return Metadata(
        authorization_endpoint=url("authorization_endpoint"),
        token_endpoint=url("token_endpoint"),
        jwks_uri=url("jwks_uri"),
        userinfo_endpoint=url("userinfo_endpoint") if "userinfo_endpoint" in members else None,
        auth_method="client_secret_post" if post else "client_secret_basic",
        sends_issuer=members.get("authorization_response_iss_parameter_supported") is True,
    )
