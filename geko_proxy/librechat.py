"""What LibreChat v0.8.7 serves, as one literal table, and the error shapes its own client understands.

Every request is classified once, here. What is not in the table under /api is refused (contract §1: each release
of LibreChat adds routes). Row names (`operation`) are what filters look at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from geko_proxy.errors import Refused
from geko_proxy.exchange import Reply, Route
from geko_proxy.routing import Match, RouteTable

if TYPE_CHECKING:
    from geko_proxy.workspaces.access import AccessRule


class Rule(NamedTuple):
    """How a request is treated: its kind, its name for filters, and whether its body is an upload.

    Every route of /v1 also declares who may call it (`access`), and for the API's document the msgspec Structs of its
    body and of its reply (None: it has none), the status of success, and the media types of the reply.
    """

    route: Route
    operation: str
    upload: bool = False
    access: AccessRule | None = None
    body: type[Any] | None = None
    reply: type[Any] | None = None
    status: int = 200
    media: tuple[str, ...] = ("application/json",)
    created: type[Any] | None = None  # the reply of a 201 beside that of the 200


def _rows(route: Route, *rows: str, upload: bool = False) -> list[tuple[str, str, Rule]]:
    """Each row: "METHODS /path name"; without a name it is called after its path."""
    parsed = []
    for row in rows:
        methods, path, *name = row.split()
        parsed.append((methods, path, Rule(route, name[0] if name else path.removeprefix("/api/"), upload)))
    return parsed


ROWS: list[tuple[str, str, Rule]] = [
    # 1.1 auth and account
    *_rows(
        Route.PUBLIC,
        "POST /api/auth/login librechat.login",
        "POST /api/auth/register librechat.register",
        "POST /api/auth/refresh librechat.refresh",
        "POST /api/auth/logout librechat.logout",
        "POST /api/auth/requestPasswordReset librechat.forgot_password",
        "POST /api/auth/resetPassword librechat.reset_password",
        "POST /api/auth/2fa/verify-temp librechat.2fa.login",
        "GET /health health",
        "GET /oauth/google librechat.oauth",
        "GET /oauth/github librechat.oauth",
        "GET /oauth/openid librechat.oauth",
    ),
    *_rows(
        Route.OWN,
        "GET /api/balance librechat.balance",
        "GET /api/keys librechat.keys",
        "POST /api/auth/2fa/enable librechat.2fa.enable",
        "POST /api/auth/2fa/verify librechat.2fa.verify",
        "POST /api/auth/2fa/confirm librechat.2fa.confirm",
        "POST /api/auth/2fa/disable librechat.2fa.disable",
        "POST /api/auth/2fa/backup/regenerate librechat.2fa.codes",
    ),
    *_rows(
        Route.API,
        "GET /api/user/terms",
        "POST /api/user/terms/accept",
        "POST /api/user/settings/favorites favorites.write",
        "GET,POST /api/user/settings/skills/active",
        "POST /api/user/plugins user.plugins",
        "GET /api/banner",
        "GET /api/categories",
        "GET /api/search/enable",
        "POST /api/endpoints/context-projection context_projection",
    ),
    *_rows(
        Route.BLOCKED,
        "POST /api/auth/2fa/{action*}",
        "GET /api/auth/graph-token",
        "POST /api/auth/cloudfront/refresh",
        "DELETE /api/user/delete",
        "POST /api/user/verify",
        "POST /api/user/verify/resend",
        "* /api/admin/{rest*}",
        "* /api/rum/{rest*}",
        "PUT,DELETE,POST /api/keys",
        "* /api/keys/{name*}",
        "* /api/api-keys",
        "* /api/api-keys/{id*}",
        "PUT,PATCH,POST,DELETE /api/roles/{rest*}",
        "* /api/assistants/{rest*}",
        "GET /livez",
        "GET /oauth/{provider}/callback",
        "GET /oauth/facebook",
        "GET /oauth/discord",
        "GET /oauth/apple",
        "* /oauth/saml",
    ),
    # 1.2 configuration and discovery
    *_rows(
        Route.DISCOVERY,
        "GET /api/user user",
        "GET /api/config config",
        "GET /api/endpoints endpoints",
        "GET /api/endpoints/token-config token_config",
        "GET /api/models models",
        "GET /api/roles/{roleName} role",
        "GET /api/agents agents.list",
        "GET /api/agents/{id} agents.get",
        "GET /api/agents/{id}/expanded agents.expanded",
        "GET /api/mcp/servers mcp.servers",
        "GET /api/mcp/tools mcp.tools",
        "GET /api/mcp/connection/status mcp.status",
        "GET /api/presets presets",
        "GET /api/agents/tools agents.tools",
        "GET /api/user/settings/favorites favorites",
    ),
    # 1.3 chat, conversations, messages
    *_rows(
        Route.CHAT,
        "POST /api/agents/chat chat",
        "POST /api/agents/chat/{endpoint} chat",
    ),
    *_rows(Route.STREAM, "GET /api/agents/chat/stream/{streamId} chat.stream"),
    *_rows(
        Route.CONTROL,
        "GET /api/agents/chat/status/{conversationId} chat.status",
        "GET /api/agents/chat/active chat.active",
        "POST /api/agents/chat/abort chat.abort",
    ),
    *_rows(
        Route.BLOCKED,
        "* /api/agents/chat/resume",
        "* /api/agents/chat/steer",
        "* /api/agents/chat/steer/{rest*}",
        "POST /api/messages/{conversationId} messages.write",
    ),
    *_rows(
        Route.API,
        "GET /api/convos",
        "GET /api/convos/{conversationId} convo",
        "GET /api/convos/gen_title/{conversationId}",
        "DELETE /api/convos convos.delete",
        "DELETE /api/convos/all",
        "POST /api/convos/archive",
        "POST /api/convos/pin",
        "POST /api/convos/update",
        "POST /api/convos/fork",
        "POST /api/convos/duplicate",
        "GET /api/messages",
        "GET /api/messages/{conversationId}",
        "GET /api/messages/{conversationId}/{messageId}",
        "PUT,DELETE /api/messages/{conversationId}/{messageId} message.edit",
        "PUT /api/messages/{conversationId}/{messageId}/feedback",
        "POST /api/messages/branch",
        "POST /api/messages/artifact/{messageId}",
        "GET,POST /api/tags tags",
        "PUT,DELETE /api/tags/{tag}",
        "PUT /api/tags/convo/{conversationId}",
        "GET,POST /api/projects projects",
        "GET,PUT,PATCH,DELETE /api/projects/{id*}",
        "POST /api/presets presets.write",
        "POST /api/presets/delete",
        "GET /api/share shares",
        "GET /api/share/link/{conversationId} shares.of_conversation",
        "POST /api/share/{conversationId} shares.create",
        "PATCH,DELETE /api/share/{shareId} shares.write",
        "GET /api/share/{shareId} shares.read",
        "GET /api/share/{shareId}/config shares.read",
        "GET /api/share/{shareId}/files/{file*} shares.read",
    ),
    *_rows(Route.API, "POST /api/convos/import convos.import", upload=True),
    # 1.4 agents, prompts, skills, memory, MCP
    *_rows(
        Route.API,
        "POST /api/agents agents.write",
        "PATCH /api/agents/{id} agents.write",
        "DELETE /api/agents/{id} agents.delete",
        "POST /api/agents/{id}/duplicate agents.duplicate",
        "POST /api/agents/{id}/revert agents.revert",
        "GET /api/agents/tools/calls",
        "GET /api/agents/tools/{toolId}/auth",
        "POST /api/agents/tools/{toolId}/call tools.call",
        "GET /api/agents/categories",
        "GET /api/prompts",
        "GET /api/prompts/all",
        "GET /api/prompts/groups",
        "POST /api/prompts",
        "POST /api/prompts/groups/{id}/{rest*}",
        "GET,PATCH,DELETE /api/prompts/groups/{id}",
        "GET,PATCH,DELETE /api/prompts/{id}",
        "PATCH /api/prompts/{id}/{rest*}",
        "GET,POST /api/skills",
        "GET,POST,PATCH,PUT,DELETE /api/skills/{rest*}",
        "GET,POST /api/memories",
        "PATCH,DELETE /api/memories/{key}",
        "GET /api/permissions/{type}/effective/all",
        "GET /api/permissions/{type}/{id}",
        "GET /api/permissions/{type}/{id}/effective",
        "PUT /api/permissions/{type}/{id} permissions.write",
        "GET /api/mcp/connection/status/{name} mcp.use",
        "POST /api/mcp/{name}/reinitialize mcp.use",
        "GET /api/mcp/{name}/auth-values mcp.use",
        "POST /api/mcp/{name}/oauth/bind mcp.use",
        "GET /api/mcp/{name}/oauth/initiate mcp.use",
        "POST /api/mcp/oauth/cancel/{name} mcp.use",
        "GET /api/mcp/oauth/status/{flow}",
        "POST /api/actions/{id}/oauth/bind",
    ),
    *_rows(Route.API, "POST /api/agents/{id}/avatar agents.avatar", upload=True),
    *_rows(
        Route.BLOCKED,
        "* /api/agents/actions",
        "* /api/agents/actions/{rest*}",
        "GET /api/permissions/search-principals",
        "POST,PATCH,PUT,DELETE /api/mcp/servers",
        "GET,POST,PATCH,PUT,DELETE /api/mcp/servers/{name*}",
        "GET /api/mcp/oauth/tokens/{flow}",
    ),
    *_rows(
        Route.ASSET,  # browser redirects from identity providers; LibreChat checks state and its own cookie
        "GET /api/mcp/{name}/oauth/callback mcp.callback",
        "GET /api/actions/{id}/oauth/callback actions.callback",
    ),
    # 6 remote Agents API
    *_rows(Route.AGENTS_API, "* /api/agents/v1/{rest*} agents_api"),
    # 1.5 files, speech, static
    *_rows(
        Route.API,
        "GET /api/files",
        "DELETE /api/files files.delete",
        "GET /api/files/config",
        "GET /api/files/agent/{id}",
        "GET /api/files/download/{userId}/{fileId}",
        "GET /api/files/download-url/{userId}/{fileId}",
        "GET /api/files/{fileId}/preview",
        "GET /api/files/code/download/{session}/{file}",
        "GET /api/files/speech/config/get",
        "GET /api/files/speech/tts/voices",
        "POST /api/files/speech/tts/manual speech",
    ),
    *_rows(
        Route.API,
        "POST /api/files files.upload",
        "POST /api/files/images files.upload",
        "POST /api/files/images/avatar files.avatar",
        "POST /api/files/images/agents/{id}/avatar files.avatar",
        "POST /api/files/speech/stt speech",
        "POST /api/files/speech/tts speech",
        upload=True,
    ),
    *_rows(Route.MEDIA, "GET /images/{userId}/{file*} images"),
]

_PASSED = Rule(Route.API, "unknown")
_UNKNOWN = Rule(Route.BLOCKED, "unknown")
_ASSET = Rule(Route.ASSET, "asset")


class Classifier:
    """Finds the rule of a request: GEKO's own routes first, then LibreChat's."""

    def __init__(self, own: list[tuple[str, str, Rule]], *, pass_unknown: bool = False) -> None:
        self._table = RouteTable([*ROWS, *(row for row in own if row not in ROWS)])
        self._unknown = _PASSED if pass_unknown else _UNKNOWN

    def classify(self, method: str, path: str) -> Match[Rule]:
        """The rule for a normalised path; a rule is always found."""
        found = self._table.match(method, path)
        if found is not None:
            return found
        first = path[1:].partition("/")[0].lower()
        if first == "api":
            return Match(self._unknown, {})
        if first in ("v1", "geko", "metrics", "readyz", "healthz", "oauth", "images"):
            is_page = first == "oauth" and path.lower() in ("/oauth/success", "/oauth/error")
            return Match(_ASSET if is_page and method in ("GET", "HEAD") else _UNKNOWN, {})
        return Match(_ASSET if method in ("GET", "HEAD") else _UNKNOWN, {})

    def methods(self, path: str) -> set[str]:
        """The methods that GEKO serves under a path."""
        return self._table.methods(path)


def error_reply(exchange_id: str, path: str, route: Route, refused: Refused) -> Reply:
    """A refusal in the shape that the caller of this path understands (contract §7; design §1)."""
    first = path[1:].partition("/")[0].lower()
    if route is Route.AGENTS_API:
        body: dict[str, Any] = {"error": _openai_error(refused)}
    elif first in ("v1", "geko", "healthz", "readyz", "metrics"):
        body = {"error": {"code": refused.code, "message": refused.message, "requestId": exchange_id}}
        if refused.details:
            body["error"]["details"] = refused.details
    elif route is Route.CHAT:
        # the error bubble shows `info` of this type verbatim
        shown = refused.librechat or {"type": "google_error", "info": refused.message}
        body = {**shown, "message": refused.message}
    else:
        body = dict(refused.librechat or {"message": refused.message})
    reply = Reply.of_json(refused.status, body, refused.headers)
    if refused.retry_after_s is not None:
        reply.headers["Retry-After"] = str(max(1, refused.retry_after_s))
    reply.headers["Cache-Control"] = "no-store"
    return reply


def _openai_error(refused: Refused) -> dict[str, Any]:
    kinds = {401: "invalid_request_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(refused.status, "invalid_request_error" if refused.status < 500 else "server_error")
    return {"message": refused.message, "type": kind, "code": refused.code}


def concurrent_refusal() -> Refused:
    """A second message into a conversation whose answer is still running (contract §4.3)."""
    shown = {"type": "concurrent", "limit": 1, "pendingRequests": 1}
    message = "An answer is still running in this conversation."
    return Refused(409, "answer_running", message, librechat=shown, retry_after_s=1)


CUT_CODE: Final = "gekoCode"


def error_part(info: str, code: str = "") -> dict[str, str]:
    """The content part that LibreChat's client shows as a red box with free text (contract §4.8).

    code: for GEKO's own API, under a name of its own: a `code` would win over the type in LibreChat's client, and it
    would show the JSON (contract §7.3).
    """
    extra = {CUT_CODE: code} if code else {}
    inner = msgspec.json.encode({"type": "google_error", "info": info, **extra}).decode()
    return {"type": "error", "error": inner}


def refusal_in_event_text(body: bytes) -> str | None:
    """The reason in a chat POST's 200 reply that is SSE text instead of JSON (contract §7.2); None: it is not one.

    Its own client would wait for ever on such a reply.
    """
    if not body.startswith(b"event:"):
        return None
    for line in body.split(b"\n"):
        if not line.startswith(b"data:"):
            continue
        try:
            data = msgspec.json.decode(line[5:])
        except msgspec.DecodeError:
            continue
        if isinstance(data, dict) and "created" not in data:
            for key in ("message", "text", "error", "type"):
                if isinstance(data.get(key), str):
                    return str(data[key])
    return "LibreChat refused the message."
