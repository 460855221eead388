"""The settings of the LLM side: GEKO's listener for LibreChat's model calls, and the providers behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeGuard
from urllib.parse import urlsplit
from uuid import UUID

from geko_proxy.config.declare import setting
from geko_proxy.config.kinds import Kind, choice, integer, text
from geko_proxy.config.oauth_settings import credential

# Stands in addresses, in LibreChat's menu and before the slash of "Endpoint/model", where * is special.
PROVIDER_NAME: Final = re.compile(r"\w(?:[\w .:()-]{0,62}[\w.:()-])?")
MODEL_NAME: Final = re.compile(r"[!-)+-~](?:[ -)+-~]{0,254}[!-)+-~])?", re.ASCII)  # printable, without *
HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)  # a token, RFC 9110 section 5.6.2
MAX_URL: Final = 512
MAX_LIST: Final = 1000

# What the HTTP client writes itself, or what belongs to one connection (RFC 9110 section 7.6.1).
RESERVED_HEADERS: Final = frozenset(
    "accept-encoding connection content-length content-type expect host keep-alive proxy-connection te trailer "
    "transfer-encoding upgrade".split()
)


def workspace_or_refuse() -> Kind[str]:
    """Make a kind for what happens to calls that belong to nobody: "refuse", or a workspace's id."""

    def check(value: object) -> str:
        if not isinstance(value, str):
            raise ValueError
        return value if value == "refuse" else str(UUID(value))

    return Kind('"refuse" or the id of a workspace', check)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmSettings:
    """The listener for LibreChat's model calls; off without [[llm_providers]]."""

    host: str = setting(
        "127.0.0.1",
        text("an address to listen on"),
        "Address of the internal listener; never one that browsers reach.",
    )
    port: int = setting(3003, integer(0, 65535), "Port of the internal listener; 0 takes a free one.")
    key: str = setting(
        "", credential(), "The apiKey with which LibreChat calls; needed by [[llm_providers]].", secret=True
    )
    unknown_accounts: str = setting(
        "refuse",
        workspace_or_refuse(),
        "Calls of accounts that GEKO does not know: refused, or charged to the workspace with this id.",
    )
    queue_timeout_ms: int = setting(
        10_000,
        integer(0, 600_000),
        "How long a call waits when a provider has no room for it (429) before the next fallback, or the refusal.",
    )
    max_queue: int = setting(
        100, integer(0, 100_000), "Most calls that wait so for one provider at the same time."
    )
    retry_timeout_ms: int = setting(
        60_000,
        integer(0, 3_600_000),
        "No attempt begins later than this after the call came, neither a retry nor on a fallback.",
    )
    breaker_failures: int = setting(
        5,
        integer(1, 1000),
        "Failures in a row after which a model of a deployment is left alone for a while.",
    )
    breaker_cooldown_ms: int = setting(
        5000,
        integer(1, 600_000),
        "How long it is left alone before a single call tries it; doubles each time, up to 32-fold.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSettings:
    """One place where a provider's models are served. All times in ms; headers may hold secrets."""

    base_url: str
    name: str = ""
    key: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    weight: int = 1
    models: Mapping[str, str] | None = None  # None: every model, under its own name
    connect_timeout_ms: int = 3000
    read_timeout_ms: int = 60_000
    reply_timeout_ms: int = 600_000
    idle_timeout_ms: int = 120_000
    keepalive_timeout_ms: int = 4000
    max_connections: int = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmProviderSettings:
    """A provider, called as LibreChat's endpoint. models empty: it is asked."""

    name: str
    api: str = "openai"
    models: tuple[str, ...] = ()
    retries: int = 2
    deployments: tuple[DeploymentSettings, ...] = ()


def provider_name() -> Kind[str]:
    """Make a kind for the name of a provider."""

    def check(value: object) -> str:
        if not isinstance(value, str) or PROVIDER_NAME.fullmatch(value) is None:
            raise ValueError
        return value

    return Kind("a name of letters, digits, blanks and _.:()-, at most 64", check)


def base_url() -> Kind[str]:
    """Make a kind for an address that paths are appended to; a query (Azure's api-version) goes with each call."""

    def check(value: object) -> str:
        if not isinstance(value, str) or len(value) > MAX_URL or re.search(r"[^!-~]|[\\^`{|}<>\"]", value):
            raise ValueError
        parts = urlsplit(value)
        _ = parts.port  # raises ValueError for one that is no number or too large
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
            raise ValueError
        if parts.username is not None:
            raise ValueError("the key stands in `key`, not in the address")
        if any(part in (".", "..") for part in parts.path.split("/")):
            raise ValueError
        return value

    return Kind("an http or https URL like https://api.openai.com/v1", check)


def model_names() -> Kind[tuple[str, ...]]:
    """Make a kind for a list of models."""

    def check(value: object) -> tuple[str, ...]:
        if not isinstance(value, list) or len(value) > MAX_LIST or not all(is_model(item) for item in value):
            raise ValueError
        if len(set(value)) < len(value):
            raise ValueError("one is there twice")
        return tuple(value)

    return Kind('a list of models like ["gpt-4o"], none with *', check)


def model_map() -> Kind[Mapping[str, str]]:
    """Make a kind for a table of models: the name in LibreChat, and the name at this deployment."""

    def check(value: object) -> Mapping[str, str]:
        if not isinstance(value, dict) or not 0 < len(value) <= MAX_LIST:
            raise ValueError
        if not all(is_model(name) for pair in value.items() for name in pair):
            raise ValueError
        return dict(value)

    return Kind('a table of models like { "gpt-4o" = "my-deployment" }', check)


def header_table() -> Kind[Mapping[str, str]]:
    """Make a kind for a table of request headers."""

    def check(value: object) -> Mapping[str, str]:
        if not isinstance(value, dict) or len(value) > 50:
            raise ValueError
        for name, content in value.items():
            if HEADER_NAME.fullmatch(name) is None or name.lower() in RESERVED_HEADERS:
                raise ValueError
            if not isinstance(content, str) or not content.isascii() or not content.isprintable():
                raise ValueError
        if len({name.lower() for name in value}) < len(value):
            raise ValueError
        return {name.lower(): content for name, content in value.items()}

    return Kind(
        'a table of headers like { x-team = "a" } of printable ASCII, none twice, none of HTTP\'s own', check
    )


def is_model(name: object) -> TypeGuard[str]:
    """Whether this can be the name of a model: printable ASCII, at most 256, without `*`."""
    return isinstance(name, str) and MODEL_NAME.fullmatch(name) is not None


# In the order of the documentation; each with what it says there.
PROVIDER_KEYS: Final[dict[str, tuple[Kind[Any], str]]] = {
    "name": (
        provider_name(),
        "The endpoint's name in LibreChat and in workspaces' lists; stands in `/llm/{name}/v1`. Needed.",
    ),
    "api": (
        choice("openai", "anthropic"),
        "What it speaks: openai (`Authorization: Bearer`) or anthropic (`x-api-key`). Default: openai.",
    ),
    "models": (
        model_names(),
        "The models that may be asked for. Default: the provider is asked for its list.",
    ),
    "retries": (
        integer(0, 10),
        "Further attempts after one that failed before its reply began, over all deployments. Default: 2.",
    ),
}
DEPLOYMENT_KEYS: Final[dict[str, tuple[Kind[Any], str]]] = {
    "base_url": (base_url(), "Where the API is, with its path: `https://api.openai.com/v1`. Needed."),
    "name": (provider_name(), "What metrics and the log call it. Default: host and port of `base_url`."),
    "key": (credential(), "The provider's API key; left out: none is sent. Secret."),
    "headers": (header_table(), "Further request headers, e.g. `OpenAI-Organization`. Secret."),
    "weight": (integer(1, 1000), "Its share of the calls among deployments of the same model. Default: 1."),
    "models": (
        model_map(),
        "Only these models are served here, each under its name there. Default: all, under their own names.",
    ),
    "connect_timeout_ms": (integer(1, 600_000), "Time to connect. Default: 3000."),
    "read_timeout_ms": (integer(1, 3_600_000), "Time to the head of a streamed reply. Default: 60000."),
    "reply_timeout_ms": (
        integer(1, 3_600_000),
        "Time to the head of a reply that is not streamed: it comes when all is generated. Default: 600000.",
    ),
    "idle_timeout_ms": (
        integer(0, 3_600_000),
        "Longest silence inside a reply; 0: no limit. Default: 120000.",
    ),
    "keepalive_timeout_ms": (
        integer(0, 600_000),
        "How long an unused connection is kept; less than the server keeps it. Default: 4000.",
    ),
    "max_connections": (integer(1, 100_000), "Most connections at the same time. Default: 512."),
}
