"""What keeps browsers safe: the headers of every reply, which other origins may call, and the name of the cookie."""

from __future__ import annotations

from collections.abc import Iterable

from multidict import CIMultiDict

from geko_proxy.config import ServerSettings
from geko_proxy.exchange import Exchange, Route

ALWAYS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "SAMEORIGIN"),
    ("Referrer-Policy", "same-origin"),
    ("Server", "geko"),
)
# LibreChat's page brings inline scripts, workers and frames of its own: only what it does without is forbidden.
PAGE = (
    (
        "Content-Security-Policy",
        "base-uri 'self'; form-action 'self'; frame-ancestors 'self'; object-src 'none'",
    ),
    ("Cross-Origin-Opener-Policy", "same-origin-allow-popups"),  # its MCP sign-in works in a popup
    ("Permissions-Policy", "camera=(), geolocation=(), payment=(), usb=()"),
)
# What people upload is shown from here: an SVG or HTML file must not run.
MEDIA = (
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'; sandbox",
    ),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
DATA = (
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'self'"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
HEADERS: dict[Route, tuple[tuple[str, str], ...]] = dict.fromkeys(Route, (*ALWAYS, *DATA))
HEADERS |= {Route.ASSET: (*ALWAYS, *PAGE), Route.MEDIA: (*ALWAYS, *MEDIA)}

HSTS = "max-age=31536000"  # a year, of this host alone

EXPOSED = (
    "RateLimit, RateLimit-Policy, Retry-After, X-GEKO-Quota-Reset, X-GEKO-Quota-Used-Percent, X-Request-Id"
)
REQUEST_HEADERS = "Accept, Authorization, Content-Type, Last-Event-ID"
PREFLIGHT_TTL_S = 600

COOKIE = "geko_refresh"
HOST_COOKIE = "__Host-geko_refresh"


def secure(headers: CIMultiDict[str], exchange: Exchange) -> CIMultiDict[str]:
    """Add what every reply of this route carries; a header that an endpoint has set stays."""
    for name, value in HEADERS[exchange.route]:
        if name not in headers:
            headers[name] = value
    headers["X-Request-Id"] = exchange.id
    headers.extend(exchange.limit_headers)
    if exchange.request.secure:
        headers["Strict-Transport-Security"] = HSTS
    if exchange.allowed_origin is not None:
        headers["Access-Control-Allow-Origin"] = exchange.allowed_origin
        headers["Access-Control-Expose-Headers"] = EXPOSED
        headers.add("Vary", "Origin")
    return headers


class Cors:
    """Which other origins may call with a bearer token (Fetch standard, CORS protocol).

    Never with credentials: the cookie is for GEKO's own pages alone.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origin.lower() for origin in origins)

    def allowed(self, origin: str | None) -> str | None:
        """The origin, if it may read the reply."""
        return origin if origin is not None and origin.lower() in self._origins else None

    @staticmethod
    def preflight(methods: Iterable[str]) -> dict[str, str]:
        """The headers of the answer to a preflight request of an allowed origin."""
        return {
            "Access-Control-Allow-Methods": ", ".join(sorted(methods)),
            "Access-Control-Allow-Headers": REQUEST_HEADERS,
            "Access-Control-Max-Age": str(PREFLIGHT_TTL_S),
        }


def refresh_cookie(settings: ServerSettings, request_secure: bool) -> str:
    """The name of the cookie with the refresh token.

    Over https it has the prefix __Host- (RFC 6265bis §4.1.3): another host of the same domain can't plant one.
    """
    return HOST_COOKIE if is_cookie_secure(settings, request_secure) else COOKIE


def is_cookie_secure(settings: ServerSettings, request_secure: bool) -> bool:
    """Whether the cookie gets the Secure attribute."""
    return settings.cookies_are_secure or (settings.cookie_secure == "auto" and request_secure)
