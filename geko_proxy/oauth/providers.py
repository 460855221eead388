"""What every identity provider has in common: an address to send people to, a code to exchange, a person to get."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from authlib.oauth2.auth import ClientAuth  # type: ignore[import-untyped]
from authlib.oauth2.rfc6749.parameters import (  # type: ignore[import-untyped]
    prepare_grant_uri,
    prepare_token_request,
)

from geko_proxy.accounts.emails import normalise_email
from geko_proxy.config import OAuthProviderSettings
from geko_proxy.oauth.errors import OAuthFailed, refused, unavailable, untrusted
from geko_proxy.oauth.flows import Flow
from geko_proxy.oauth.http import ProviderHttp

MAX_SUBJECT: Final = 255  # OpenID Connect Core, 2
MAX_NAME: Final = 80
MAX_TOKEN: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class ProviderTokens:
    """What the provider gave for the code. expires_in_s: None when it does not say."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    expires_in_s: int | None
    scope: str
    id_token: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class Person:
    """Whom the provider vouches for. (issuer, subject) never changes; the e-mail is verified.

    mfa: the provider says that it has asked for more than one factor (RFC 8176, 2).
    """

    issuer: str
    subject: str
    email: str
    name: str
    tokens: ProviderTokens
    mfa: bool = False


class Provider(Protocol):
    """One configured provider."""

    @property
    def settings(self) -> OAuthProviderSettings:
        """Its entry in the configuration."""

    async def authorization_url(self, flow: Flow, redirect_uri: str) -> str:
        """Where the browser goes to sign in. Raises OAuthFailed."""

    async def check_issuer(self, issuer: str | None) -> None:
        """The `iss` of the reply (RFC 9207) must be this provider's. Raises OAuthFailed."""

    async def person(self, flow: Flow, code: str, redirect_uri: str) -> Person:
        """Exchange the code for tokens, and those for a person. Raises OAuthFailed."""


def grant_url(
    endpoint: str, settings: OAuthProviderSettings, flow: Flow, redirect_uri: str, **more: str
) -> str:
    """The address of the authorization request (RFC 6749, 4.1.1; RFC 7636, 4.3)."""
    url = prepare_grant_uri(
        endpoint,
        settings.client_id,
        "code",
        redirect_uri=redirect_uri,
        scope=" ".join(settings.scopes),
        state=flow.state,
        code_challenge=flow.challenge,
        code_challenge_method="S256",
        **more,
    )
    return str(url)


async def exchange_code(
    http: ProviderHttp,
    endpoint: str,
    settings: OAuthProviderSettings,
    *,
    flow: Flow,
    code: str,
    redirect_uri: str,
    auth_method: str,
) -> ProviderTokens:
    """The tokens for a code (RFC 6749, 4.1.3). auth_method: a name of OpenID Connect Core, 9. Raises OAuthFailed."""
    form = prepare_token_request(
        "authorization_code", code=code, redirect_uri=redirect_uri, code_verifier=flow.verifier
    )
    auth = ClientAuth(settings.client_id, settings.client_secret, auth_method)
    url, headers, body = auth.prepare("POST", endpoint, {}, form)
    answer = await http.post_form(url, body, headers)
    members = answer.members()
    if answer.status >= 500:
        raise unavailable(f"token endpoint: status {answer.status}")
    if answer.status != 200 or "error" in members:  # GitHub says 200 with an error
        raise refused(f"token endpoint: status {answer.status}, error {members.get('error')!r:.80}")
    return read_tokens(members)


def read_tokens(members: dict[str, Any]) -> ProviderTokens:
    """The members of a token reply (RFC 6749, 5.1). Raises OAuthFailed."""
    access_token = members.get("access_token")
    if not is_token(access_token) or str(members.get("token_type")).lower() != "bearer":
        raise unavailable("the token reply has no bearer token")
    refresh_token = members.get("refresh_token")
    expires_in, scope = members.get("expires_in"), members.get("scope")
    return ProviderTokens(
        access_token=str(access_token),
        refresh_token=refresh_token if is_token(refresh_token) else None,
        expires_in_s=expires_in if type(expires_in) is int and 0 < expires_in < 2**31 else None,
        scope=scope[:1000] if isinstance(scope, str) else "",
        id_token=members.get("id_token"),
    )


def is_token(value: object) -> bool:
    """Whether this can stand in an Authorization header (RFC 6750, 2.1) and be kept."""
    return isinstance(value, str) and 0 < len(value) <= MAX_TOKEN and value.isascii() and value.isprintable()


def checked_person(
    settings: OAuthProviderSettings,
    issuer: str,
    subject: object,
    email: object,
    name: object,
    tokens: ProviderTokens,
) -> Person:
    """A person whose e-mail address the provider has verified; the caller has looked at that. Raises OAuthFailed."""
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT or not subject.isprintable():
        raise untrusted("the provider names no usable subject")
    address = normalise_email(email) if isinstance(email, str) else None
    if address is None:
        raise OAuthFailed("no_email", "the provider names no usable e-mail address")
    if settings.allowed_domains and address.rpartition("@")[2] not in settings.allowed_domains:
        raise OAuthFailed("domain_not_allowed", f"e-mail domain {address.rpartition('@')[2]}")
    return Person(issuer, subject, address, shown_name(name) or address.partition("@")[0][:MAX_NAME], tokens)


def shown_name(value: object) -> str:
    """A name as GEKO keeps them: one line of what prints. Empty for anything else."""
    if not isinstance(value, str):
        return ""
    return " ".join("".join(each if each.isprintable() else " " for each in value[:1000]).split())[
        :MAX_NAME
    ].strip()
