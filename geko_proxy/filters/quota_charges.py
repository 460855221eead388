"""What a chat's answer is charged at its end, by what its stream has told."""

from __future__ import annotations

from collections.abc import Sequence

from geko_proxy.metering.grants import MeteredTurn
from geko_proxy.metering.ledger import Charge, Source
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.metering.stored_answers import as_recovered, find_answer, last_heartbeat, rollup_charge


def stream_charges(turn: MeteredTurn, *, passes_here: bool = False) -> Sequence[Charge]:
    """What a chat's answer is charged by its stream.

    passes_here: calls of its endpoint come through the LLM side, so one that was announced and has given nothing has
    not been made.
    """
    charges = turn.meter.finish(turn.final)
    if passes_here and not turn.by_calls:
        charges = [charge for charge in charges if charge.output_tokens or not charge.estimated]
    if turn.recovering:
        return recovered_charges(turn, charges)
    if turn.outcome is Outcome.CUT and not turn.by_calls:
        return turn.within(charges)
    if turn.outcome is Outcome.FAILED and not charges and not passes_here:
        return [unseen(turn)]
    return charges


def recovered_charges(turn: MeteredTurn, charges: Sequence[Charge]) -> list[Charge]:
    """The charges of an answer that another instance began.

    It may end before it can be listened to: LibreChat's final is then made from the stored answer, which has the sum of
    what the provider reported.
    """
    answer = (turn.final or {}).get("responseMessage")
    started_at = turn.lease.turn.started_at
    if not turn.meter.charges and isinstance(answer, dict) and find_answer([answer], started_at, {}):
        stored = rollup_charge(answer)
        if stored is not None:
            return [stored]
    return as_recovered(charges) or last_heartbeat(*turn.so_far, turn.lease.turn.model)


def unseen(turn: MeteredTurn) -> Charge:
    """The charge of an answer that was started and never seen: its estimated prompt."""
    return Charge("geko", -3, "chat", "", "", turn.need, 0, estimated=True, source=Source.ESTIMATE)
