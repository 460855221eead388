"""aiohttp's HTTP server, with GEKO's own words for requests that are no HTTP."""

from __future__ import annotations

import logging
import os

import msgspec
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

log = logging.getLogger("geko.http")

TEXTS = {
    400: ("malformed_request", "This is no valid HTTP request."),
    413: ("request_too_large", "The request's head is too large."),
    414: ("uri_too_long", "The request's target is too long."),
    431: ("headers_too_large", "The request's headers are too large."),
}


class HttpServer(web.Server):
    """Makes one handler for each connection."""

    def __call__(self) -> RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)


class Connection(RequestHandler):
    """One client's connection."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what aiohttp's parser refused, and what failed outside the proxy; the connection is closed.

        What the parser says quotes the request, so neither the client nor the log gets it.
        """
        error_id = os.urandom(8).hex()
        if status >= 500:
            log.error("%s: a request from %s failed", error_id, request.remote, exc_info=exc)
        else:
            log.info("%s: a malformed request from %s: %s", error_id, request.remote, type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way already")
        code, text = TEXTS.get(
            status, TEXTS[400] if status < 500 else ("internal_error", "Something went wrong.")
        )
        body = msgspec.json.encode({"error": {"code": code, "message": text, "requestId": error_id}})
        headers = {"Content-Type": "application/json", "Server": "geko", "X-Request-Id": error_id}
        response = web.Response(status=status, body=body, headers=headers)
        response.force_close()
        return response
