"""Turns whatever went wrong into the reply for the client, and a line in the log."""

from __future__ import annotations

import logging

from multidict import CIMultiDict

from geko_proxy.errors import (
    FilterError,
    Refused,
    StoreError,
    UpstreamBusy,
    UpstreamError,
    UpstreamLimited,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.librechat import error_reply

log = logging.getLogger("geko.proxy")


def failure_reply(exchange: Exchange, error: Exception) -> Reply:
    """Turn an exception into the reply for the client: no stack trace, nothing internal."""
    refused = refused_by(exchange, error)
    if refused.status == 204:
        return Reply(204, CIMultiDict(refused.headers or {}), b"")
    return error_reply(exchange.id, exchange.request.path, exchange.route, refused)


def refused_by(exchange: Exchange, error: Exception) -> Refused:
    """Turn an exception into what the caller may be told, and log what it must not."""
    match error:
        case Refused():
            refused = error
        case UpstreamError():
            refused = _upstream_failed(error)
        case FilterError():
            refused = Refused(502, "filter_failed", "A check of this request failed.")
        case StoreError():
            refused = Refused(503, "database_unavailable", "Try again in a moment.", retry_after_s=2)
        case _:
            log.error("%s: %s failed", exchange.id, exchange.operation, exc_info=error)
            refused = Refused(500, "internal_error", "Something went wrong.")
    if not isinstance(error, Refused):
        log.warning("%s: %s: %s", exchange.id, refused.code, error)
    return refused


def _upstream_failed(error: UpstreamError) -> Refused:
    match error:
        case UpstreamLimited(retry_after_s=wait_s):
            text = "LibreChat takes no more requests for now. Try again later."
            return Refused(503, "upstream_limited", text, retry_after_s=wait_s)
        case UpstreamTimeout():
            return Refused(504, "upstream_timeout", "LibreChat did not answer in time.")
        case UpstreamBusy():
            return Refused(503, "upstream_busy", "LibreChat is busy; try again.", retry_after_s=1)
        case UpstreamUnreachable():
            return Refused(502, "upstream_unreachable", "LibreChat can't be reached.")
        case _:
            return Refused(502, "upstream_error", "LibreChat gave no usable answer.")
