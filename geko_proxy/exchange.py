"""One request and its reply on their way through the proxy, with the facts that filters learn about them."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from multidict import CIMultiDict, CIMultiDictProxy

from geko_proxy.errors import Refused, UpstreamError

if TYPE_CHECKING:
    from uuid import UUID

    from geko_proxy.accounts.api_keys import ApiKey
    from geko_proxy.accounts.tokens import Identity
    from geko_proxy.peers.hop import Hop
    from geko_proxy.workspaces.config import WorkspaceConfig
    from geko_proxy.workspaces.roles import Role
    from geko_proxy.workspaces.tenants import Tenant
    from geko_proxy.workspaces.workspaces import Workspace


class Route(enum.Enum):
    """What kind of request this is; decided once, by the literal table in `librechat`."""

    CHAT = "chat"  # starts an answer
    STREAM = "stream"  # listens to an answer
    CONTROL = "control"  # status, abort, active
    DISCOVERY = "discovery"  # its reply tells what may be used, so it is filtered
    API = "api"  # any other call that LibreChat answers for the signed-in account
    AGENTS_API = "agents_api"  # LibreChat's OpenAI-like API for its agents
    LLM = "llm"  # LibreChat's call of a model provider, on the internal listener
    MEDIA = "media"  # pictures and files fetched by <img>, signed in by cookie
    ASSET = "asset"  # the web client's own files and pages, for anybody
    OWN = "own"  # GEKO answers; the caller must be signed in
    PUBLIC = "public"  # GEKO answers; nobody need be signed in
    BLOCKED = "blocked"  # refused


class BodySource(Protocol):
    """Where a body comes from, read at most once."""

    async def read_chunk(self) -> bytes:
        """Return the bytes that are there, waiting for some; empty at the end."""

    def close(self) -> None:
        """Give up what has not been read."""


class Request:
    """What the client sent; filters edit it in place before it goes to LibreChat.

    path: normalised; query: as sent, without "?"; headers: the client's (read-only; an allow-list decides which go
    on); `set_header` adds or replaces one on the way to LibreChat, None takes it out. Bodies are streamed unless
    something awaits `read()` or `json()`.
    """

    __slots__ = (
        "_json",
        "body",
        "client_ip",
        "cookies",
        "headers",
        "max_json_bytes",
        "method",
        "overrides",
        "path",
        "query",
        "secure",
        "source",
    )

    def __init__(
        self,
        method: str,
        path: str,
        query: str,
        headers: CIMultiDictProxy[str],
        *,
        client_ip: str = "",
        cookies: Mapping[str, str] | None = None,
        secure: bool = False,
        source: BodySource | None = None,
        body: bytes | None = None,
        max_json_bytes: int = 3 * 1024 * 1024,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.client_ip = client_ip
        self.cookies = cookies if cookies is not None else {}
        self.secure = secure
        self.source = source
        self.body = body
        self.max_json_bytes = max_json_bytes
        self.overrides: dict[str, str | None] = {}
        self._json: Any = None

    def set_header(self, name: str, value: str | None) -> None:
        """Add or replace a header of the request to LibreChat; None takes it out. Name: lower case."""
        if value is not None and ("\r" in value or "\n" in value):
            raise ValueError(f"header {name} has a line break")
        self.overrides[name.lower()] = value

    async def read(self) -> bytes:
        """The whole body. Raises Refused 413 above `max_json_bytes`, 415 when it is compressed."""
        if self.body is None:
            if self.source is None:
                self.body = b""
            else:
                if self.headers.get("Content-Encoding", "identity").lower() != "identity":
                    raise Refused(415, "unsupported_encoding", "Send the body without Content-Encoding.")
                self.body = await _read_all(self.source, self.max_json_bytes)
                self.source = None
        return self.body

    async def json(self) -> dict[str, Any]:
        """The body as a JSON object. Raises Refused 400 when it is anything else."""
        if self._json is None:
            body = await self.read()
            try:
                value = msgspec.json.decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise Refused(400, "invalid_json", "The request body is not valid JSON.") from None
            if not isinstance(value, dict):
                raise Refused(400, "invalid_json", "The request body must be a JSON object.")
            self._json = value
        result: dict[str, Any] = self._json
        return result

    def set_json(self, value: dict[str, Any]) -> None:
        """Replace the body; what `json()` gave and was changed in place must be set to count."""
        self._json = value
        self.body = msgspec.json.encode(value)
        self.source = None
        self.overrides["content-type"] = "application/json"


async def _read_all(source: BodySource, max_bytes: int) -> bytes:
    parts, size = [], 0
    while chunk := await source.read_chunk():
        size += len(chunk)
        if size > max_bytes:
            raise Refused(413, "body_too_large", f"The request body is larger than {max_bytes} bytes.")
        parts.append(chunk)
    return b"".join(parts)


class Reply:
    """What goes back to the client: a head and either bytes or a source of bytes that is still to be read."""

    __slots__ = ("_json", "body", "headers", "source", "status")

    MAX_READ_BYTES = 64 * 1024 * 1024

    def __init__(
        self,
        status: int,
        headers: CIMultiDict[str] | None = None,
        body: bytes | None = b"",
        source: BodySource | None = None,
    ) -> None:
        self.status = status
        self.headers: CIMultiDict[str] = headers if headers is not None else CIMultiDict()
        self.body = None if source is not None else body
        self.source = source
        self._json: Any = None

    @classmethod
    def of_json(cls, status: int, value: Any, headers: Mapping[str, str] | None = None) -> Reply:
        """A reply whose body is `value` as JSON."""
        reply = cls(status, CIMultiDict(headers or {}), msgspec.json.encode(value))
        reply.headers["Content-Type"] = "application/json; charset=utf-8"
        return reply

    @classmethod
    def of_text(cls, status: int, text: str) -> Reply:
        """A reply of plain text."""
        return cls(status, CIMultiDict({"Content-Type": "text/plain; charset=utf-8"}), text.encode())

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is a stream of server-sent events."""
        return self.source is not None and self.headers.get("Content-Type", "").lower().startswith(
            "text/event-stream"
        )

    async def read(self) -> bytes:
        """The whole body. Raises UpstreamError above MAX_READ_BYTES."""
        if self.body is None:
            assert self.source is not None
            parts, size = [], 0
            while chunk := await self.source.read_chunk():
                size += len(chunk)
                if size > self.MAX_READ_BYTES:
                    raise UpstreamError("the reply is too large to be filtered")
                parts.append(chunk)
            self.body, self.source = b"".join(parts), None
        return self.body

    async def json(self) -> Any:
        """The body as JSON. Raises UpstreamError when it is not."""
        if self._json is None:
            body = await self.read()
            try:
                self._json = msgspec.json.decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise UpstreamError("LibreChat's reply is not JSON") from None
        return self._json

    def set_json(self, value: Any) -> None:
        """Replace the body by `value`; nothing of the old one can be cached or compared any more (contract §5)."""
        self._json = value
        self.set_body(msgspec.json.encode(value))

    def set_body(self, body: bytes) -> None:
        """Replace the body by bytes, and drop the headers that described the old one."""
        self.close()
        self.body = body
        for name in ("ETag", "Last-Modified", "Content-Encoding", "Content-Length", "Content-Range"):
            self.headers.popall(name, None)
        self.headers["Cache-Control"] = "no-store"

    def close(self) -> None:
        """Give up what has not been read."""
        if self.source is not None:
            self.source.close()
            self.source = None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body piece by piece, as it arrives."""
        if self.source is None:
            if self.body:
                yield self.body
            return
        while chunk := await self.source.read_chunk():
            yield chunk


class Exchange:
    """One request through the proxy. Filters fill in the facts from top to bottom; None: not known (yet)."""

    __slots__ = (
        "allowed_origin",
        "api_key",
        "config",
        "hop",
        "id",
        "limit_headers",
        "model",
        "operation",
        "params",
        "parent",
        "reply",
        "request",
        "role",
        "route",
        "started_at",
        "state",
        "tenant",
        "turn_id",
        "user",
        "workspace",
    )

    def __init__(
        self,
        exchange_id: str,
        request: Request,
        route: Route,
        operation: str,
        params: Mapping[str, str],
        started_at: float,
    ) -> None:
        self.id = exchange_id  # request id, in the log and in every error
        self.request = request
        self.route = route
        self.operation = operation  # the row's name in the route table, e.g. "models"
        self.params = params  # parameters of the path
        self.started_at = started_at  # seconds, time.time()
        self.allowed_origin: str | None = None  # the Origin, if that may read the reply (CORS)
        self.parent: Exchange | None = None  # the request to an endpoint of GEKO's own that this one serves
        self.hop: Hop | None = None  # what another instance says that passes the request on
        self.reply: Reply | None = None
        self.user: Identity | None = None
        self.api_key: ApiKey | None = None  # the key that the caller came with instead of a session
        self.tenant: Tenant | None = None
        self.workspace: Workspace | None = None
        self.role: Role | None = None
        self.config: WorkspaceConfig | None = None
        self.model: str | None = None  # "Endpoint/model" of a chat message
        self.turn_id: UUID | None = None
        self.limit_headers: tuple[tuple[str, str], ...] = ()  # what the rate limits tell the client
        self.state: dict[type, Any] = {}  # a filter's own object for this exchange, by its class

    def signed_in(self) -> Identity:
        """Who is calling. Raises Refused 401 when nobody is signed in."""
        if self.user is None:
            raise Refused(401, "not_signed_in", "Sign in first.")
        return self.user
