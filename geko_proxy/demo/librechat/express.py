"""Replies as Express and its middleware send them: headers, weak ETags, 304, empty and untyped bodies."""

from __future__ import annotations

import base64
import hashlib
import secrets
import string
import time
import zlib
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any

import msgspec
from aiohttp import web

Json = dict[str, Any]

JSON_TYPE = "application/json; charset=utf-8"
HTML_TYPE = "text/html; charset=utf-8"
MAX_JSON_BYTES = 3 * 2**20
_EARLY = web.ResponseKey("early", bool)
_NO_TYPE = web.ResponseKey("no_type", bool)
_VARY = "Accept-Encoding"
_COMPRESS_FROM_BYTES = 1024
_NANOID = string.ascii_letters + string.digits + "_-"


def now_iso() -> str:
    """The time as JavaScript's toISOString writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def object_id() -> str:
    """A MongoDB ObjectId: 24 hex digits that begin with the time."""
    return f"{int(time.time()):08x}{secrets.token_hex(8)}"


def nanoid(prefix: str = "", size: int = 21) -> str:
    """An id of the nanoid package."""
    return prefix + "".join(secrets.choice(_NANOID) for _ in range(size))


def encode(value: object) -> bytes:
    """JSON as JSON.stringify writes it."""
    return msgspec.json.encode(value)


def etag(body: bytes) -> str:
    """The weak ETag that `res.send` computes."""
    digest = base64.b64encode(hashlib.sha1(body, usedforsecurity=False).digest()).decode()[:27]
    return f'W/"{len(body):x}-{digest}"'


def json_reply(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """`res.status(status).json(value)`."""
    return send(encode(value), status, JSON_TYPE, headers)


def text_reply(text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """`res.status(status).send(text)`: plain words, sent as text/html."""
    return send(text.encode(), status, HTML_TYPE, headers)


def send(
    body: bytes, status: int, content_type: str, headers: Mapping[str, str] | None = None
) -> web.Response:
    """`res.send` with an explicit content type."""
    reply = web.Response(body=body, status=status, headers=headers)
    reply.headers["Content-Type"] = content_type
    reply.headers["ETag"] = etag(body)
    reply.headers.setdefault("Vary", _VARY)
    return reply


def no_content() -> web.Response:
    """`res.sendStatus(204)`: the ETag is that of the words nobody gets."""
    return web.Response(status=204, headers={"ETag": etag(b"No Content")})


def empty_reply() -> web.Response:
    """`res.send()` without a body: 200, no content type."""
    reply = web.Response(body=b"", headers={"ETag": etag(b"")})
    reply[_NO_TYPE] = True
    return reply


def streamed(text: str, content_type: str | None = None) -> web.Response:
    """What `res.write` + `res.end` give: chunked and without ETag; by default without content type too."""
    reply = web.Response(body=_once(text.encode()))
    if content_type is None:
        reply[_NO_TYPE] = True
    else:
        reply.headers["Content-Type"] = content_type
        reply.headers["Vary"] = _VARY
    return reply


async def _once(body: bytes) -> AsyncIterator[bytes]:
    if body:
        yield body


def sse_text(events: Iterable[tuple[str, Json]]) -> web.Response:
    """The 200-with-SSE-text trap (contract §7.2): events as the reply to a POST, without content type."""
    return streamed("".join(f"event: {name}\ndata: {encode(data).decode()}\n\n" for name, data in events))


def error_text(data: Json) -> web.Response:
    """LibreChat's `handleError`: one `event: error` on a 200."""
    return sse_text([("error", data)])


def before_middleware(reply: web.Response) -> web.Response:
    """Mark a reply that the body parser sends, before CORS and compression have had a look (recorded)."""
    del reply.headers["Vary"]
    reply[_EARLY] = True
    return reply


def add_cookie(
    reply: web.StreamResponse, name: str, value: str, expires_at: float, *, private: bool = True
) -> None:
    """Append a Set-Cookie in Express's order of attributes."""
    suffix = "; HttpOnly; SameSite=Strict" if private else ""
    expires = formatdate(expires_at, usegmt=True)
    reply.headers.add("Set-Cookie", f"{name}={value}; Path=/; Expires={expires}{suffix}")


def not_modified(request: web.Request, reply: web.Response) -> web.Response:
    """Turn a fresh 200 into a 304, as Express's `req.fresh` decides."""
    tag = reply.headers.get("ETag")
    if request.method not in ("GET", "HEAD") or reply.status != 200 or tag is None:
        return reply
    known = request.headers.get("If-None-Match")
    if known is None or "no-cache" in request.headers.get("Cache-Control", ""):
        return reply
    candidates = {part.strip().removeprefix("W/") for part in known.split(",")}
    if "*" not in candidates and tag.removeprefix("W/") not in candidates:
        return reply
    kept = {k: v for k, v in reply.headers.items() if k not in ("Content-Type", "Content-Length")}
    fresh = web.Response(status=304, headers=kept)
    fresh[_NO_TYPE] = True
    return fresh


def compressed(request: web.Request, reply: web.Response) -> web.Response:
    """What the compression middleware does to a body of 1 KiB and more."""
    body = reply.body
    if not isinstance(body, bytes) or len(body) < _COMPRESS_FROM_BYTES or "Content-Encoding" in reply.headers:
        return reply
    if "gzip" not in request.headers.get("Accept-Encoding", "") or _VARY not in reply.headers.get("Vary", ""):
        return reply
    squeeze = zlib.compressobj(wbits=31)
    reply.body = squeeze.compress(body) + squeeze.flush()
    reply.headers["Content-Encoding"] = "gzip"
    return reply


async def finish_headers(request: web.Request, reply: web.StreamResponse) -> None:
    """The headers that every reply has; run when the reply is prepared."""
    headers = reply.headers
    headers.popall("Server", None)
    if reply.get(_NO_TYPE):
        headers.popall("Content-Type", None)
    headers["X-Robots-Tag"] = "noindex"
    if not reply.get(_EARLY):
        headers["Access-Control-Allow-Origin"] = "*"
    if not request.keep_alive or reply.keep_alive is False:
        headers["Connection"] = "close"
        return
    headers["Connection"] = "keep-alive"
    if headers.get("Content-Type") != "text/event-stream":
        headers["Keep-Alive"] = "timeout=5"
