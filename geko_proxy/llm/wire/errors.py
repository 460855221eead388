"""Refusals in the shape of each API, with a text that LibreChat shows."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from geko_proxy.errors import Refused

FOR_OPERATORS: Final = frozenset({400, 401, 404, 405, 413, 415})
ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def refusal_body(api: str, refused: Refused) -> dict[str, Any]:
    """The error JSON of an API: OpenAI's, or Anthropic's for "messages".

    The message of a refusal that people shall read holds `{"type": "google_error", "info": …}`, which LibreChat finds
    in it and shows as plain text (contract §7.3); what is wrong with the call itself is for whoever has configured it.
    """
    message = refused.message
    shown = refused.librechat
    if shown is None and refused.status not in FOR_OPERATORS:
        shown = {"type": "google_error", "info": message}
    if shown is not None:
        message = msgspec.json.encode(shown).decode()
    if api == "messages":
        kind = ANTHROPIC_TYPES.get(refused.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}}
    return {"error": {"message": message, "type": _type_of(refused), "param": None, "code": refused.code}}


def _type_of(refused: Refused) -> str:
    if refused.status in (402, 429):
        return "insufficient_quota" if refused.status == 402 else "rate_limit_exceeded"
    return "invalid_request_error" if refused.status < 500 else "server_error"
