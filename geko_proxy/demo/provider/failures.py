"""Errors in the words of the API that was called (OpenAI "Error codes"; Anthropic "Errors")."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from geko_proxy.demo.provider.shape import encode

_OPENAI: Final = {
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
}
_ANTHROPIC: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def error_reply(
    api: str,
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    retry_after: int | None = None,
) -> web.Response:
    """The reply of an error status; retry_after: seconds."""
    body = _anthropic(status, message) if api == "messages" else _openai(status, message, code, param)
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return web.Response(status=status, body=encode(body), content_type="application/json", headers=headers)


def _openai(status: int, message: str, code: str | None, param: str | None) -> dict[str, Any]:
    kind, usual = _OPENAI.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
    if code == "insufficient_quota":
        kind = code
    return {"error": {"message": message, "type": kind, "param": param, "code": code or usual}}


def _anthropic(status: int, message: str) -> dict[str, Any]:
    kind = _ANTHROPIC.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}}
