"""What LibreChat shows to anybody who can reach it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Final

from geko_proxy.doctor.findings import Finding, Level, env, geko, yaml
from geko_proxy.doctor.patient import Patient
from geko_proxy.doctor.probe import somebody

COMMIT: Final = "9e74cc0e57b395926122bd4062c1fcedc48ed465"  # v0.8.7
ENOUGH: Final = 1000  # sign-ins or accounts in one window

OWN_LOGIN: Final = "people sign in at GEKO; whoever signs in here goes around workspaces and quotas"
# Key of GET /api/config, what it must be, and the finding when it is not (contract §5, §11).
SWITCHES: Final = (
    ("registrationEnabled", True, "registration", "accounts can't be made", "ALLOW_REGISTRATION=true",
     "GEKO makes one account per person and workspace"),
    ("emailLoginEnabled", True, "email_login", "signing in by e-mail is off", "ALLOW_EMAIL_LOGIN=true",
     "GEKO signs in so after making an account"),
    ("socialLoginEnabled", False, "social_login", "signing in by identity providers is on", "ALLOW_SOCIAL_LOGIN=false",
     OWN_LOGIN),
    ("openidAutoRedirect", False, "openid_redirect", "its page goes to an identity provider by itself",
     "OPENID_AUTO_REDIRECT=false", OWN_LOGIN),
    ("passwordResetEnabled", False, "password_reset", "passwords can be reset", "ALLOW_PASSWORD_RESET=false",
     "it would give out links for GEKO's accounts"),
    ("emailEnabled", False, "mail", "it sends mail", "remove EMAIL_SERVICE, EMAIL_HOST and the other EMAIL_ lines",
     "its accounts have no mailbox; mail for each of them bounces"),
)  # fmt: skip


async def check_config(patient: Patient) -> AsyncIterator[Finding]:
    """GET /api/config of nobody."""
    for key, wanted, code, problem, line, why in SWITCHES:
        if bool(patient.config.get(key)) is not wanted:
            yield Finding(code, f"LibreChat: {problem}", why, env(line))
    ldap = patient.config.get("ldap")
    if isinstance(ldap, dict) and ldap.get("enabled"):
        yield Finding("ldap", "LibreChat: signing in by LDAP is on", OWN_LOGIN, env("remove LDAP_URL"))
    for finding in _address(patient):
        yield finding


def _address(patient: Patient) -> Iterator[Finding]:
    public, shown = patient.settings.server.public_url, patient.config.get("serverDomain")
    if public and shown != public:
        problem = f"LibreChat says that it is reached at {shown!r}, not {public!r}"
        change = env(f"DOMAIN_CLIENT={public}\nDOMAIN_SERVER={public}")
        yield Finding("server_domain", problem, "links, and the way back from OAuth of MCP servers", change)


async def check_version(patient: Patient) -> AsyncIterator[Finding]:
    """Whether it is the release that GEKO was made for; one that says nothing is taken for it."""
    info = patient.config.get("buildInfo")
    commit = info.get("commit") if isinstance(info, dict) else None
    if isinstance(commit, str) and commit and not COMMIT.startswith(commit[:40]):
        yield Finding(
            "version",
            f"LibreChat is of commit {commit[:12]}, not v0.8.7 ({COMMIT[:7]})",
            "new versions have new routes, which GEKO refuses, and may change others",
            "run the image librechat/librechat:v0.8.7",
            Level.WARNING,
        )


async def check_limits(patient: Patient) -> AsyncIterator[Finding]:
    """How often GEKO may sign in and make accounts: said with each reply to such a request."""
    nobody = {"email": "nobody", "password": "x"}  # refused for its form, after it was counted
    for what, path in (("login", "/api/auth/login"), ("register", "/api/auth/register")):
        seen = await patient.probe.ask("POST", path, body=nobody, address=somebody())
        allowed = seen.number("x-ratelimit-limit")
        if allowed is not None and allowed < ENOUGH:
            name = f"{what.upper()}_MAX"
            problem = f"LibreChat allows {allowed} {what} requests of one address in its window"
            why = "all of GEKO's own come from one address: people who come for the first time would be kept out"
            yield Finding(f"{what}_max", problem, why, env(f"{name}=100000"))


async def check_proxy(patient: Patient) -> AsyncIterator[Finding]:
    """Whose address LibreChat believes, as its limiter of sign-ins counts: the last of X-Forwarded-For."""
    first, second = somebody(), somebody()

    async def left(*hops: str) -> int | None:
        nobody = {"email": "nobody", "password": secrets.token_hex(4)}
        seen = await patient.probe.ask("POST", "/api/auth/login", body=nobody, address=", ".join(hops))
        return seen.number("x-ratelimit-remaining")

    before, same = await left(somebody(), first), await left(somebody(), first)
    other = await left(first, second)
    if before is None or same is None or other is None:
        return
    if same != before - 1 or other != before:
        yield Finding(
            "trust_proxy",
            "LibreChat does not take the last address of X-Forwarded-For for the client's",
            "its limits and bans then hit everybody at once, or clients choose their address",
            env("TRUST_PROXY=1"),
        )


async def check_domains(patient: Patient) -> AsyncIterator[Finding]:
    """Whether addresses of other domains get an account: tried with one, which is deleted again."""
    email = f"doctor@other-{patient.settings.librechat.shadow_email_domain}"
    password = patient.passwords.of(email)
    body = {"name": "GEKO doctor", "email": email, "password": password, "confirm_password": password}
    seen = await patient.probe.ask("POST", "/api/auth/register", body=body, address=somebody())
    if seen.status != 200:
        return
    signed_in = await patient.client.login(email, password)
    if signed_in is not None:
        await patient.client.call("DELETE", "/api/user/delete", bearer=signed_in.token)
    domain = patient.settings.librechat.shadow_email_domain
    yield Finding(
        "allowed_domains",
        "LibreChat makes accounts for any e-mail address",
        "whoever reaches it around GEKO gets an account that nobody limits",
        yaml("registration:", f"  allowedDomains: ['{domain}']"),
    )


async def check_images(patient: Patient) -> AsyncIterator[Finding]:
    """Whether pictures need the cookie (secureImageLinks), and whether GEKO's is accepted (contract §2.6)."""
    path = f"/images/{patient.user_id}/doctor.png"
    closed = (await patient.probe.ask("GET", path)).status in (401, 403)
    wanted = patient.settings.librechat.secure_images
    if not closed:
        yield Finding(
            "secure_images" if wanted else "open_images",
            "LibreChat shows pictures to anybody with the link",
            "pictures of all workspaces, as soon as a link leaks",
            yaml("secureImageLinks: true")
            + ("" if wanted else "\nand " + geko("librechat.secure_images = true")),
            Level.FAULT if wanted else Level.WARNING,
        )
    elif not wanted:
        change = geko("librechat.secure_images = true")
        yield Finding(
            "secure_images_off", "GEKO asks for pictures without a cookie", "none would be shown", change
        )
    elif patient.settings.librechat.identity == "mint" and patient.settings.librechat.jwt_refresh_secret:
        cookie = await patient.minted().refresh_cookie(patient.own_shadow())
        seen = await patient.probe.ask("GET", path, cookie=f"refreshToken={cookie}")
        if seen.status in (401, 403):
            yield Finding(
                "jwt_refresh_secret",
                "librechat.jwt_refresh_secret is not LibreChat's JWT_REFRESH_SECRET",
                "no picture would be shown",
                env("JWT_REFRESH_SECRET=<GEKO's librechat.jwt_refresh_secret>"),
            )
