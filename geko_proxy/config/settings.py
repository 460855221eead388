"""The settings themselves: frozen, checked, with their documentation. Nothing here reads files or the environment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields
from email.utils import parseaddr
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, cast

from geko_proxy.config.declare import Spec, setting
from geko_proxy.config.kinds import (
    Network,
    choice,
    domain,
    flag,
    flag_or_auto,
    folder,
    integer,
    networks,
    origin,
    origins,
    peer_address,
    server_url,
    text,
    workspace_hosts,
)
from geko_proxy.config.llm_settings import LlmProviderSettings, LlmSettings
from geko_proxy.config.metering_settings import MeteringSettings
from geko_proxy.config.oauth_settings import OAuthProviderSettings
from geko_proxy.config.people_settings import AlertSettings, AuthSettings, MailSettings
from geko_proxy.config.price_entries import PriceSettings
from geko_proxy.config.secrets import weakness
from geko_proxy.errors import ConfigError

T = TypeVar("T")

MIN_SCRYPT_WORK: Final = 8 * 5 * 2**14  # the least row of OWASP's Password Storage Cheat Sheet


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """GEKO's own port and what clients may send to it."""

    host: str = setting(
        "127.0.0.1", text("an address to listen on"), "Address to listen on; 0.0.0.0 for all."
    )
    port: int = setting(
        3002, integer(0, 65535), "Port to listen on; 0 takes a free one.", aliases=("GEKO_PORT",)
    )
    public_url: str = setting(
        "", origin(), "Address under which browsers reach GEKO, like https://chat.example.org."
    )
    workspace_hosts: str = setting(
        "",
        workspace_hosts(),
        "Addresses of single workspaces, like {workspace}.{tenant}.example.org; empty: none.",
    )
    cors_origins: tuple[str, ...] = setting(
        (),
        origins(),
        "Other origins whose pages may call GEKO with a bearer token (CORS); never with cookies.",
    )
    trusted_proxies: tuple[Network, ...] = setting(
        (), networks(), "Networks of the proxies in front of GEKO whose X-Forwarded-For is believed."
    )
    peer_url: str = setting(
        "auto",
        peer_address(),
        "How other instances reach this one; auto: where it listens, unless that is 0.0.0.0; none: they don't.",
    )
    access_log: bool = setting(True, flag(), "Write one log line per request.")
    max_json_bytes: int = setting(
        3 * 1024 * 1024, integer(1024), "Largest JSON body; LibreChat itself takes 3 MiB."
    )
    max_upload_bytes: int = setting(
        512 * 1024 * 1024, integer(1024), "Largest file upload; LibreChat itself takes 512 MiB."
    )
    max_requests_per_address: int = setting(
        256,
        integer(1),
        "Most requests of one client address at the same time; streams count while they are open.",
    )
    max_answers_per_user: int = setting(
        32, integer(1), "Most answers of one person that run at the same time."
    )
    shutdown_timeout_s: int = setting(
        10, integer(0, 3600), "How long running answers may go on after a stop signal."
    )
    home: Path = setting(
        Path(".geko"),
        folder(),
        "Folder for what must outlive GEKO's process: charges that wait for the database, and the demo's data.",
        aliases=("GEKO_HOME",),
    )
    cookie_secure: bool | Literal["auto"] = setting(
        "auto", flag_or_auto(), "Mark cookies Secure; auto: when public_url is https."
    )

    @property
    def cookies_are_secure(self) -> bool:
        """Whether cookies get the Secure attribute."""
        if self.cookie_secure == "auto":
            return self.public_url.startswith("https://")
        return self.cookie_secure


