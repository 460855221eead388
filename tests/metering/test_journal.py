"""Settlements on disk: who takes them, when they go, and what happens without a folder."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from pathlib import Path
from uuid import uuid4

import pytest

from geko_proxy.metering.journal import Journal
from geko_proxy.metering.leases import Amount, Lease, NewTurn
from geko_proxy.metering.ledger import Charge
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.metering.settlements import Settlement, replayed


def settlement() -> Settlement:
    turn = NewTurn(uuid4(), uuid4(), uuid4(), "conversation", "Mock", "gpt-4o")
    charges = [Charge("run", 1, "chat", "gpt-4o", "openAI", 3, 4)]
    return Settlement(Lease(turn, (), Amount(10)), Outcome.DONE, charges)


async def opened(folder: Path) -> Journal:
    journal = Journal(folder)
    assert await journal.open() == []
    return journal


def files(folder: Path) -> list[str]:
    return [path.suffix for path in sorted(folder.iterdir())]


async def test_a_file_exists_only_while_something_waits(tmp_path: Path) -> None:
    journal = await opened(tmp_path / "new" / "journal")
    folder = tmp_path / "new" / "journal"
    assert files(folder) == []
    first, second = settlement(), settlement()
    await asyncio.gather(journal.add(first), journal.add(second))
    (path,) = folder.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(each.turn_id for each in replayed(path.read_bytes()).settlements) == sorted(
        [first.turn_id, second.turn_id]
    )
    await journal.remove(first.turn_id)
    assert replayed(path.read_bytes()).settlements == [second]
    await journal.remove(second.turn_id)
    assert files(folder) == []
    await journal.add(first)
    assert files(folder) == [".journal"]
    await journal.close()


async def test_a_living_instances_file_is_left_alone_and_a_dead_ones_is_taken_by_one(tmp_path: Path) -> None:
    living, waits = await opened(tmp_path), settlement()
    await living.add(waits)
    assert await Journal(tmp_path).open() == []
    await living.close()  # as the system does it for a process that dies
    others = [Journal(tmp_path) for _ in range(3)]
    found = await asyncio.gather(*(each.open() for each in others))
    assert sorted(found) == [[], [], [waits]]
    assert files(tmp_path) == [".journal"]
    taker = others[found.index([waits])]
    await taker.remove(waits.turn_id)
    assert files(tmp_path) == []


async def test_a_torn_end_is_no_damage_and_damage_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dead, waits, torn = await opened(tmp_path), settlement(), settlement()
    await dead.add(waits)
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    await dead.add(torn)
    await dead.close()
    path.write_bytes(path.read_bytes()[:-20])
    first = Journal(tmp_path)
    assert await first.open() == [waits]
    await first.close()
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"1 00000000 {}\n" + good)
    second = Journal(tmp_path)
    assert await second.open() == [waits]
    assert files(tmp_path) == [".damaged", ".journal"] or files(tmp_path) == [".journal", ".damaged"]
    assert "can't be read" in caplog.text


async def test_without_a_folder_it_says_so_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "home").write_text("a file")
    journal = Journal(tmp_path / "home" / "journal")
    assert await journal.open() == []
    assert "server.home" in caplog.text
    waits = settlement()
    await journal.add(waits)
    await journal.remove(waits.turn_id)
    await journal.close()


async def test_a_full_disk_is_told_and_leaves_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal, first, lost, last = await opened(tmp_path), settlement(), settlement(), settlement()
    await journal.add(first)
    real = os.write

    def full(file: int, data: bytes) -> int:
        if len(data) < 30:
            raise OSError(28, "No space left on device")
        return real(file, data[: len(data) // 2])

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(os, "write", full)
        await journal.add(lost)
    assert "No space left" in caplog.text
    await journal.add(last)
    (path,) = tmp_path.iterdir()
    replay = replayed(path.read_bytes())
    assert (replay.settlements, replay.damaged) == ([first, last], 0)
    await journal.close()


async def test_the_file_is_locked_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named_at_lock = []
    real = fcntl.flock

    def flock(file: int, operation: int) -> None:
        named_at_lock.append(files(tmp_path))
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    journal = await opened(tmp_path)
    await journal.add(settlement())
    assert named_at_lock == [[".new"]]
    await journal.close()


async def test_what_never_got_its_name_is_swept_away(tmp_path: Path) -> None:
    for name, age_s in (("old", 7200), ("young", 10)):
        path = tmp_path / f"{name}.new"
        path.touch()
        os.utime(path, (time.time() - age_s,) * 2)
    await opened(tmp_path)
    assert [path.stem for path in tmp_path.iterdir()] == ["young"]
