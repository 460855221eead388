"""The format of the journal, cut and damaged at every place."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.metering.leases import Amount, Lease, NewTurn
from geko_proxy.metering.ledger import Charge, Source
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.metering.limits import Hold, LimitScope, Unit
from geko_proxy.metering.settlements import (
    Settlement,
    done_line,
    journal_of,
    replayed,
    settlement_line,
)
from geko_proxy.metering.windows import Window

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
numbers = st.integers(0, 2**50)
times = st.integers(0, 2**32).map(lambda second: datetime.fromtimestamp(second, UTC))
ids = st.sampled_from([UUID(int=n) for n in range(4)])  # few, so that some turns come twice
turns = st.builds(
    NewTurn,
    st.uuids(),
    st.uuids(),
    st.uuids(),
    st.none() | names,
    names,
    names,
    ids,
    st.none() | st.uuids(),
    times,
)
windows = st.builds(Window, times, times)
holds = st.builds(Hold, st.uuids(), names, windows, st.sampled_from(Unit), st.sampled_from(LimitScope), names)
leases = st.builds(Lease, turns, st.lists(holds, max_size=2).map(tuple), st.builds(Amount, numbers, numbers))
charges = st.builds(
    Charge, names, st.integers(-10, 10), names, names, names, numbers, numbers, numbers, numbers,
    st.booleans(), st.sampled_from(Source), numbers,
)  # fmt: skip
settlements = st.builds(
    Settlement, leases, st.sampled_from(Outcome), st.lists(charges, max_size=3), st.booleans()
)
lines = st.lists(settlements | ids, max_size=6)  # an id: that turn is done


def written(entries: list[Settlement | UUID]) -> list[bytes]:
    return [done_line(each) if isinstance(each, UUID) else settlement_line(each) for each in entries]


def waiting(entries: list[Settlement | UUID]) -> list[Settlement]:
    """What is left to be settled, by a simple model."""
    left: dict[UUID, Settlement] = {}
    for each in entries:
        if isinstance(each, UUID):
            left.pop(each, None)
        else:
            left[each.turn_id] = each
    return list(left.values())


@given(lines)
def test_a_journal_gives_back_what_was_put_in(entries: list[Settlement | UUID]) -> None:
    assert replayed(b"".join(written(entries))) == (waiting(entries), 0)


@given(lines, st.data())
def test_cut_at_any_byte_it_gives_what_was_written_whole(
    entries: list[Settlement | UUID], data: st.DataObject
) -> None:
    parts = written(entries)
    whole = b"".join(parts)
    cut = data.draw(st.integers(0, len(whole)))
    kept = next(n for n in range(len(parts), -1, -1) if len(b"".join(parts[:n])) <= cut)
    assert replayed(whole[:cut]) == (waiting(entries[:kept]), 0)


@given(st.lists(settlements, min_size=1, max_size=4, unique_by=lambda each: each.turn_id), st.data())
def test_a_damaged_byte_costs_no_more_than_its_line(entries: list[Settlement], data: st.DataObject) -> None:
    whole = bytearray(journal_of(entries))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    replay = replayed(bytes(whole))
    good = [each for each in replay.settlements if each in entries]
    assert len(good) == len(replay.settlements)  # never one that nobody wrote
    assert len(good) >= len(entries) - 2  # the end of a line holds two together, or hides the last
    lost_end = bytes(whole)[-1:] != b"\n"
    assert replay.damaged or lost_end or len(good) == len(entries)


@given(st.binary(max_size=200))
def test_anything_else_is_damage(data: bytes) -> None:
    assert replayed(data).settlements == []


def test_charges_of_a_later_line_count() -> None:
    """A turn that is settled twice while the database is away: the last word counts."""
    turn = NewTurn(uuid4(), uuid4(), uuid4(), "c", "Mock", "m")
    lease = Lease(turn, (), Amount(1))
    first, last = Settlement(lease, Outcome.FAILED, []), Settlement(lease, Outcome.DONE, [])
    assert replayed(journal_of([first, last])).settlements == [last]
