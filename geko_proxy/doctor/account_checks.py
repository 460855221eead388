"""What LibreChat lets an account of GEKO's do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

from geko_proxy.doctor.findings import MAKE_YAML, Finding, Level, env, geko, yaml
from geko_proxy.doctor.patient import Patient
from geko_proxy.doctor.probe import somebody
from geko_proxy.errors import UpstreamError

SHARING: Final = ("SHARE", "SHARE_PUBLIC")
# Kind and rights of the role USER that must be off, and the line of `interface:` that does it (contract §11, trap 8).
RIGHTS: Final = (
    ("MARKETPLACE", ("USE",), "  marketplace: {use: false}"),
    ("PEOPLE_PICKER", ("VIEW_USERS", "VIEW_GROUPS", "VIEW_ROLES"),
     "  peoplePicker: {users: false, groups: false, roles: false}"),
    ("AGENTS", SHARING, "  agents: {use: true, create: true, share: false, public: false}"),
    ("PROMPTS", SHARING, "  prompts: {use: true, create: true, share: false, public: false}"),
    ("SKILLS", SHARING, "  skills: {use: true, create: true, share: false, public: false}"),
    ("MCP_SERVERS", ("CREATE", *SHARING), "  mcpServers: {use: true, create: false, share: false, public: false}"),
    ("REMOTE_AGENTS", SHARING, "  remoteAgents: {share: false, public: false}"),
)  # fmt: skip
UNMETERED: Final = ("execute_code", "file_search", "ocr", "web_search")
ILLEGAL: Final = "python-requests/2.0"  # no browser (contract §0.8)


async def check_accounts(patient: Patient) -> AsyncIterator[Finding]:
    """Whether GEKO's service account is the administrator, and others are not. Signs the doctor in."""
    remedy = geko("librechat.shadow_secret, the one that the accounts were made with")
    service = await patient.sign_in(patient.passwords.service_email())
    own = await patient.sign_in(patient.own_email) if service is not None else None
    if service is None or own is None:
        why = "GEKO can't act for anybody"
        yield Finding("accounts", "LibreChat made no account that GEKO could sign in to", why, remedy)
        return
    if service.user.get("role") != "ADMIN":
        yield Finding(
            "first_account",
            "the first account ever made in LibreChat is not GEKO's",
            "it is the administrator of all workspaces' data",
            "delete LibreChat's database, and let GEKO be the first who reaches it",
            Level.WARNING,
        )
    if own.user.get("role") != "USER":
        why = "GEKO refuses to act as an administrator"
        yield Finding(
            "default_role", "new accounts in LibreChat are no users", why, "give them the role USER"
        )
    patient.bearer, patient.user_id = own.token, str(own.user.get("id") or own.user.get("_id"))


async def check_jwt_secret(patient: Patient) -> AsyncIterator[Finding]:
    """Whether LibreChat accepts what GEKO signs."""
    librechat = patient.settings.librechat
    if librechat.identity != "mint" or not librechat.jwt_secret:  # a missing one is a fault of the settings
        return
    bearer = await patient.minted().bearer(patient.own_shadow())
    if (await patient.probe.ask("GET", "/api/user", bearer=bearer)).status != 200:
        yield Finding(
            "jwt_secret",
            "librechat.jwt_secret is not LibreChat's JWT_SECRET",
            "nobody gets further than GEKO's sign-in",
            env("JWT_SECRET=<GEKO's librechat.jwt_secret>"),
        )


async def check_config(patient: Patient) -> AsyncIterator[Finding]:
    """GET /api/config of an account."""
    value = await patient.get("/api/config")
    shown: dict[str, Any] = value if isinstance(value, dict) else {}
    if shown.get("publicSharedLinksEnabled"):
        why = "shared conversations can be read without signing in"
        line = "ALLOW_SHARED_LINKS_PUBLIC=false"
        yield Finding("public_links", "LibreChat shows shared links to anybody", why, env(line))
    if shown.get("allowAccountDeletion") is False:
        line = "remove ALLOW_ACCOUNT_DELETION"
        why = "GEKO deletes people's data through it"
        yield Finding("account_deletion", "accounts in LibreChat can't be deleted", why, env(line))
    if shown.get("openidReuseTokens"):
        why = "cookies could then decide who somebody is"
        yield Finding(
            "openid_reuse", "LibreChat takes tokens of OpenID", why, env("OPENID_REUSE_TOKENS=false")
        )
    balance = shown.get("balance")
    if isinstance(balance, dict) and balance.get("enabled"):
        why = "it stops people by a count of its own, beside GEKO's limits"
        change = yaml("balance:", "  enabled: false")
        yield Finding("balance", "LibreChat keeps credits", why, change)


