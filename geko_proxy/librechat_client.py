"""The calls that GEKO itself makes to LibreChat: accounts, jobs, messages, agents. JSON in, JSON out.

All are sent with a browser's User-Agent, or LibreChat takes them for illegal requests (contract §0.8), and only a JSON
reply is believed.
"""

from __future__ import annotations

from http.cookies import SimpleCookie
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from geko_proxy.errors import UpstreamError
from geko_proxy.headers import BROWSER_USER_AGENT
from geko_proxy.librechat_limits import LimitedCalls, Refusal
from geko_proxy.upstream import Upstream
from geko_proxy.upstream_connection import UpstreamReply

MAX_REPLY_BYTES = 32 * 1024 * 1024


class Answer(NamedTuple):
    """Status and decoded JSON of a reply (None where the body was not JSON)."""

    status: int
    value: Any
    refresh_token: str | None = None


class SignedIn(NamedTuple):
    """What LibreChat's login gives: bearer, the account, and the refresh cookie's value."""

    token: str
    user: dict[str, Any]
    refresh_token: str


class LibreChatClient:
    """Calls on LibreChat's API. Every method raises UpstreamError where no usable reply came."""

    def __init__(self, upstream: Upstream, stream_idle_timeout_ms: int = 0) -> None:
        self._upstream = upstream
        self._stream_idle_ms = stream_idle_timeout_ms
        self._limited = LimitedCalls()

    async def call(
        self,
        method: str,
        path: str,
        *,
        bearer: str | None = None,
        cookie: str | None = None,
        body: Any = None,
        timeout_ms: int | None = None,
    ) -> Answer:
        """Send one request; read the reply as JSON."""
        headers = [
            (b"user-agent", BROWSER_USER_AGENT.encode()),
            (b"accept", b"application/json"),
            (b"accept-encoding", b"identity"),
            (b"x-forwarded-for", b"127.0.0.1"),
        ]
        if bearer is not None:
            headers.append((b"authorization", b"Bearer " + bearer.encode()))
        if cookie is not None:
            headers.append((b"cookie", cookie.encode()))
        self._limited.check(method, path, bearer or "")
        content = None
        if body is not None:
            content = msgspec.json.encode(body)
            headers.append((b"content-type", b"application/json"))
        reply = await self._upstream.request(
            method, path, headers, content, timeout_ms=timeout_ms, control=True
        )
        raw = await reply.read(MAX_REPLY_BYTES)
        if reply.status in (200, 403, 429):
            retry_after = next(
                (value for name, value in reply.headers if name.lower() == b"retry-after"), None
            )
            self._limited.read(method, path, bearer or "", Refusal(reply.status, raw, retry_after))
        try:
            value = msgspec.json.decode(raw) if raw else None
        except msgspec.DecodeError:
            value = None
        return Answer(reply.status, value, _refresh_token(reply))

    async def is_ready(self) -> bool:
        """Whether LibreChat says that it can serve."""
        try:
            reply = await self._upstream.request("GET", "/readyz", timeout_ms=3000)
            await reply.read(65536)
        except UpstreamError:
            return False
        return reply.status == 200

    async def register(self, email: str, password: str, name: str) -> None:
        """Create an account. LibreChat answers alike for a new and a used e-mail: log in to know (contract §2.2)."""
        body = {"name": name, "email": email, "password": password, "confirm_password": password}
        answer = await self.call("POST", "/api/auth/register", body=body)
        if answer.status != 200:
            raise UpstreamError(f"LibreChat refused to create an account ({answer.status}: {answer.value})")

    async def login(self, email: str, password: str) -> SignedIn | None:
        """Sign in; None: LibreChat does not know this account or its password."""
        answer = await self.call("POST", "/api/auth/login", body={"email": email, "password": password})
        if answer.status == 404:
            return None
        return _signed_in(answer, "sign in")

    async def refresh(self, refresh_token: str) -> SignedIn | None:
        """Get a new bearer; None: the session is over."""
        answer = await self.call("POST", "/api/auth/refresh", cookie=f"refreshToken={refresh_token}")
        if answer.status in (401, 403) or not isinstance(answer.value, dict):
            return None
        return _signed_in(answer, "refresh")

    async def user(self, bearer: str) -> dict[str, Any]:
        """The account behind a bearer."""
        answer = await self.call("GET", "/api/user", bearer=bearer)
        if answer.status != 200 or not isinstance(answer.value, dict):
            raise UpstreamError(f"LibreChat does not know the account ({answer.status})")
        return answer.value

    async def job_status(self, bearer: str, conversation_id: str) -> dict[str, Any]:
        """State of the conversation's running answer; `{"active": False}` when there is none."""
        answer = await self.call(
            "GET", f"/api/agents/chat/status/{quote(conversation_id, safe='')}", bearer=bearer
        )
        if answer.status != 200 or not isinstance(answer.value, dict):
            return {"active": False}
        return answer.value

    async def abort(self, bearer: str, stream_id: str) -> bool:
        """Stop a running answer; True only when LibreChat says that it stopped exactly this one.

        The status is asked first: for an unknown id LibreChat stops another answer of the user (contract trap 18).
        """
        if not (await self.job_status(bearer, stream_id)).get("active"):
            return False
        answer = await self.call(
            "POST",
            "/api/agents/chat/abort",
            bearer=bearer,
            body={"streamId": stream_id, "conversationId": stream_id},
        )
        value = answer.value if isinstance(answer.value, dict) else {}
        return answer.status == 200 and value.get("success") is True and value.get("aborted") == stream_id

    async def open_stream(self, bearer: str, stream_id: str, *, resume: bool) -> UpstreamReply:
        """Subscribe to a running answer; the reply's body is the event stream if its status is 200."""
        headers = [
            (b"user-agent", BROWSER_USER_AGENT.encode()),
            (b"accept", b"text/event-stream"),
            (b"accept-encoding", b"identity"),
            (b"authorization", b"Bearer " + bearer.encode()),
            (b"x-forwarded-for", b"127.0.0.1"),
        ]
        target = f"/api/agents/chat/stream/{quote(stream_id, safe='')}" + ("?resume=true" if resume else "")
        return await self._upstream.request(
            "GET", target, headers, idle_timeout_ms=self._stream_idle_ms, control=True
        )

    async def messages(self, bearer: str, conversation_id: str) -> list[dict[str, Any]]:
        """The messages of a conversation, oldest first; empty when there are none."""
        answer = await self.call("GET", f"/api/messages/{quote(conversation_id, safe='')}", bearer=bearer)
        return answer.value if answer.status == 200 and isinstance(answer.value, list) else []

    async def has_conversation(self, bearer: str, conversation_id: str) -> bool:
        """Whether the account has this conversation."""
        path = f"/api/convos/{quote(conversation_id, safe='')}"
        answer = await self.call("GET", path, bearer=bearer)
        if answer.status not in (200, 404):
            raise UpstreamError(f"LibreChat gave no conversation ({answer.status})")
        return answer.status == 200 and isinstance(answer.value, dict)

    async def save_message(self, bearer: str, conversation_id: str, message: dict[str, Any]) -> bool:
        """Store a message as LibreChat's own client would; True when it was stored."""
        path = f"/api/messages/{quote(conversation_id, safe='')}"
        answer = await self.call("POST", path, bearer=bearer, body=message)
        return answer.status == 201

    async def agent(self, bearer: str, agent_id: str) -> dict[str, Any] | None:
        """An agent's whole document if the account may edit it, else its public part; None: not to be seen."""
        for path in (
            f"/api/agents/{quote(agent_id, safe='')}/expanded",
            f"/api/agents/{quote(agent_id, safe='')}",
        ):
            answer = await self.call("GET", path, bearer=bearer)
            if answer.status == 200 and isinstance(answer.value, dict):
                return answer.value
        return None

    async def models(self, bearer: str) -> dict[str, list[str]]:
        """The models of each endpoint, as LibreChat lists them for this account."""
        answer = await self.call("GET", "/api/models", bearer=bearer)
        if answer.status != 200 or not isinstance(answer.value, dict):
            raise UpstreamError(f"LibreChat gave no model list ({answer.status})")
        return {
            k: [m for m in v if isinstance(m, str)] for k, v in answer.value.items() if isinstance(v, list)
        }

    async def config(self, bearer: str) -> dict[str, Any]:
        """LibreChat's configuration for this account."""
        answer = await self.call("GET", "/api/config", bearer=bearer)
        if answer.status != 200 or not isinstance(answer.value, dict):
            raise UpstreamError(f"LibreChat gave no configuration ({answer.status})")
        return answer.value


def _signed_in(answer: Answer, what: str) -> SignedIn:
    value = answer.value
    if answer.status != 200 or not isinstance(value, dict) or not isinstance(value.get("token"), str):
        raise UpstreamError(f"LibreChat refused to {what} ({answer.status})")
    return SignedIn(value["token"], value.get("user") or {}, answer.refresh_token or "")


def _refresh_token(reply: UpstreamReply) -> str | None:
    for name, value in reply.headers:
        if name.lower() == b"set-cookie" and value.startswith(b"refreshToken="):
            return SimpleCookie(value.decode("latin-1"))["refreshToken"].value or None
    return None
