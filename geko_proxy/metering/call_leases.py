"""Leases of model calls on the LLM side, and how they belong to the chat message that they are made for (sql/0020).

A call's lease is a lease like any other, with `Leases` for its top-ups and its end. Only its start differs: the first
call of an answer takes over what its message has leased, and from then on the calls are charged in its place.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, NamedTuple
from uuid import UUID

from geko_proxy.metering import statements
from geko_proxy.metering.call_rows import CallRow
from geko_proxy.metering.leases import Amount, Exhausted, Lease, Leases, NewTurn, exhausted_of
from geko_proxy.metering.ledger import ANSWER_KINDS
from geko_proxy.metering.limits import Hold
from geko_proxy.storage.database import Database

# LibreChat calls the model at once, while GEKO still writes down how it has named the conversation.
NAMING_S: Final = 5.0
NAMING_STEP_S: Final = 0.02


class Parent(NamedTuple):
    """The chat message that a call is made for. key_id: the API key it came with; key_models: what that may use."""

    turn_id: UUID
    key_id: UUID | None
    key_models: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class CallOrigin:
    """What is known of a call when it begins.

    kind: "chat", "title", "memory", …; conversation_id, message_id: as LibreChat names them, None: it does not say.
    """

    kind: str
    conversation_id: str | None = None
    message_id: str | None = None
    parent: Parent | None = None

    @property
    def makes_answer(self) -> bool:
        """Whether what the call gives is (a part of) the answer that is also metered as its stream."""
        return self.kind in ANSWER_KINDS


class TurnCalls(NamedTuple):
    """Whether a message is charged by its calls, and the limit that has cut one of them."""

    metered_by_calls: bool = False
    cut_by: UUID | None = None


class CallLeases:
    """Starts leases of calls. Every method raises StoreError when the database cannot do it."""

    def __init__(self, database: Database, leases: Leases) -> None:
        self._db = database
        self._leases = leases

    async def find_parent(
        self,
        tenant_id: UUID,
        workspace_id: UUID,
        user_id: UUID,
        conversation_id: str | None,
        message_id: str | None = None,
    ) -> Parent | None:
        """The message that a call is made for: the running one of its conversation, else the one that ended last.

        message_id: LibreChat's id of the answer. Waits for a new conversation to be named, NAMING_S at most.
        """
        if conversation_id is None and message_id is None:
            return None
        args = (tenant_id, workspace_id, user_id, conversation_id, message_id)
        for _ in range(int(NAMING_S / NAMING_STEP_S)):
            row = await self._db.call(statements.FIND_CALL_PARENT, *args)
            if row is None:
                return None
            if not row["unnamed"]:
                models = row["key_models"]
                return Parent(row["turn_id"], row["key_id"], None if models is None else tuple(models))
            await asyncio.sleep(NAMING_STEP_S)
        return None

    async def begin(
        self, turn: NewTurn, holds: tuple[Hold, ...], need: Amount, allowance: Amount, origin: CallOrigin
    ) -> Lease | Exhausted:
        """Starts a call as `Leases.begin` does a message; need: all of its prompt.

        turn: the call, without a conversation: any number of calls run in one.
        """
        wanted = (max(1, need.tokens), max(0, allowance.tokens), max(0, need.cost), max(0, allowance.cost))
        parent = None if origin.parent is None else origin.parent.turn_id
        call = CallRow(origin.kind, origin.conversation_id, parent, origin.message_id, origin.makes_answer)
        extra = (call.kind, call.parent_turn_id, call.message_id, call.makes_answer)
        row = await self._leases.start(
            statements.BEGIN_CALL, turn, holds, wanted, origin.conversation_id, extra
        )
        if row["limit_id"] is not None:
            return exhausted_of(row)
        return Lease(turn, holds, Amount(row["amount"], row["cost"]), call=call)

    async def note_cut(self, tenant_id: UUID, turn_id: UUID, limit_id: UUID | None) -> None:
        """Tells a message that one of its calls was cut by a limit; None: the workspace's own."""
        await self._db.call(statements.NOTE_CUT, tenant_id, turn_id, limit_id)

    async def of_turn(self, tenant_id: UUID, turn_id: UUID) -> TurnCalls:
        """What the calls of a message have told it."""
        row = await self._db.call(statements.CALLS_OF_TURN, tenant_id, turn_id)
        return TurnCalls(row["metered_by_calls"], row["cut_by"]) if row is not None else TurnCalls()