async def check_role(patient: Patient) -> AsyncIterator[Finding]:
    """What the role of all of GEKO's accounts may do."""
    value = await patient.get("/api/roles/USER")
    rights = value.get("permissions") if isinstance(value, dict) else None
    if not isinstance(rights, dict):
        change = "look at LibreChat's log"
        yield Finding(
            "role", "LibreChat does not tell what its users may do", "GEKO's page filters it", change
        )
        return
    for kind, names, line in RIGHTS:
        given = rights.get(kind)
        on = [name for name in names if isinstance(given, dict) and given.get(name)]
        if on:
            problem = f"LibreChat's users have {kind} {', '.join(on)}"
            why = "it reaches beyond a workspace, which LibreChat does not know"
            yield Finding(kind.lower(), problem, why, yaml("interface:", line))
    multiple = rights.get("MULTI_CONVO")
    if isinstance(multiple, dict) and multiple.get("USE"):
        why = "each message is answered and charged twice; GEKO checks both models"
        change = yaml("interface:", "  multiConvo: false")
        yield Finding("multi_convo", "a second model can answer beside the first", why, change, Level.WARNING)


async def check_compression(patient: Patient) -> AsyncIterator[Finding]:
    """Whether replies of some size come compressed to who takes it."""
    seen = await patient.probe.ask("GET", "/api/models", bearer=patient.bearer, accept_encoding="gzip")
    if seen.headers.get("content-encoding", "identity") != "identity":
        yield Finding(
            "compression",
            "LibreChat compresses its replies",
            "streams of the Agents API come in one lump then",
            env("DISABLE_COMPRESSION=true"),
        )


async def check_ban(patient: Patient) -> AsyncIterator[Finding]:
    """Whether LibreChat bans: one request like a program's, of the doctor's account and of nobody's address."""
    address = somebody()
    path = "/api/agents?requiredPermission=1"
    await patient.probe.ask("GET", path, bearer=patient.bearer, address=address, user_agent=ILLEGAL)
    seen = await patient.probe.ask("GET", path, bearer=patient.bearer, address=address)
    if seen.status == 403 and "banned" in str(seen.value):
        yield Finding(
            "ban",
            "LibreChat bans accounts and addresses",
            "a ban hits the address too, and so GEKO and everybody behind it",
            env("BAN_VIOLATIONS=false"),
        )


async def check_endpoints(patient: Patient) -> AsyncIterator[Finding]:
    """Whether LibreChat serves GEKO's providers, and nothing beside them."""
    value = await patient.get("/api/endpoints")
    if not isinstance(value, dict):
        raise UpstreamError("LibreChat gave no list of endpoints")
    agents = value.get("agents")
    offered = agents.get("capabilities") if isinstance(agents, dict) else None
    unmetered = [name for name in UNMETERED if isinstance(offered, list) and name in offered]
    if unmetered:
        why = "they call services of others, which GEKO does not see"
        change = yaml(
            "endpoints:", "  agents:", "    capabilities: ['artifacts', 'chain', 'context', 'tools']"
        )
        problem = f"agents may use {', '.join(unmetered)}"
        yield Finding("capabilities", problem, why, change, Level.WARNING)
    if patient.settings.llm_providers:
        for finding in _providers(patient, value):
            yield finding


def _providers(patient: Patient, shown: dict[str, Any]) -> Iterator[Finding]:
    from geko_proxy.llm.hidden import TITLE, hidden_name, hidden_names

    names = [each.name for each in patient.settings.llm_providers]
    for name in names:
        if name not in shown:
            why = "its models can't be used"
            yield Finding("endpoint_missing", f"LibreChat has no endpoint {name!r}", why, MAKE_YAML)
        elif hidden_name(name, TITLE) not in shown:
            problem = f"LibreChat has no endpoint {hidden_name(name, TITLE)!r}"
            why = "the titles of its conversations count as chat in reports"
            yield Finding("title_endpoint_missing", problem, why, MAKE_YAML, Level.WARNING)
    for name in sorted(shown.keys() - {"agents", *names, *hidden_names(names)}):
        yield Finding(
            "foreign_endpoint",
            f"LibreChat serves {name!r}, which is no provider of GEKO's",
            "its calls go around GEKO: titles and memory are not metered, nor is the model checked",
            f"{env('ENDPOINTS=custom,agents')}\nand {MAKE_YAML}",
        )