@dataclass(frozen=True, slots=True, kw_only=True)
class LibreChatSettings:
    """Where LibreChat is, how GEKO acts for its users there, and how long it may take."""

    url: str = setting(
        "", origin(), "LibreChat's address; empty: `geko demo` starts a stand-in.", aliases=("LIBRECHAT_URL",)
    )
    identity: str = setting(
        "mint",
        choice("mint", "login"),
        "How GEKO acts as a user: mint signs LibreChat's tokens with its JWT_SECRET, login signs in by password.",
    )
    jwt_secret: str = setting(
        "", text(), "LibreChat's JWT_SECRET; needed by mint.", aliases=("LIBRECHAT_JWT_SECRET",), secret=True
    )
    jwt_refresh_secret: str = setting(
        "",
        text(),
        "LibreChat's JWT_REFRESH_SECRET; needed by mint with secure_images.",
        aliases=("LIBRECHAT_JWT_REFRESH_SECRET",),
        secret=True,
    )
    shadow_secret: str = setting(
        "",
        text(),
        "Key from which the passwords of the shadow accounts are derived; must never change afterwards.",
        secret=True,
    )
    shadow_email_domain: str = setting(
        "shadow.geko.invalid", domain(), "E-mail domain of the shadow accounts; must never receive mail."
    )
    connect_timeout_ms: int = setting(3000, integer(1), "Time to connect to LibreChat.")
    read_timeout_ms: int = setting(30_000, integer(1), "Time to the head of an ordinary reply.")
    stream_idle_timeout_ms: int = setting(0, integer(0), "Longest silence inside an answer; 0: no limit.")
    max_connections: int = setting(512, integer(1), "Most connections to LibreChat at the same time.")
    keepalive_timeout_ms: int = setting(
        3000, integer(0, 4500), "How long an unused connection is kept; LibreChat closes it after 5000."
    )
    unknown_api: str = setting(
        "refuse", choice("refuse", "pass"), "What happens to /api paths that GEKO doesn't know."
    )
    secure_images: bool = setting(True, flag(), "LibreChat runs with secureImageLinks: true.")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    """PostgreSQL."""

    url: str = setting(
        "",
        server_url("postgresql", "postgres"),
        "PostgreSQL 15 or later; empty: `geko demo` starts an embedded one under server.home.",
        aliases=("DATABASE_URL",),
        secret=True,
    )
    direct_url: str = setting(
        "",
        server_url("postgresql", "postgres"),
        "The same database without PgBouncer: for LISTEN, migrations and the steps of leases; empty: `url` is direct.",
        aliases=("DATABASE_DIRECT_URL",),
        secret=True,
    )
    pool_min: int = setting(1, integer(0, 1000), "Connections kept open.")
    pool_max: int = setting(10, integer(1, 1000), "Most connections of one GEKO process.")
    statement_cache_size: int = setting(
        100, integer(0, 10_000), "Prepared statements per connection; 0 behind PgBouncer in transaction mode."
    )

    @property
    def reaches_server(self) -> str:
        """The address for what a pooler in transaction mode cannot do: LISTEN, and locks of a session."""
        return self.direct_url or self.url


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSettings:
    """Redis or Valkey, only needed by several GEKO instances."""

    url: str = setting(
        "",
        server_url("redis", "rediss", "unix"),
        "Redis for shared rate limits and cache invalidation; empty: none.",
        aliases=("REDIS_URL",),
        secret=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingSettings:
    """What is logged and how."""

    level: str = setting(
        "info", choice("debug", "info", "warning", "error"), "Least severe level that is logged."
    )
    format: str = setting("text", choice("text", "json"), "text for people, json for log collectors.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterSettings:
    """One [[filters]] entry. The options are checked by the filter's own Options class; they may hold secrets."""

    name: str
    enabled: bool = True
    failure: Literal["closed", "open"] | None = None  # None: as the filter itself declares
    timeout_ms: int | None = None
    options: dict[str, Any] = field(default_factory=dict, repr=False)


DEFAULT_FILTERS = (
    FilterSettings(name="rate_limit", options={"limit": 100, "window_s": 60}),
    FilterSettings(name="auth"),
    FilterSettings(name="tenant"),
    FilterSettings(name="workspace"),
    FilterSettings(name="quota", options={"allowance": 200, "step": 100}),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of GEKO's settings. Filters stand in the order in which requests pass them."""

    server: ServerSettings = field(default_factory=ServerSettings)
    librechat: LibreChatSettings = field(default_factory=LibreChatSettings)
    database: DatabaseSettings = field(default_factory=DatabaseSettings)
    redis: RedisSettings = field(default_factory=RedisSettings)
    auth: AuthSettings = field(default_factory=AuthSettings)
    mail: MailSettings = field(default_factory=MailSettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    metering: MeteringSettings = field(default_factory=MeteringSettings)
    llm: LlmSettings = field(default_factory=LlmSettings)
    llm_providers: tuple[LlmProviderSettings, ...] = ()
    prices: tuple[PriceSettings, ...] = ()
    oauth: tuple[OAuthProviderSettings, ...] = ()
    filters: tuple[FilterSettings, ...] = DEFAULT_FILTERS

    def require_secrets(self) -> None:
        """Raise ConfigError unless every secret that serving needs is there and strong (not used by the demo)."""
        problems = list(self._secret_problems())
        if problems:
            raise ConfigError(problems)

    def require_serving(self) -> None:
        """Raise ConfigError unless GEKO can serve with these settings: LibreChat's address and the secrets."""
        problems = [] if self.librechat.url else ["librechat.url: needed (LIBRECHAT_URL)"]
        problems += self._secret_problems()
        problems += self._account_problems()
        if problems:
            raise ConfigError(problems)

    def _account_problems(self) -> Iterator[str]:
        auth, mail = self.auth, self.mail
        if 2**auth.scrypt_log_n * auth.scrypt_r * auth.scrypt_p < MIN_SCRYPT_WORK:
            yield f"auth.scrypt_p: 2^scrypt_log_n * scrypt_r * scrypt_p must be {MIN_SCRYPT_WORK} at least"
        if "@" not in parseaddr(mail.sender)[1]:
            yield "mail.sender: expected an address like GEKO <geko@example.org>"
        if mail.transport != "smtp":
            return
        if not mail.smtp_host:
            yield "mail.smtp_host: needed by transport smtp"
        if not self.server.public_url:
            yield "server.public_url: needed by transport smtp, for the links in mails"
        if mail.smtp_password and mail.smtp_security == "none":
            yield "mail.smtp_security: a password must not be sent unencrypted; choose starttls or tls"
        if mail.smtp_ca_file and not Path(mail.smtp_ca_file).is_file():
            yield "mail.smtp_ca_file: there is no such file"

    def _secret_problems(self) -> Iterator[str]:
        needed = {
            "auth.encryption_secret": self.auth.encryption_secret,
            "librechat.shadow_secret": self.librechat.shadow_secret,
        }
        if self.auth.signing == "HS256" or self.auth.jwt_secret:
            needed["auth.jwt_secret"] = self.auth.jwt_secret
        if self.librechat.identity == "mint":
            needed["librechat.jwt_secret"] = self.librechat.jwt_secret
            if self.librechat.secure_images:
                needed["librechat.jwt_refresh_secret"] = self.librechat.jwt_refresh_secret
        if self.llm_providers:
            needed["llm.key"] = self.llm.key
        for name, value in needed.items():
            if fault := weakness(value):
                variable = environment_name(*name.split("."))
                yield f"{name}: {fault}; set {variable}, e.g. to what `openssl rand -hex 32` prints"
        values = [value for value in needed.values() if value]
        if len(set(values)) < len(values):
            yield f"{', '.join(needed)}: each must be different"


SECTIONS: dict[str, type[Any]] = {
    "server": ServerSettings,
    "librechat": LibreChatSettings,
    "database": DatabaseSettings,
    "redis": RedisSettings,
    "auth": AuthSettings,
    "mail": MailSettings,
    "alerts": AlertSettings,
    "logging": LoggingSettings,
    "metering": MeteringSettings,
    "llm": LlmSettings,
}


def section_fields(section: str) -> dict[str, tuple[Spec, Any]]:
    """List one section's keys, each with what is known of it and its default."""
    return {item.name: (_spec(item), item.default) for item in fields(SECTIONS[section])}


def environment_name(section: str, key: str) -> str:
    """Name the environment variable of a setting."""
    return f"GEKO_{section}_{key}".upper()


def _spec(item: Field[Any]) -> Spec:
    return cast(Spec, item.metadata["spec"])
