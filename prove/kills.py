"""kill -9 of an instance with running turns, and PostgreSQL restarting under load."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from uuid import UUID

from prove.load import Attempt, Heard, compare, count, listen, send
from prove.report import Row
from prove.stage import Stage, User

LIMIT = 100_000_000
SETTLED_WITHIN_S = 30.0
WAIT_S = 120.0  # longer than allowed, to see how long it takes
RESTART_S, OUTAGE_S = 5.0, 25.0
TRY_S = 0.25
BACK = 5  # listeners who look for their answer at the other instance
ENDED = """
select conversation_id, state, extract(epoch from ended_at)::float8 as ended_at
from turns where workspace_id = $1 and call_kind is null"""
SOURCES = "select source from usage_events where workspace_id = $1"


async def killed_instance(stage: Stage) -> Row:
    """One of two instances dies at a random moment; the other one settles its turns, exactly."""
    number = max(1, stage.turns // 2)
    row = Row("kill -9 of an instance", number, LIMIT)
    user = await stage.user(LIMIT)
    doomed = stage.instances[1]
    begun = time.monotonic()
    lengths = [stage.random.randint(100, 400) for _ in range(row.turns)]
    attempts = await asyncio.gather(*(_begin(user, 1, tokens, stage.random.random()) for tokens in lengths))
    ids = _conversations(attempts)
    row.expect(len(ids) == len(attempts), f"turns did not begin: {count(each.status for each in attempts)}")
    listening = [asyncio.create_task(listen(user.at[1], each)) for each in ids]
    await asyncio.sleep(stage.random.uniform(3, 8))
    running = (await stage.books.window(user.workspace_id)).leases
    await doomed.kill()
    killed_at = time.time()
    heard = await asyncio.gather(*listening)
    back = [asyncio.create_task(_come_back(user, each)) for each in ids[:BACK]]
    settled = await stage.books.settled(user.workspace_id, WAIT_S)
    row.time_s = time.monotonic() - begun
    row.expect(settled is not None, f"a lease is left over after {WAIT_S:.0f} s")
    row.notes.append(f"{running} turns ran when it was killed; their listeners got {_outcomes(heard)}")
    row.notes.append(
        f"{BACK} who came back at once to the other instance: {_outcomes(await asyncio.gather(*back))}"
    )
    await _charged_exactly(stage, row, user, ids, killed_at)
    await doomed.start()
    again = await asyncio.gather(
        *(send(user.at[0], "tokens=3", conversationId=each) for each in _conversations(attempts)[:10])
    )
    row.expect(
        all(each.status == 200 for each in again),
        f"their conversations can't go on: {count(each.status for each in again)}",
    )
    await stage.books.settled(user.workspace_id, 10)
    return row


async def _come_back(user: User, conversation: str) -> Heard:
    """Somebody whose instance died tries the other one until it has taken the answer over, or it has ended."""
    heard = await listen(user.at[0], conversation, resume=True)
    for _ in range(60):
        if heard.status != 404:
            break
        await asyncio.sleep(0.5)
        heard = await listen(user.at[0], conversation, resume=True)
    return heard


def _outcomes(heard: Sequence[Heard]) -> str:
    return count(each.outcome for each in heard)


async def _begin(user: User, at: int, tokens: int, wait_s: float) -> Attempt:
    await asyncio.sleep(wait_s)
    return await send(user.at[at], f"tokens={tokens} word=river delay_ms=50")


def _conversations(attempts: Sequence[Attempt]) -> list[str]:
    return [each.conversation for each in attempts if each.conversation is not None]


async def _charged_exactly(stage: Stage, row: Row, user: User, ids: Sequence[str], killed_at: float) -> None:
    """Each turn is charged what the provider reported, once, soon after its end; nothing is left over."""
    produced, charged = await stage.books.produced(ids), await stage.books.charged(user.workspace_id)
    compare(row, ids, produced, {each: charged[each] for each in ids})
    turns = await stage.books.fetch(ENDED, UUID(user.workspace_id))
    late = {
        turn["conversation_id"]: turn["ended_at"] - max(killed_at, produced[turn["conversation_id"]].ended_at)
        for turn in turns
        if turn["state"] == "recovered" and turn["conversation_id"] in produced
    }
    slowest = max(late.values(), default=0.0)
    row.expect(
        slowest <= SETTLED_WITHIN_S,
        f"settled {slowest:.1f} s after its end (allowed: {SETTLED_WITHIN_S:.0f} s)",
    )
    row.expect(bool(late), "no turn was recovered")
    estimated = sum(charged[each].estimated for each in late)
    sources = Counter(row["source"] for row in await stage.books.fetch(SOURCES, UUID(user.workspace_id)))
    row.notes.append(
        f"{len(late)} turns were recovered, {estimated} of them estimated, the slowest {slowest:.1f} s after the kill"
        f" or its end in LibreChat, whichever was later; the ledger's sources: {dict(sources)}"
    )
    row.expect(not estimated, f"{estimated} recovered turns are estimated, though their provider reports")
    window = await stage.books.window(user.workspace_id)
    row.expect(window.consistent, f"the window says {window}")


async def restarted_database(stage: Stage) -> Row:
    """PostgreSQL goes away for some seconds under load, and comes back: no answer suffers."""
    row = Row("PostgreSQL restarts under load", max(1, stage.turns // 2), LIMIT)
    heard = await _without_database(stage, row, RESTART_S)
    ended = sum(each.outcome != "done" for each in heard)
    row.expect(not ended, f"{ended} of {len(heard)} running answers did not reach their normal end")
    return row


async def absent_database(stage: Stage) -> Row:
    """PostgreSQL is away for longer than a lease lives: answers may be cut, but not charged wrongly."""
    row = Row("PostgreSQL is away for 25 s", max(1, stage.turns // 2), LIMIT)
    await _without_database(stage, row, OUTAGE_S)
    return row


async def _without_database(stage: Stage, row: Row, away_s: float) -> list[Heard]:
    user = await stage.user(LIMIT)
    begun = time.monotonic()
    chance = stage.random
    orders = [(chance.randrange(2), chance.randint(40, 350)) for _ in range(row.turns)]
    attempts = await asyncio.gather(*(_begin(user, *order, chance.random()) for order in orders))
    listening = [
        asyncio.create_task(listen(user.at[at], each.conversation))
        for (at, _), each in zip(orders, attempts, strict=True)
        if each.conversation is not None
    ]
    await asyncio.sleep(chance.uniform(0.5, 2))
    stopping = time.monotonic()
    await stage.postgres.stop()
    gone = time.monotonic()
    refused = await _try_while_away(user, away_s)
    await stage.postgres.start()
    back = time.monotonic()
    accepted = await _first_accepted(user, row)
    heard = await asyncio.gather(*listening)
    settled = await stage.books.settled(user.workspace_id, WAIT_S)
    row.time_s = time.monotonic() - begun
    row.expect(settled is not None, "a lease is left over two minutes after the last answer ended")
    row.notes.append(
        f"it took {gone - stopping:.1f} s to stop, was away for {back - gone:.1f} s, and the first turn began "
        f"{accepted - back:.1f} s after; the last turn was settled {settled or WAIT_S:.1f} s after the last answer"
    )
    _refusals(row, refused)
    await _charges(stage, row, user, attempts, heard)
    return heard


async def _try_while_away(user: User, away_s: float) -> list[Attempt]:
    tries: list[asyncio.Task[Attempt]] = []
    end = time.monotonic() + away_s
    while time.monotonic() < end:
        tries += [asyncio.create_task(send(person, "tokens=3")) for person in user.at]
        await asyncio.sleep(TRY_S)
    done, late = await asyncio.wait(tries, timeout=10)
    for task in late:
        task.cancel()
    hung = [Attempt(0, 0, -1) for _ in late]
    return [task.result() for task in done] + hung


async def _first_accepted(user: User, row: Row) -> float:
    for _ in range(100):
        attempt = await send(user.at[0], "tokens=3 delay_ms=1")
        if attempt.status == 200:
            return time.monotonic()
        await asyncio.sleep(0.1)
    row.expect(False, "no turn begins after PostgreSQL is back")
    return time.monotonic()


def _refusals(row: Row, refused: list[Attempt]) -> None:
    wrong = [each for each in refused if each.status != 503 or not each.retry_after]
    row.expect(
        not wrong,
        f"new turns while it was away got {count(each.status for each in wrong)}, not 503 with Retry-After",
    )
    slowest = max((each.answered - each.sent for each in refused), default=0)
    row.notes.append(
        f"new turns while it was away: {count(each.status for each in refused)}, the slowest after {slowest:.1f} s"
    )


async def _charges(
    stage: Stage, row: Row, user: User, attempts: Sequence[Attempt], heard: Sequence[Heard]
) -> None:
    ids = _conversations(attempts)
    charged = await stage.books.charged(user.workspace_id)
    produced = await stage.books.produced(ids)
    compare(row, ids, produced, {each: charged[each] for each in ids if each in charged})
    row.notes.append(f"answers that ran meanwhile: {count(each.outcome for each in heard)}")
    outcomes = [outcome for each in ids for outcome in charged[each].outcomes]
    row.notes.append(f"their turns: {count(outcomes)}")
    window = await stage.books.window(user.workspace_id)
    row.expect(window.consistent, f"the window says {window}")
