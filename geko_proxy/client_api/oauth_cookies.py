"""The cookie that binds a sign-in by a provider to the browser in which it began."""

from __future__ import annotations

import re
from typing import Final

from aiohttp import web

from geko_proxy.config import ServerSettings
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.oauth.flows import TTL_S

NAME: Final = "geko_oauth_"


class FlowCookies:
    """Sets, reads and clears it: HttpOnly, SameSite=Lax (the way back is a navigation from another site).

    With https its name begins with `__Host-`, so that no sub-domain can plant one (RFC 6265bis, 4.1.3.2); that wants
    Path=/. Without https, where there is no such protection, it is only sent to the provider's callback.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings

    def read(self, exchange: Exchange, request: web.BaseRequest, provider: str) -> str | None:
        """The cookie; None without one, or with several of the name: one of them was planted."""
        name = self._name(exchange, provider)
        values = [
            value.strip()
            for header in request.headers.getall("Cookie", ())
            for key, _, value in (pair.partition("=") for pair in re.split(r";\s*", header))
            if key.strip() == name
        ]
        return values[0] if len(values) == 1 and values[0] else None

    def set(self, exchange: Exchange, reply: Reply, provider: str, value: str) -> None:
        """Bind the flow to this browser; a former one of the same provider ends."""
        self._add(exchange, reply, provider, value, TTL_S)

    def clear(self, exchange: Exchange, reply: Reply, provider: str) -> None:
        """Forget the flow."""
        self._add(exchange, reply, provider, "", 0)

    def _add(self, exchange: Exchange, reply: Reply, provider: str, value: str, max_age: int) -> None:
        secure = self._is_secure(exchange)
        path = "/" if secure else f"/v1/auth/oauth/{provider}"
        parts = [f"{self._name(exchange, provider)}={value}", f"Path={path}", f"Max-Age={max_age}"]
        parts += ["HttpOnly", "SameSite=Lax", *(["Secure"] if secure else [])]
        reply.headers.add("Set-Cookie", "; ".join(parts))
        reply.headers["Cache-Control"] = "no-store"

    def _name(self, exchange: Exchange, provider: str) -> str:
        return f"{'__Host-' if self._is_secure(exchange) else ''}{NAME}{provider}"

    def _is_secure(self, exchange: Exchange) -> bool:
        chosen = self._settings.cookie_secure
        return self._settings.cookies_are_secure or (chosen == "auto" and exchange.request.secure)
