"""The settings of one identity provider, an [[oauth]] entry. Nothing here reads files or the environment."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from geko_proxy.config.kinds import Kind, choice, flag, text

NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?", re.ASCII)
RESERVED: Final = frozenset({"links", "error"})  # paths of GEKO's own beside /v1/auth/oauth/{name}
DOMAIN: Final = re.compile(
    r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII
)
SCOPE: Final = re.compile(r"[!#-\[\]-~]+", re.ASCII)  # RFC 6749, 3.3
MAX_URL: Final = 512

GOOGLE_ISSUER: Final = "https://accounts.google.com"
GITHUB_URLS: Final = {
    "authorize_url": "https://github.com/login/oauth/authorize",
    "token_url": "https://github.com/login/oauth/access_token",
    "api_url": "https://api.github.com",
}
SCOPES: Final = {
    "google": ("openid", "email", "profile"),
    "oidc": ("openid", "email", "profile"),
    "github": ("read:user", "user:email"),
}
DISPLAY_NAMES: Final = {"google": "Google", "github": "GitHub"}


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuthProviderSettings:
    """An identity provider. With what is left out filled in: issuer of Google, addresses of GitHub, scopes."""

    name: str
    kind: str
    client_id: str
    client_secret: str = field(repr=False)
    issuer: str = ""
    scopes: tuple[str, ...] = ()
    display_name: str = ""
    image_url: str = ""
    allow_registration: bool = False
    allowed_domains: tuple[str, ...] = ()
    authorize_url: str = ""
    token_url: str = ""
    api_url: str = ""


def provider_settings(values: dict[str, Any]) -> OAuthProviderSettings:
    """The settings of checked values, with the defaults of the kind."""
    kind = values["kind"]
    filled = {"scopes": SCOPES[kind], "display_name": DISPLAY_NAMES.get(kind, values["name"].capitalize())}
    if kind == "google":
        filled["issuer"] = GOOGLE_ISSUER
    elif kind == "github":
        filled |= GITHUB_URLS
    return OAuthProviderSettings(**(filled | {key: value for key, value in values.items() if value != ""}))


def missing(values: dict[str, Any]) -> Iterator[str]:
    """Names of keys that an entry must have and has not."""
    yield from (key for key in ("client_id", "client_secret") if not values.get(key))
    if values.get("kind") == "oidc" and not values.get("issuer"):
        yield "issuer"


def provider_name() -> Kind[str]:
    """Make a kind for the name of a provider, which stands in addresses."""

    def check(value: object) -> str:
        if not isinstance(value, str) or NAME.fullmatch(value) is None:
            raise ValueError
        if value in RESERVED:
            raise ValueError("this name is taken by GEKO's own pages")
        return value

    return Kind("a name of a-z, 0-9 and -, at most 32", check)


def provider_url() -> Kind[str]:
    """Make a kind for an address that a client secret is sent to: https, or http on this machine."""

    def check(value: object) -> str:
        if not isinstance(value, str) or not is_provider_url(value):
            raise ValueError
        return value

    return Kind("an https URL (http only for this machine's own addresses)", check)


def is_provider_url(address: str) -> bool:
    """Whether secrets may be sent to this address: https, or http that does not leave the machine."""
    if len(address) > MAX_URL or not address.isascii() or re.search(r"[\s\x00-\x20\x7f\\]", address):
        return False
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError:
        return False
    if not parts.hostname or parts.username is not None or parts.fragment:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def credential() -> Kind[str]:
    """Make a kind for what a provider issues: it stands in headers and forms."""

    def check(value: object) -> str:
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise ValueError
        return value

    return Kind("printable ASCII text", check)


def words(expected: str, pattern: re.Pattern[str]) -> Kind[tuple[str, ...]]:
    """Make a kind for a list of words; separated by commas in the environment."""

    def check(value: object) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError
        if not all(pattern.fullmatch(item) for item in value):
            raise ValueError
        return tuple(value)

    return Kind(
        expected, check, parse=lambda text: [item.strip() for item in text.split(",") if item.strip()]
    )


# In the order of the documentation; each with what it says there.
KEYS: Final[dict[str, tuple[Kind[Any], str]]] = {
    "name": (provider_name(), "Stands in the addresses: `/v1/auth/oauth/{name}`."),
    "kind": (choice("google", "github", "oidc"), "google, github, or oidc for any OpenID Connect provider."),
    "client_id": (credential(), "As the provider gave it."),
    "client_secret": (credential(), "As the provider gave it. Secret."),
    "issuer": (
        provider_url(),
        "Needed by oidc: the provider's issuer, under which its discovery document is.",
    ),
    "scopes": (
        words('a list of scopes like ["openid", "email"]', SCOPE),
        "What is asked for. Default: openid, email, profile; read:user, user:email for github.",
    ),
    "display_name": (text(), "What people read on the button. Default: Google, GitHub, or the name."),
    "image_url": (provider_url(), "A picture on LibreChat's OpenID button."),
    "allow_registration": (
        flag(),
        "Somebody whose e-mail address is new gets an account and a tenant. Default: false.",
    ),
    "allowed_domains": (
        words('a list of domains like ["example.org"]', DOMAIN),
        "E-mail domains from which people may come. Default: all.",
    ),
    "authorize_url": (provider_url(), "github only: for GitHub Enterprise Server."),
    "token_url": (provider_url(), "github only: for GitHub Enterprise Server."),
    "api_url": (provider_url(), "github only: for GitHub Enterprise Server."),
}
