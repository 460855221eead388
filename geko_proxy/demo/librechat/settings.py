"""How the stand-in behaves: one frozen record of switches, named after LibreChat's own where it has one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MODELS = ("gpt-4o", "gpt-4o-mini", "claude-sonnet-4")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One custom endpoint of librechat.yaml.

    `asks_usage` is `addParams.streamUsage` (contract §0.3): only then LibreChat asks the provider for token usage.
    `title_endpoint` makes the titles instead. `provider`, `kind` (the header x-geko-kind) and `fetches`
    (`models.fetch`) are for real calls.
    """

    name: str
    models: tuple[str, ...] = MODELS
    asks_usage: bool = False
    titles: bool = True
    title_model: str = "gpt-4o-mini"
    title_endpoint: str = ""
    provider: str = ""
    kind: str = ""
    fetches: bool = False

    @property
    def path(self) -> str:
        """Its provider's name in the URL of real model calls."""
        return self.provider or self.name


MOCK = Endpoint("Mock")
MOCK_USAGE = Endpoint("MockUsage", asks_usage=True, titles=False)
NO_MODELS = ("unavailable",)


def hidden_name(provider: str, kind: str) -> str:
    """The endpoint for a kind of hidden work, named as `geko librechat-config` names it."""
    return f"{provider} {kind}"


def llm_endpoints(*names: str) -> tuple[Endpoint, ...]:
    """The endpoints of a librechat.yaml whose calls are real: each name, and those for hidden work.

    Names that end in Usage ask for usage. What is listed here is the fallback for a model list that does not come.
    """
    shown = [
        Endpoint(
            name,
            NO_MODELS,
            asks_usage=name.endswith("Usage"),
            title_endpoint=hidden_name(name, "title"),
            fetches=True,
        )
        for name in names
    ]
    kinds = [*((name, "title") for name in names), (names[0], "memory"), (names[0], "summary")]
    hidden = [
        Endpoint(hidden_name(name, kind), NO_MODELS, titles=False, provider=name, kind=kind)
        for name, kind in kinds
    ]
    return (*shown, *hidden)


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `maximum` requests of one key in `window_s` seconds."""

    maximum: int
    window_s: int


@dataclass(frozen=True, slots=True)
class Settings:
    """All switches. Times are in seconds.

    duplicate_delay_s: what registering a used e-mail takes (contract §2.2).
    start_delay_s: from the chat POST's reply to the `created` event.
    late_save_s: from an abort's final to the run's own, last save (contract §4.4).
    title_hold_s: how long GET gen_title waits for a title that does not come.
    error_job_s, completed_job_s: how long failed and finished jobs can still be subscribed to.
    provider_retries, provider_retry_s: how often a 5xx of the provider is tried again, and the first pause, which
        doubles each time (LibreChat waits a second first, 80 in all, before it gives up).
    start_balance: credits of a new user; None switches LibreChat's balance off.
    remote_agents: `interface.remoteAgents.use`; without it nobody gets a key of the Agents API.
    compression: DISABLE_COMPRESSION=false; with it the Agents API's streams arrive in one lump (contract §6).
    llm_url: where real model calls go, `{llm_url}/{provider}/v1/…`; empty: the built-in provider answers.
    llm_key: `apiKey` of all endpoints. model_list_s: how long their model lists may take.
    memory: the endpoint and model of the memory agent, which reads along with each turn of real calls; None: off.
    summary: the endpoint and model of summaries; None: the answering model makes them.
    memory_wait_s: how long the end of an answer waits for the memory agent.
    allowed_domains: `registration.allowedDomains`; None: all. trust_proxy: TRUST_PROXY, hops of X-Forwarded-For.
    says: what GET /api/config says differently. permissions: rights of the role USER that differ, by kind.
    capabilities: `endpoints.agents.capabilities`; None: all.
    """

    jwt_secret: str
    jwt_refresh_secret: str
    endpoints: tuple[Endpoint, ...] = (MOCK, MOCK_USAGE)
    mcp_servers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    login_limit: Limit = Limit(100_000, 300)
    register_limit: Limit = Limit(100_000, 3600)
    upload_limit: Limit = Limit(100_000, 900)
    message_ip_limit: Limit | None = None
    concurrent_messages: int | None = None
    ban_violations: bool = False
    registration: bool = True
    duplicate_delay_s: float = 1.0
    start_delay_s: float = 0.15
    late_save_s: float = 0.05
    title_hold_s: float = 15.5
    error_job_s: float = 300.0
    completed_job_s: float = 0.0
    session_s: int = 900
    refresh_s: int = 7 * 86400
    start_balance: float | None = None
    secure_image_links: bool = False
    compression: bool = False
    remote_agents: bool = True
    default_tokens: int = 20
    default_delay_ms: float = 10.0
    provider_retries: int = 6
    provider_retry_s: float = 0.01
    llm_url: str = ""
    llm_key: str = ""
    model_list_s: float = 5.0
    memory: tuple[str, str] | None = None
    memory_wait_s: float = 3.0
    summary: tuple[str, str] | None = None
    allowed_domains: tuple[str, ...] | None = None
    trust_proxy: int = 1
    says: dict[str, Any] = field(default_factory=dict)
    permissions: dict[str, dict[str, bool]] = field(default_factory=dict)
    capabilities: tuple[str, ...] | None = None
