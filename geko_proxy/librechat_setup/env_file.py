"""The lines of LibreChat's .env that it needs behind GEKO, each with its reason (contract §11)."""

from __future__ import annotations

from typing import Final, NamedTuple

from geko_proxy.librechat_setup.plan import Plan

HEAD: Final = """\
# LibreChat's environment behind GEKO, made by `geko librechat-config --env`: append it to LibreChat's .env.
# LibreChat must be reachable by GEKO alone: whoever reaches it can make an account.
"""
EMPTY: Final = "openssl rand -hex 32"


class Line(NamedTuple):
    """One variable; value None: it is commented out, and `why` says what to put there."""

    name: str
    value: str | None
    why: str


# In order; what does not depend on GEKO's settings. LOGIN_MAX and others: all of GEKO's own sign-ins have one address.
FIXED: Final = (
    Line("TRUST_PROXY", "1", "GEKO sets X-Forwarded-For to the client's address"),
    Line("ALLOW_EMAIL_LOGIN", "true", "GEKO signs in by e-mail and password once"),
    Line("ALLOW_REGISTRATION", "true", "GEKO makes one account per person and workspace"),
    Line("ALLOW_SOCIAL_LOGIN", "false", "people sign in at GEKO"),
    Line("ALLOW_SOCIAL_REGISTRATION", "false", "people sign in at GEKO"),
    Line("ALLOW_PASSWORD_RESET", "false", "people reset passwords at GEKO"),
    Line("ALLOW_UNVERIFIED_EMAIL_LOGIN", "true", "the accounts have no mailbox"),
    Line("BAN_VIOLATIONS", "false", "a ban would hit GEKO's address, and so everybody"),
    Line("LIMIT_MESSAGE_IP", "false", "GEKO limits"),
    Line("LIMIT_MESSAGE_USER", "false", "GEKO limits"),
    Line("LIMIT_CONCURRENT_MESSAGES", "false", "GEKO limits"),
    Line("LOGIN_MAX", "100000", "all of GEKO's own sign-ins come from one address"),
    Line("LOGIN_WINDOW", "5", "minutes"),
    Line("REGISTER_MAX", "100000", "so many people can come for the first time in …"),
    Line("REGISTER_WINDOW", "60", "minutes"),
    Line("ALLOW_SHARED_LINKS", "true", "GEKO keeps them in their tenant"),
    Line("ALLOW_SHARED_LINKS_PUBLIC", "false", "nobody sees them without signing in"),
    Line("DISABLE_COMPRESSION", "true", "GEKO filters replies; compress in front of it"),
    Line("STREAM_KEEP_COMPLETED_JOBS", "true", "late readers still get the end of an answer"),
    Line("ENDPOINTS", "custom,agents", "no endpoint that GEKO does not meter"),
)


def write_env(plan: Plan, *, with_secrets: bool) -> str:
    """The lines. with_secrets: fill in what GEKO and LibreChat share, for a file that only its owner may read."""
    return HEAD + "".join(_text(line) for line in lines(plan, with_secrets=with_secrets))


def lines(plan: Plan, *, with_secrets: bool) -> list[Line]:
    """All variables: secrets first, then addresses, then switches."""
    librechat, llm = plan.settings.librechat, plan.settings.llm

    def shared(name: str, value: str, setting: str) -> Line:
        return Line(name, value if with_secrets and value else None, f"the value of GEKO's {setting}")

    public = plan.settings.server.public_url or None
    address = "GEKO's public address" + ("" if public else ", server.public_url")
    found = [
        shared("JWT_SECRET", librechat.jwt_secret, "librechat.jwt_secret"),
        shared("JWT_REFRESH_SECRET", librechat.jwt_refresh_secret, "librechat.jwt_refresh_secret"),
        Line("CREDS_KEY", None, f"what `{EMPTY}` prints; never change it again"),
        Line("CREDS_IV", None, "what `openssl rand -hex 16` prints; never change it again"),
        Line("DOMAIN_CLIENT", public, address),
        Line("DOMAIN_SERVER", public, address),
        *FIXED,
    ]
    if plan.providers:
        found.insert(2, shared("GEKO_LLM_KEY", llm.key, "llm.key; librechat.yaml names it"))
    else:
        found.insert(2, Line("OPENAI_API_KEY", None, "the key of your model provider"))
    return found


def _text(line: Line) -> str:
    if line.value is None:
        return f"\n# {line.why}\n# {line.name}=\n"
    return f"\n# {line.why}\n{line.name}={line.value}\n"
