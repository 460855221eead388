"""GET /v1/auth/jwks.json: the public keys by which others can verify GEKO's access tokens (RFC 7517)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aiohttp import web

from geko_proxy.accounts.signing_key_rotation import JWKS_MAX_AGE_S
from geko_proxy.exchange import Exchange, Reply

if TYPE_CHECKING:
    from geko_proxy.services import Services


class Jwks:
    """The endpoint."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def get(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with every key that verifies, those included that do not sign yet; none with HS256 alone."""
        keys = self._services.signing_keys.jwks(time.time())
        headers = {
            "Cache-Control": f"public, max-age={JWKS_MAX_AGE_S}",
            "Access-Control-Allow-Origin": "*",
            "Cross-Origin-Resource-Policy": "cross-origin",
        }
        return Reply.of_json(200, {"keys": keys}, headers)
