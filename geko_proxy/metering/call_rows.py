"""What a call's row says beside that of a message, for when a crash of the database takes its start back."""

from __future__ import annotations

from typing import Final, NamedTuple
from uuid import UUID


class CallRow(NamedTuple):
    """The columns of sql/0020. kind None: it is a message. makes_answer: its message is charged by it."""

    kind: str | None = None
    conversation_id: str | None = None
    parent_turn_id: UUID | None = None
    message_id: str | None = None
    makes_answer: bool = False


NO_CALL: Final = CallRow()
