"""The SQL of leases: calls of the functions in sql/0012 and later, one transaction and round trip each."""

from __future__ import annotations

from typing import Final


def call(function: str, parameters: int) -> str:
    """A call with so many parameters; the first is the tenant."""
    return f"select * from {function}({', '.join(f'${n + 1}' for n in range(parameters))})"  # noqa: S608


OPEN_WINDOWS: Final = call("open_windows", 9)
BEGIN: Final = call("begin_lease", 19)
BEGIN_CALL: Final = call("begin_call", 22)
FIND_CALL_PARENT: Final = call("find_call_parent", 5)
NOTE_CUT: Final = call("note_cut", 3)
CALLS_OF_TURN: Final = call("calls_of_turn", 2)
TOP_UP: Final = call("top_up_lease", 9)
HOLD: Final = call("hold_windows", 5)
GIVE_BACK: Final = call("give_back", 4)
HEARTBEAT: Final = call("extend_leases", 6)
SET_CONVERSATION: Final = call("name_conversation", 3)
SETTLE: Final = call("settle_lease", 20)
RESTORE: Final = call("restore_lease", 23)

# Waits until all that was committed before is on disk: a record in the log that means nothing.
FLUSH: Final = "select pg_logical_emit_message(true, 'geko', '')"

# in no tenant
ADOPT: Final = "select * from adopt_leases($1, $2, $3, $4)"
