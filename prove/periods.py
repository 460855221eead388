"""A month that ends inside running turns, a time zone that changes, a limit that is lowered below what is used."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import asyncpg

from geko_proxy.metering.windows import Window, month_window
from prove import servers
from prove.load import Attempt, compare, count, listen, send
from prove.report import Row
from prove.stage import Stage, client_of

LIMIT = 1_000_000
AHEAD_S = 12.0  # of the month's end, when the instance with the moved clock starts
WINDOWS = "select starts_at, used, leased from limit_windows where limit_id = $1 order by starts_at"
LEDGER = """
select coalesce(sum(tokens), 0)::bigint as tokens from usage_events
where workspace_id = $1 and occurred_at >= $2 and occurred_at < $3"""
ZONE = "update tenants set time_zone = $2 where tenant_id = $1"


async def month_ends(stage: Stage) -> Row:
    """Turns that began before midnight count in the old month, whole; those after it in the new one.

    A clock can't be moved for PostgreSQL, so one instance is started whose quota filter sees the calendar ahead.
    """
    number = max(2, stage.turns // 10)
    row = Row("the month ends inside running turns", 2 * number, LIMIT)
    user = await stage.user(LIMIT)
    begun = time.monotonic()
    now = datetime.now(UTC)
    old = month_window(now, "UTC")
    shift = (old.end - now).total_seconds() - AHEAD_S
    late = servers.geko("geko-late", stage.folder, stage.env, clock_ahead_s=shift)
    await late.start()
    try:
        async with client_of(late) as client:
            person = replace(user.at[0], client=client)
            before = await asyncio.gather(*(send(person, "tokens=150 delay_ms=80") for _ in range(number)))
            running = [asyncio.create_task(listen(person, str(each.conversation))) for each in before]
            left = (old.end - datetime.now(UTC)).total_seconds() - shift
            await asyncio.sleep(left + 0.5)
            row.expect(
                left > 0 and not any(each.done() for each in running),
                "the month did not end inside the turns",
            )
            after = await asyncio.gather(*(send(person, "tokens=20 delay_ms=5") for _ in range(number)))
            heard = [
                *await asyncio.gather(*running),
                *await asyncio.gather(*(listen(person, str(a.conversation)) for a in after)),
            ]
    finally:
        await late.stop()
    row.time_s = time.monotonic() - begun
    ids = [str(each.conversation) for each in (*before, *after)]
    produced = await stage.books.produced(ids)
    compare(row, ids, produced, await stage.books.charged(user.workspace_id))
    row.expect(
        all(each.outcome == "done" for each in heard), f"answers: {count(each.outcome for each in heard)}"
    )
    windows = {each["starts_at"]: each for each in await stage.books.fetch(WINDOWS, UUID(user.workspace_id))}
    for start, attempts, name in ((old.start, before, "old"), (old.end, after, "new")):
        wanted = sum(produced[str(each.conversation)].tokens for each in attempts)
        found = windows[start]["used"] if start in windows else 0
        row.expect(found == wanted, f"the {name} month is charged {found}, its turns reported {wanted}")
    row.notes.append("an instance whose quota filter saw the calendar ahead; the database kept the real time")
    return row


async def zone_changes(stage: Stage) -> Row:
    """The tenant's month begins at another instant from now on; what was used in it counts, also by running turns."""
    number = max(2, stage.turns // 10)
    row = Row("the time zone changes inside running turns", 2 * number, LIMIT)
    user = await stage.user(LIMIT)
    tenant, workspace = UUID(user.at[0].tenant_id), UUID(user.workspace_id)
    begun = time.monotonic()
    before = await asyncio.gather(*(send(user.at[n % 2], "tokens=100 delay_ms=40") for n in range(number)))
    running = [
        asyncio.create_task(listen(user.at[n % 2], str(each.conversation))) for n, each in enumerate(before)
    ]
    await _change_zone(stage, tenant, "Pacific/Kiritimati")
    new = month_window(datetime.now(UTC), "Pacific/Kiritimati")
    deadline = time.monotonic() + 5
    after: list[Attempt] = []
    windows: list[asyncpg.Record] = []
    while time.monotonic() < deadline and len(windows) < 2:  # until an instance has heard of it
        after.append(await send(user.at[0], "tokens=5 delay_ms=1"))
        windows = await stage.books.fetch(WINDOWS, workspace)
        await asyncio.sleep(0.2)
    row.turns = number + len(after)
    heard = await asyncio.gather(*running)
    await stage.books.settled(user.workspace_id, 10)
    row.time_s = time.monotonic() - begun
    ids = [str(each.conversation) for each in (*before, *after)]
    compare(row, ids, await stage.books.produced(ids), await stage.books.charged(user.workspace_id))
    row.expect(
        all(each.outcome == "done" for each in heard), f"answers: {count(each.outcome for each in heard)}"
    )
    await _new_window_holds_all(stage, row, workspace, new)
    return row


async def _change_zone(stage: Stage, tenant: UUID, zone: str) -> None:
    """As the admin API does it: the row, and a word to all instances."""
    connection = await asyncpg.connect(stage.postgres.dsn)
    try:
        await connection.execute(ZONE, tenant, zone)
        await connection.execute("select pg_notify('geko_invalidation', $1)", f"tenant {tenant}")
    finally:
        await connection.close()


async def _new_window_holds_all(stage: Stage, row: Row, workspace: UUID, new: Window) -> None:
    windows = {each["starts_at"]: each for each in await stage.books.fetch(WINDOWS, workspace)}
    row.expect(new.start in windows, "no turn was counted in the new window")
    (ledger,) = await stage.books.fetch(LEDGER, workspace, new.start, new.end)
    used = windows[new.start]["used"] if new.start in windows else 0
    row.expect(
        used == ledger["tokens"],
        f"the new window says {used} used, the ledger of its time {ledger['tokens']}",
    )
    row.expect(all(each["leased"] == 0 for each in windows.values()), "something is still leased")


async def limit_lowered(stage: Stage) -> Row:
    """Below what is used: running turns get nothing more than they hold, and no new one begins."""
    number = max(2, stage.turns // 4)
    row = Row("the limit is lowered below what is used", number + 2, 0)
    user = await stage.user(LIMIT)
    begun = time.monotonic()
    sent = await asyncio.gather(
        *(send(user.at[n % 2], "tokens=2000 word=river delay_ms=20") for n in range(number))
    )
    running = [
        asyncio.create_task(listen(user.at[n % 2], str(each.conversation))) for n, each in enumerate(sent)
    ]
    await asyncio.sleep(5)
    held = await stage.books.window(user.workspace_id)
    lowered = time.monotonic()
    row.limit = held.leased // 2
    await user.at[0].set_quota(row.limit)
    refused = [await send(person, "tokens=5") for person in user.at]
    heard = await asyncio.gather(*running)
    took = time.monotonic() - lowered
    await stage.books.settled(user.workspace_id, 10)
    row.time_s = time.monotonic() - begun
    ids = [str(each.conversation) for each in sent]
    compare(row, ids, await stage.books.produced(ids), await stage.books.charged(user.workspace_id))
    row.expect(
        all(each.status == 429 for each in refused), f"new turns got {count(each.status for each in refused)}"
    )
    row.expect(
        all(each.outcome == "aborted" for each in heard), f"answers: {count(each.outcome for each in heard)}"
    )
    row.overshoot = max(0, (row.provider or 0) - held.leased)
    step = 100 * 8 * number  # one that was asked for just before
    row.expect(row.overshoot <= step, "running turns got more than they held when the limit was lowered")
    row.notes.append(
        f"{held.leased} tokens were leased when it was lowered to {row.limit}; the last answer was cut {took:.1f} s"
        " after; the overshoot is what was produced beyond these"
    )
    window = await stage.books.window(user.workspace_id)
    row.expect(window.consistent, f"the window says {window}")
    return row
