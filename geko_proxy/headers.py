"""Which headers and cookies pass the proxy, by allow-list in both directions (contract §8, traps 3, 13, 23)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlsplit

from multidict import CIMultiDict

from geko_proxy.exchange import Request

REQUEST_HEADERS = frozenset(
    b"accept accept-encoding accept-language cache-control content-type content-encoding if-match if-modified-since "
    b"if-none-match if-range if-unmodified-since pragma range user-agent x-librechat-generation-protocol".split()
)
REPLY_HEADERS = {
    name.lower().encode(): name
    for name in (
        "Accept-Ranges Cache-Control Content-Disposition Content-Encoding Content-Language Content-Length "
        "Content-Range Content-Type ETag Expires Last-Modified Pragma Retry-After Vary X-Accel-Buffering "
        "X-Librechat-Generation-Protocol Location Set-Cookie"
    ).split()
}
REPLY_HEADERS |= {name.encode(): name for name in REPLY_HEADERS.values()}  # as LibreChat spells them
COOKIES_TO_LIBRECHAT = ("oauth_csrf", "oauth_session", "lang")
COOKIES_FROM_LIBRECHAT = ("oauth_csrf", "oauth_session")

# LibreChat refuses callers that are no browser (contract §0.8); this one is named by ua-parser-js
BROWSER_USER_AGENT = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
)
_BROWSER_MARKS = (b"Chrome/", b"Firefox/", b"Safari/", b"Edg/", b"OPR/")

_COOKIE = re.compile(r"[!-:<-~]+")  # RFC 6265 §4.1.1: printable ASCII without blank, and no semicolon

Raw = Sequence[tuple[bytes, bytes]]


def request_headers(
    request: Request,
    raw: Raw,
    *,
    forwarded_for: str,
    forwarded_host: str,
    request_id: str,
    keep_conditionals: bool,
    keep_encoding: bool,
) -> list[tuple[bytes, bytes]]:
    """The headers of a request to LibreChat: the client's allowed ones, then GEKO's own, then the filters'.

    raw: the client's headers as received. keep_conditionals, keep_encoding: False where a filter rewrites the reply
    (a 304 or a compressed body can't be filtered).
    """
    headers: list[tuple[bytes, bytes]] = []
    agent_known = False
    overrides = request.overrides
    replaced = {name.encode("ascii") for name in overrides}
    for name, value in raw:
        lower = name.lower()
        if lower not in REQUEST_HEADERS or lower in replaced:
            continue
        if lower == b"user-agent":
            if not any(mark in value for mark in _BROWSER_MARKS):
                continue
            agent_known = True
        elif (lower == b"accept-encoding" and not keep_encoding) or (
            lower.startswith(b"if-") and not keep_conditionals
        ):
            continue
        headers.append((lower, value))
    if not agent_known:
        headers.append((b"user-agent", BROWSER_USER_AGENT.encode()))
    if not keep_encoding:
        headers.append((b"accept-encoding", b"identity"))
    headers.append((b"x-forwarded-for", forwarded_for.encode("latin-1")))
    headers.append((b"x-forwarded-proto", b"https" if request.secure else b"http"))
    headers.append((b"x-forwarded-host", forwarded_host.encode("latin-1", "ignore")))
    headers.append((b"x-request-id", request_id.encode()))
    headers.extend(
        (name.encode("ascii"), value.encode("latin-1"))
        for name, value in overrides.items()
        if value is not None
    )
    return headers


def cookies_for_librechat(cookies: Mapping[str, str], extra: Mapping[str, str] | None = None) -> str:
    """The Cookie header for LibreChat: its own OAuth cookies of the browser, and what GEKO adds."""
    pairs = [f"{name}={cookies[name]}" for name in COOKIES_TO_LIBRECHAT if cookies.get(name)]
    pairs.extend(f"{name}={value}" for name, value in (extra or {}).items())
    return "; ".join(pair for pair in pairs if _COOKIE.fullmatch(pair))


def reply_headers(raw: Iterable[tuple[bytes, bytes]], upstream_origin: str) -> CIMultiDict[str]:
    """The headers of a reply to the client; Location only within LibreChat's origin, made relative."""
    kept = []
    for name, value in raw:
        known = REPLY_HEADERS.get(name) or REPLY_HEADERS.get(name.lower())
        if known is None:
            continue
        text = value.decode("latin-1")
        if known == "Set-Cookie" and text.partition("=")[0].strip() not in COOKIES_FROM_LIBRECHAT:
            continue
        if known == "Location":
            text = _location(text, upstream_origin)
        kept.append((known, text))
    return CIMultiDict(kept)


def _location(value: str, upstream_origin: str) -> str:
    if value.startswith(upstream_origin + "/"):
        return value[len(upstream_origin) :]
    return value


def is_same_origin(origin: str | None, host: str) -> bool:
    """Whether an Origin header (absent: yes, RFC 6454 §7.3) names this host."""
    try:
        return origin is None or urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False
