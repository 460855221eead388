"""Turns with no, one or five listeners, who leave at any event and come back, on either instance."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from uuid import uuid4

from prove.load import Attempt, Heard, compare, count, listen, send
from prove.report import Row
from prove.stage import Stage, User

LIMIT = 100_000_000


@dataclass
class Story:
    """One turn and what became of its listeners, apart: those at its own instance and those at the other one."""

    attempt: Attempt
    words: int
    here: list[Heard] = field(default_factory=list)
    there: list[Heard] = field(default_factory=list)


async def normal_ends(stage: Stage) -> Row:
    """Nothing is stopped: what is charged is what was reported, whoever listens."""
    row = Row("0, 1 or 5 listeners, leaving, coming back", stage.turns, LIMIT)
    user = await stage.user(LIMIT)
    begun = time.monotonic()
    stories = await asyncio.gather(
        *(_story(user, random.Random(stage.random.random())) for _ in range(stage.turns))
    )
    settled = await stage.books.settled(user.workspace_id, 30)
    row.time_s = time.monotonic() - begun
    row.expect(settled is not None, "a lease is left over after 30 s")
    started = [each for each in stories if each.attempt.conversation is not None]
    refused = [each.attempt.status for each in stories if each.attempt.conversation is None]
    row.expect(not refused, f"turns did not begin: {count(refused)}")
    ids = [str(each.attempt.conversation) for each in started]
    produced = await stage.books.produced(ids)
    compare(row, ids, produced, await stage.books.charged(user.workspace_id))
    reported = sum(each.reported for each in produced.values())
    row.expect(reported == len(ids), f"only {reported} of {len(ids)} answers ended normally")
    window = await stage.books.window(user.workspace_id)
    row.expect(window.consistent, f"the window says {window}")
    _listeners(row, started)
    return row


async def _story(user: User, chance: random.Random) -> Story:
    await asyncio.sleep(chance.uniform(0, 4))
    at = chance.randrange(2)
    words, reasoning = chance.randint(15, 70), chance.choice((0, 0, 5))
    order = f"tokens={words} prompt={chance.randint(5, 900)} cached=3 reasoning={reasoning} delay_ms=25"
    story = Story(await send(user.at[at], order), words)
    if story.attempt.conversation is None:
        return story
    listeners = chance.choice((0, 1, 5))
    away = [listeners > 1 and chance.random() < 0.3 for _ in range(listeners)]
    listening = [
        _listener(user, 1 - at if far else at, story, random.Random(chance.random())) for far in away
    ]
    for far, heard in zip(away, await asyncio.gather(*listening), strict=True):
        (story.there if far else story.here).append(heard)
    return story


async def _listener(user: User, at: int, story: Story, chance: random.Random) -> Heard:
    """Stays, leaves for good, or leaves and comes back with `resume`."""
    conversation = str(story.attempt.conversation)
    kind = chance.choice(("stays", "leaves", "comes back", "comes late"))
    if kind == "comes late":
        await asyncio.sleep(chance.uniform(0, 1))
        return await listen(user.at[at], conversation, resume=True)
    if kind == "stays":
        return await listen(user.at[at], conversation)
    heard = await listen(user.at[at], conversation, leave_after=chance.randint(1, story.words + 5))
    if kind == "leaves" or not heard.left:
        return heard
    await asyncio.sleep(chance.uniform(0, 0.5))
    return await listen(user.at[at], conversation, resume=True)


def _listeners(row: Row, stories: list[Story]) -> None:
    here = [(story, heard) for story in stories for heard in story.here]
    there = [(story, heard) for story in stories for heard in story.there]
    for where, listeners in (("the turn's own instance", here), ("the other instance", there)):
        bad = [heard.outcome for _, heard in listeners if heard.outcome not in ("done", "left")]
        row.expect(not bad, f"listeners at {where}: {count(bad)}")
        partly = sum(heard.outcome == "done" and heard.words != story.words for story, heard in listeners)
        row.expect(not partly, f"{partly} listeners at {where} got the final but not every word")
        row.notes.append(f"listeners at {where}: {count(heard.outcome for _, heard in listeners)}")


async def stops(stage: Stage) -> Row:
    """People press stop at any event, at either instance."""
    number = max(1, stage.turns // 2)
    row = Row("stopped by people", number, LIMIT)
    user = await stage.user(LIMIT)
    begun = time.monotonic()
    stories = await asyncio.gather(
        *(_stopped(user, random.Random(stage.random.random())) for _ in range(number))
    )
    settled = await stage.books.settled(user.workspace_id, 30)
    row.time_s = time.monotonic() - begun
    row.expect(settled is not None, "a lease is left over after 30 s")
    ids = [attempt.conversation for attempt, _, _ in stories if attempt.conversation is not None]
    compare(row, ids, await stage.books.produced(ids), await stage.books.charged(user.workspace_id))
    window = await stage.books.window(user.workspace_id)
    row.expect(window.consistent, f"the window says {window}")
    row.notes.append(f"answers: {count(heard.outcome for _, heard, _ in stories)}")
    row.notes.append(f"replies to stop: {count(status for _, _, status in stories)}")
    return row


async def _stopped(user: User, chance: random.Random) -> tuple[Attempt, Heard, int]:
    await asyncio.sleep(chance.uniform(0, 2))
    person, other = user.at[chance.randrange(2)], user.at[chance.randrange(2)]
    attempt = await send(person, "tokens=400 word=river delay_ms=25", messageId=str(uuid4()))
    if attempt.conversation is None:
        return attempt, Heard(attempt.status), 0
    listening = asyncio.create_task(listen(person, attempt.conversation))
    await asyncio.sleep(chance.uniform(0.5, 5))
    stopped = await other.call("POST", "/api/agents/chat/abort", {"streamId": attempt.conversation})
    return attempt, await listening, stopped.status
