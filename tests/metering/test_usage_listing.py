"""Pages of the ledger: every entry once, whatever the page's size; cursors that are none are refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.metering.usage_listing import Cursor, Selection, UsageListing
from geko_proxy.metering.windows import Window
from geko_proxy.storage.database import Database

if TYPE_CHECKING:
    from tests.metering.conftest import Place

    MakePlace = Callable[[int | None], Awaitable[Place]]

START = datetime(2031, 1, 30, tzinfo=UTC)
INSERT = """
insert into usage_events (tenant_id, turn_id, run_id, seq, workspace_id, user_id, kind, endpoint, model, provider,
    input_tokens, output_tokens, cached_tokens, reasoning_tokens, estimated, source, occurred_at)
values ($1, $2, $3, $4, $5, $6, 'chat', 'Mock', $7, 'p', 5, 0, 0, 0, false, 'provider', $8)"""


async def fill(database: Database, place: Place) -> list[tuple[object, ...]]:
    """Turns of several calls, several turns at one instant, over the end of a month."""
    keys: list[tuple[object, ...]] = []
    async with database.tenant(place.tenant_id) as scope:
        for number in range(12):
            turn, at = uuid4(), START + timedelta(hours=number // 2 * 8)
            for run, seq in (("a", 1), ("a", 2), ("b", -1)):
                who = (place.workspace_id, place.user_id, "big" if run == "a" else "small")
                await scope.execute(INSERT, turn, run, seq, *who, at)
                keys.append((at, turn, run, seq))
    return sorted(keys, reverse=True)


@pytest.mark.parametrize("size", [1, 3, 7, 36, 1000])
async def test_every_entry_once_and_newest_first(
    database: Database, make_place: MakePlace, size: int
) -> None:
    place = await make_place(None)
    await fill(database, await make_place(None))  # another tenant's
    keys, listing = await fill(database, place), UsageListing(database)
    window = Window(START, START + timedelta(days=9))
    found: list[tuple[object, ...]] = []
    after: Cursor | None = None
    while True:
        asked = Selection(place.tenant_id, place.workspace_id, window, after=after)
        rows, after = await listing.page(asked, size)
        assert len(rows) <= size
        found += [(row["occurred_at"], row["turn_id"], row["run_id"], row["seq"]) for row in rows]
        if after is None:
            break
        after = Cursor.parse(after.text)
    assert found == keys


async def test_filters_and_the_edges_of_a_window(database: Database, make_place: MakePlace) -> None:
    place = await make_place(None)
    keys, listing = await fill(database, place), UsageListing(database)
    window = Window(START, START + timedelta(hours=8))
    place_of = (place.tenant_id, place.workspace_id, window)
    rows, _ = await listing.page(Selection(*place_of), 100)
    assert len(rows) == sum(1 for key in keys if key[0] == START) == 6
    small, _ = await listing.page(Selection(*place_of, model="Mock/small"), 100)
    assert {row["run_id"] for row in small} == {"b"}
    assert await listing.page(Selection(*place_of, user_id=uuid4()), 100) == ([], None)


@given(
    st.datetimes(timezones=st.just(UTC)),
    st.uuids(),
    st.text(max_size=60).filter(lambda text: "\x00" not in text and text.isprintable()),
    st.integers(-(2**31), 2**31 - 1),
)
def test_a_cursor_survives_its_way(at: datetime, turn: object, run: str, seq: int) -> None:
    cursor = Cursor(at, turn, run, seq)  # type: ignore[arg-type]  # hypothesis gives UUIDs
    assert Cursor.parse(cursor.text) == cursor


@given(st.text(max_size=1100))
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"cursor|too long"):
        Cursor.parse(text)
