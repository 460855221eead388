"""The turns of a process: who is waited for."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

from geko_proxy.event_log import EventLog
from geko_proxy.turns import Turns


def turn_of(turn_id: Any) -> Any:
    async def run(finished: Any) -> None:
        await finished()

    return cast(
        Any,
        SimpleNamespace(
            turn_id=turn_id,
            workspace_id=uuid4(),
            user_id=uuid4(),
            stream_id="c",
            log=EventLog(),
            run=run,
        ),
    )


async def test_a_turn_that_is_about_to_begin_is_waited_for() -> None:
    turns, turn, other = Turns(), turn_of(uuid4()), turn_of(uuid4())

    async def finished() -> None: ...

    waiting = [asyncio.create_task(turns.expect(turn.turn_id, 5)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting.pop().cancel()
    turns.start(other, finished)
    turns.start(turn, finished)
    assert await asyncio.gather(*waiting) == [turn, turn]
    assert await turns.expect(turn.turn_id, 0) is turn
    assert await turns.expect(uuid4(), 0.01) is None
    assert not turns._expected
    await turns.drain(1)
