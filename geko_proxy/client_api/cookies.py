"""The cookie in which browsers keep their refresh token: out of scripts' reach, and only sent to GEKO's own pages."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

from aiohttp import web

from geko_proxy.browser_safety import is_cookie_secure, refresh_cookie
from geko_proxy.config import ServerSettings
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.headers import is_same_origin

CLEARED = "Thu, 01 Jan 1970 00:00:00 GMT"


class RefreshCookies:
    """Reads, sets and clears the cookie. The attributes are those of LibreChat's own (contract §2.3)."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings

    def read(self, exchange: Exchange, request: web.BaseRequest) -> str | None:
        """The refresh token in the cookie; None without one, or when a page of another origin sends it."""
        token = exchange.request.cookies.get(refresh_cookie(self._settings, exchange.request.secure))
        origin = exchange.request.headers.get("Origin")
        if not token or not (is_same_origin(origin, request.host) or origin == self._settings.public_url):
            return None
        return token

    def set(self, exchange: Exchange, reply: Reply, token: str, expires_at: datetime) -> None:
        """Give the browser its refresh token."""
        self._add(exchange, reply, token, format_datetime(expires_at.astimezone(UTC), usegmt=True))

    def clear(self, exchange: Exchange, reply: Reply) -> None:
        """Take the refresh token from the browser."""
        self._add(exchange, reply, "", CLEARED)

    def _add(self, exchange: Exchange, reply: Reply, value: str, expires: str) -> None:
        name = refresh_cookie(self._settings, exchange.request.secure)
        self.add(exchange, reply, name, value, f"Expires={expires}")

    def add(self, exchange: Exchange, reply: Reply, name: str, value: str, life: str) -> None:
        """Set a cookie with the same attributes. life: its Expires or Max-Age."""
        parts = [f"{name}={value}", "Path=/", life, "HttpOnly", "SameSite=Strict"]
        if is_cookie_secure(self._settings, exchange.request.secure):
            parts.append("Secure")
        reply.headers.add("Set-Cookie", "; ".join(parts))
        reply.headers["Cache-Control"] = "no-store"
