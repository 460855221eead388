"""The settings for people: accounts, tokens, passwords, and the mail and alerts that go to them."""

from __future__ import annotations

from dataclasses import dataclass

from geko_proxy.config.declare import setting
from geko_proxy.config.kinds import (
    Network,
    choice,
    flag,
    integer,
    networks,
    number,
    text,
    word,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSettings:
    """GEKO's own accounts and tokens."""

    signing: str = setting(
        "HS256",
        word("HS256", "EdDSA", "RS256"),
        "How access tokens are signed: HS256 with jwt_secret; EdDSA or RS256 with keys that others can verify by.",
    )
    jwt_secret: str = setting(
        "",
        text(),
        "Key that signs access tokens by HS256; if it is set beside another signing, its tokens are still accepted.",
        secret=True,
    )
    signing_keys: str = setting(
        "",
        text("the path of a folder with PEM files, or of one"),
        "Keys for EdDSA or RS256; empty: GEKO makes them and keeps them, encrypted, in the database.",
    )
    signing_key_rotation_days: int = setting(
        90, integer(0, 3650), "Age at which a key in the database is replaced; 0: only by `geko keys rotate`."
    )
    encryption_secret: str = setting(
        "", text(), "Key that encrypts what GEKO keeps for others: providers' tokens, TOTP keys.", secret=True
    )
    issuer: str = setting("geko", text(), "The iss claim of access tokens.")
    audience: str = setting("geko", text(), "The aud claim of access tokens.")
    access_token_ttl_s: int = setting(
        900,
        integer(180, 86_400),
        "Life of an access token; LibreChat's client renews it 120 s before its end.",
    )
    refresh_token_ttl_s: int = setting(604_800, integer(3600), "Life of a session without use.")
    session_max_ttl_s: int = setting(
        2_592_000, integer(3600), "Life of a session, however much it is used; then one signs in again."
    )
    refresh_grace_s: int = setting(
        30, integer(0, 600), "How long the previous refresh token still works, for tabs that renew at once."
    )
    registration: bool = setting(True, flag(), "Anybody may register and gets a tenant.")
    default_token_limit: int = setting(
        1_000_000, integer(0), "Tokens a month of a new tenant's first workspace; 0: unlimited."
    )
    password_min_length: int = setting(8, integer(8, 64), "Shortest new password.")
    scrypt_log_n: int = setting(
        15, integer(13, 18), "Cost of a password hash: 2 to this power blocks of 128 * scrypt_r bytes."
    )
    scrypt_r: int = setting(8, integer(8, 32), "Size of these blocks.")
    scrypt_p: int = setting(
        3, integer(1, 64), "How often it is done; 2^log_n * r * p must be 655360 at least (OWASP)."
    )
    password_workers: int = setting(
        0, integer(0, 256), "Threads that hash passwords; 0: half of the cores, at least one."
    )
    password_queue: int = setting(
        16, integer(1, 10_000), "Sign-ins that may wait for such a thread; one more gets 503 and Retry-After."
    )
    password_cpu_share: float = setting(
        0.25, number(0.01, 256), "Cores that hashing passwords may use on average; short bursts are free."
    )
    password_reset_ttl_s: int = setting(3600, integer(300, 86_400), "Life of a link to set a new password.")


@dataclass(frozen=True, slots=True, kw_only=True)
class MailSettings:
    """How GEKO sends mail: links to set a password, to confirm an address, and invitations."""

    transport: str = setting(
        "off",
        choice("off", "smtp", "folder"),
        "off: GEKO sends no mail; smtp: over a mail server; folder: into server.home/mail and the log, to develop.",
    )
    sender: str = setting("GEKO <geko@localhost>", text(), "The From address.")
    smtp_host: str = setting("", text(), "Mail server; needed by smtp.")
    smtp_port: int = setting(587, integer(1, 65535), "Its port.")
    smtp_security: str = setting(
        "starttls",
        choice("starttls", "tls", "none"),
        "How the connection is encrypted; none only on one machine.",
    )
    smtp_username: str = setting("", text(), "Account on the mail server; empty: none.")
    smtp_password: str = setting("", text(), "Its password.", secret=True)
    smtp_ca_file: str = setting(
        "", text("the path of a PEM file"), "Certificate authority of the mail server; empty: the system's."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSettings:
    """How alerts are delivered to the webhooks that admins set up (docs/alerts.md)."""

    allowed_networks: tuple[Network, ...] = setting(
        (),
        networks(),
        "Networks of one's own that webhooks may reach; all that isn't public is refused otherwise.",
    )
    webhook_timeout_ms: int = setting(
        10_000, integer(100, 60_000), "Time for one attempt, from the connection to the end of the reply."
    )
