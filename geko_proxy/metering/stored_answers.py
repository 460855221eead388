"""What LibreChat's stored messages say of a turn's cost, for turns that nobody read to their end.

Pure functions. LibreChat saves an answer before it ends the job, with the sum of its providers' reports in
`metadata.usage` (contract §4.6; packages/api/src/agents/usage.ts `aggregateEmittedUsage`): input without what came from
or went into a cache, output with hidden reasoning. Clients can't write messages through GEKO, so it is believed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from geko_proxy.metering.ledger import RECOVERY, Charge, Source
from geko_proxy.metering.tokens import TokenCounter
from geko_proxy.metering.usage_events import content_text, name_of, stored_charge, tokens_of

Message = Mapping[str, Any]

# LibreChat's clock may be so far behind GEKO's. An answer of the turn before that falls into it is told by its charges.
SKEW: Final = timedelta(seconds=5)
ROLLUP_SEQ: Final = -10  # of the charge for all calls of a stored answer
HEARTBEAT_SEQ: Final = -1


def rollup_charge(answer: Message) -> Charge | None:
    """The charge of a stored answer by its providers' reports; None: they reported nothing."""
    charge = stored_charge(answer, name_of(answer.get("model")))
    return (
        None if charge is None else replace(charge, run_id=RECOVERY, seq=ROLLUP_SEQ, source=Source.PROVIDER)
    )


def find_answer(
    messages: Sequence[Message], started_at: datetime, charged: Mapping[str, int]
) -> Message | None:
    """The answer of a turn among its conversation's messages: the newest that was saved since the turn began.

    charged: tokens that other turns were charged, by run id, which is the answer's id (contract §4.9). One whose report
    is charged already is theirs.
    """
    since = started_at - SKEW
    answers = [each for each in messages if not each.get("isCreatedByUser") and saved_at(each) >= since]
    for answer in sorted(answers, key=saved_at, reverse=True):
        paid = charged.get(name_of(answer.get("messageId")))
        charge = rollup_charge(answer)
        if paid is None or (charge is not None and charge.tokens != paid):
            return answer
    return None


def saved_at(message: Message) -> datetime:
    """When a message was saved last; long ago if it does not say."""
    value = message.get("updatedAt") or message.get("createdAt")
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        at = None
    if at is None:
        return datetime.min.replace(tzinfo=UTC)
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def estimate(messages: Sequence[Message], answer: Message, counter: TokenCounter, model: str) -> Charge:
    """The charge of an answer without reports: its thread as LibreChat counted it, its own text counted here."""
    by_id = {str(each.get("messageId")): each for each in messages}
    prompt, seen = 0, set()
    parent = str(answer.get("parentMessageId"))
    while parent in by_id and parent not in seen:
        seen.add(parent)
        prompt += tokens_of(by_id[parent].get("tokenCount"))
        parent = str(by_id[parent].get("parentMessageId"))
    output = counter.count(content_text(answer.get("content")) or str(answer.get("text") or ""))
    return _estimated(Charge(RECOVERY, HEARTBEAT_SEQ, "chat", model, "", prompt, output))


def last_heartbeat(tokens: int, cost: int, model: str) -> list[Charge]:
    """What a turn's last heartbeat said, as charges."""
    if not tokens:
        return []
    charge = Charge(RECOVERY, HEARTBEAT_SEQ, "chat", model, "", 0, tokens, cost=cost)
    return [_estimated(charge)]


def as_recovered(charges: Sequence[Charge]) -> list[Charge]:
    """The charges of a turn that was read on by another instance: its estimates go by the recovery's name."""
    return [_estimated(replace(each, run_id=RECOVERY)) if each.estimated else each for each in charges]


def _estimated(charge: Charge) -> Charge:
    return replace(charge, estimated=True, source=Source.RECOVERED)
