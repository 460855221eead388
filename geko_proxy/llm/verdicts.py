"""What an attempt means: an answer, try again, wait, go elsewhere, or give up; and what the caller is told."""

from __future__ import annotations

import asyncio
import enum
import math
from typing import Final, NamedTuple

from geko_proxy.errors import Refused, UpstreamError
from geko_proxy.llm.deployments import Attempt
from geko_proxy.llm.provider_headers import retry_after_s
from geko_proxy.upstream_connection import UpstreamReply

MAX_ERROR_BYTES: Final = 16 * 1024
ERROR_BODY_S: Final = 1.0


class Verdict(enum.Enum):
    """What follows from an attempt."""

    ANSWER = "answer"  # also a refusal of the request itself, such as 400
    LIMITED = "limited"  # 429: no room now
    FAILED = "failed"  # may work at the next attempt
    UNUSABLE = "unusable"  # GEKO's own key, account or address is wrong there
    LOST = "lost"  # the provider may be at work on it, or has been: neither repeated nor sent elsewhere


class Judged(NamedTuple):
    """A verdict. blames: the deployment's health; wait_s: what the provider asked for (Retry-After)."""

    verdict: Verdict
    blames: bool = False
    wait_s: float | None = None


async def judge(attempt: Attempt) -> Judged:
    """Say what an attempt means; a reply that is no answer is closed."""
    reply = attempt.reply
    if reply is None:
        blames = attempt.status != "busy"  # all of GEKO's own connections were in use
        return Judged(Verdict.LOST if attempt.accepted else Verdict.FAILED, blames)
    status = reply.status
    if 200 <= status < 300 or (400 <= status < 500 and status not in (401, 402, 403, 408, 429)):
        return Judged(Verdict.ANSWER)
    try:
        if status == 429 and not await _is_out_of_credit(reply):
            return Judged(Verdict.LIMITED, wait_s=retry_after_s(reply.headers))
    finally:
        reply.close()
    if status == 408 or status >= 500:
        return Judged(Verdict.FAILED, blames=True, wait_s=retry_after_s(reply.headers))
    return Judged(Verdict.UNUSABLE, blames=True)


async def _is_out_of_credit(reply: UpstreamReply) -> bool:
    """Whether a 429 is OpenAI's `insufficient_quota`: GEKO's account is empty, waiting won't help."""
    try:
        async with asyncio.timeout(ERROR_BODY_S):
            return b'"insufficient_quota"' in await reply.read(MAX_ERROR_BYTES)
    except (UpstreamError, TimeoutError):
        return False


def whole_seconds(seconds: float) -> int:
    """For Retry-After: at least 1."""
    return max(1, math.ceil(seconds))


def no_room(wait_s: float) -> Refused:
    """429: the provider has no room, nor has the queue."""
    return Refused(
        429,
        "provider_rate_limited",
        "The model's provider has too many requests at the moment. Try again later.",
        retry_after_s=whole_seconds(wait_s),
    )


def left_alone(wait_s: float) -> Refused:
    """503: all circuits are open."""
    return Refused(
        503,
        "provider_unavailable",
        "The model's provider does not work at the moment. Try again later.",
        retry_after_s=whole_seconds(wait_s),
    )


def not_served(model: str) -> Refused:
    """404: nobody serves this model."""
    return Refused(404, "model_not_found", f"There is no model {model[:100]!r} here.")


def failure(status: str, verdict: Verdict, wait_s: float | None = None) -> Refused:
    """502, 503 or 504: nothing of what the provider said, which is about GEKO's own account and addresses."""
    # openai-node and openai-python obey this header: what may be billed already is not sent again
    headers = {"x-should-retry": "false"} if verdict is Verdict.LOST else None
    after = None if wait_s is None else whole_seconds(wait_s)
    if status == "timeout":
        text = "The model's provider did not answer in time."
        return Refused(504, "provider_timeout", text, headers=headers, retry_after_s=after)
    if status == "busy":
        return Refused(503, "provider_busy", "Too many calls to the model's provider.", retry_after_s=1)
    text = "The model's provider failed to answer."
    return Refused(502, "provider_failed", text, headers=headers, retry_after_s=after)
