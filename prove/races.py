"""Many turns at once on a quota that fits half of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg

from prove.load import Attempt, Heard, compare, count, listen, send
from prove.report import Row
from prove.stage import Stage, User

SPARE = 0.02  # while more of the quota is free, nobody may be refused
MOST_OVERSHOOT = 0.01
STEP = 100  # of config/geko.toml: tokens of a top-up
SAMPLE_S = 0.01
RETRY_S = 1.0
GIVE_UP_S = 90.0
FREE = """
select l.amount - w.used - w.leased as free, w.leased
from limit_windows w join quota_limits l using (tenant_id, limit_id) where w.limit_id = $1"""


class Samples:
    """What was free and unleased, every few milliseconds."""

    def __init__(self) -> None:
        self.seen: list[
            tuple[float, int, int]
        ] = []  # when (before and after the look are in order), free, leased

    @property
    def leased(self) -> int:
        """Held by running turns at the last look."""
        return self.seen[-1][2] if self.seen else 0

    @property
    def free(self) -> int:
        """Neither used nor leased at the last look."""
        return self.seen[-1][1] if self.seen else 0

    def least_free(self, begun: float, ended: float) -> int | None:
        """The least that was free in a span of time, the looks before and after it included."""
        before = [free for at, free, _ in self.seen if at < begun][-1:]
        inside = [free for at, free, _ in self.seen if begun <= at <= ended]
        after = [free for at, free, _ in self.seen if at > ended][:1]
        return min([*before, *inside, *after], default=None)


@asynccontextmanager
async def sampling(dsn: str, workspace_id: str) -> AsyncIterator[Samples]:
    """Look at the window while the context is open."""
    samples = Samples()
    connection = await asyncpg.connect(dsn)

    async def look() -> None:
        while True:
            for row in await connection.fetch(FREE, UUID(workspace_id)):
                samples.seen.append((time.monotonic(), row["free"], row["leased"]))
            await asyncio.sleep(SAMPLE_S)

    task = asyncio.create_task(look())
    try:
        yield samples
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        connection.terminate()


async def half_fits(stage: Stage) -> Row:
    """All begin at once, over both instances; who is refused tries again until the quota is spent."""
    orders = [stage.random.randint(150, 350) for _ in range(stage.turns)]
    limit = sum(tokens + 30 for tokens in orders) // 2  # a prompt of this scenario has about 30 tokens
    row = Row("half of the turns fit", stage.turns, limit)
    user = await stage.user(limit)
    begun = time.monotonic()
    async with sampling(stage.postgres.dsn, user.workspace_id) as samples:
        runs = [_insist(user, number % 2, tokens, samples, limit) for number, tokens in enumerate(orders)]
        done = await asyncio.gather(*runs)
        settled = await stage.books.settled(user.workspace_id, 10)
    row.time_s = time.monotonic() - begun
    row.expect(settled is not None, "a lease is left over after 10 s")
    attempts = [attempt for each, _ in done for attempt in each]
    heard = [each for _, each in done if each is not None]
    await _amounts(stage, row, user, attempts)
    _refusals(row, samples, attempts)
    row.notes.append(
        f"answers: {count(each.outcome for each in heard)}; attempts: {count(a.status for a in attempts)}"
    )
    return row


async def _insist(
    user: User, at: int, tokens: int, samples: Samples, limit: int
) -> tuple[list[Attempt], Heard | None]:
    attempts: list[Attempt] = []
    deadline = time.monotonic() + GIVE_UP_S
    while time.monotonic() < deadline:
        attempt = await send(user.at[at], f"tokens={tokens} word=river delay_ms=40")
        attempts.append(attempt)
        if attempt.conversation is not None:
            return attempts, await listen(user.at[at], attempt.conversation)
        if samples.leased == 0 and samples.free <= SPARE * limit:
            break  # nothing runs, and what is left is too little
        await asyncio.sleep(RETRY_S)
    return attempts, None


async def _amounts(stage: Stage, row: Row, user: User, attempts: Sequence[Attempt]) -> None:
    conversations = [each.conversation for each in attempts if each.conversation is not None]
    charged = await stage.books.charged(user.workspace_id)
    produced = await stage.books.produced(conversations)
    compare(row, conversations, produced, charged)
    assert row.limit is not None
    row.overshoot = max(0, (row.provider or 0) - row.limit, (row.charged or 0) - row.limit)
    share = row.overshoot / row.limit
    row.expect(share < MOST_OVERSHOOT, f"the overshoot is {share:.2%} of the limit (allowed: 1 %)")
    started = len(conversations)
    row.expect(row.overshoot <= STEP * started, "the overshoot is more than one top-up step of each turn")
    window = await stage.books.window(user.workspace_id)
    row.expect(window.consistent, f"the window says {window}")
    row.notes.append(f"{started} turns began; {window.used / row.limit:.2%} of the limit are used in the end")


def _refusals(row: Row, samples: Samples, attempts: Sequence[Attempt]) -> None:
    assert row.limit is not None
    strange = [each for each in attempts if each.status not in (200, 429)]
    row.expect(
        not strange,
        f"unexpected replies: {count(each.status for each in strange)} {[s.text for s in strange[:1]]}",
    )
    falsely = 0
    for each in attempts:
        if each.status == 429:
            free = samples.least_free(each.sent, each.answered)
            falsely += free is not None and free > SPARE * row.limit
    row.false_refusals = falsely
    row.expect(not falsely, f"{falsely} refusals while more than 2 % of the quota was free and unleased")
    gaps = [b[0] - a[0] for a, b in zip(samples.seen, samples.seen[1:], strict=False)]
    row.notes.append(
        f"{len(gaps)} looks at the window, the longest time between two {max(gaps) * 1000:.0f} ms"
    )
