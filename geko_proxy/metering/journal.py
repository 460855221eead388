"""Keeps on disk what could not be settled because the database was away: what a client saw ended stays charged.

Each instance has a file of its own, locked while it lives; it exists only while something waits. The files of dead
instances are taken over at the start. Without a folder that can be written, settlements wait in memory only.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

from geko_proxy.metering.settlements import Settlement, done_line, journal_of, replayed, settlement_line

log = logging.getLogger(__name__)

SUFFIX: Final = ".journal"
NEW_SUFFIX: Final = ".new"  # not locked yet, and empty
STALE_S: Final = 3600.0
FOLDER_MODE, FILE_MODE = 0o700, 0o600  # it says who used what


class Journal:
    """The journal of one instance. folder: None for one that keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._path = folder / f"settlements-{uuid4().hex}{SUFFIX}" if folder is not None else None
        self._file: int | None = None
        self._length = 0  # of what has been written whole
        self._waiting: set[UUID] = set()
        self._unwritten: list[bytes] = []
        self._lock = asyncio.Lock()

    async def open(self) -> list[Settlement]:
        """What dead instances have left, now in this journal. Says in the log when nothing can be kept on disk."""
        if self._folder is None:
            return []
        async with self._lock:
            try:
                found = await asyncio.to_thread(self._open)
            except OSError as error:
                log.warning(
                    "settlements can't be kept on disk (%s): those of an outage of the database are lost if this"
                    " process dies meanwhile; set server.home to a folder that GEKO may write",
                    error,
                )
                self._folder = self._path = None
                return []
        self._waiting = {each.turn_id for each in found}
        if found:
            log.warning("%d turns of instances that died are still to be settled", len(found))
        return found

    async def add(self, settlement: Settlement) -> None:
        """Keep a settlement until it is on disk, or log why it is not. Those that come together share a write."""
        if self._path is None:
            return
        self._waiting.add(settlement.turn_id)
        self._unwritten.append(settlement_line(settlement))
        async with self._lock:
            if self._unwritten:
                await self._write(sync=True)

    async def remove(self, turn_id: UUID) -> None:
        """A turn has been settled. The file goes with the last one."""
        if turn_id not in self._waiting:
            return
        self._waiting.discard(turn_id)
        async with self._lock:
            self._unwritten.append(done_line(turn_id))
            if self._waiting:
                await self._write(sync=False)  # settled twice, it is charged once
            else:
                self._unwritten.clear()
                await asyncio.to_thread(self._delete)

    async def close(self) -> None:
        """Give the file up; it stays if something waits in it, for the next start."""
        async with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    async def _write(self, *, sync: bool) -> None:
        data = b"".join(self._unwritten)
        self._unwritten.clear()
        try:
            await asyncio.to_thread(self._append, data, sync=sync)
        except OSError as error:
            log.error("a settlement could not be kept on disk: %s", error)

    def _open(self) -> list[Settlement]:
        assert self._folder is not None
        self._folder.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        probe = self._folder / f"{uuid4().hex}{NEW_SUFFIX}"
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE))
        probe.unlink()
        self._sweep()
        found: dict[UUID, Settlement] = {}
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            for settlement in self._take_over(path):
                found[settlement.turn_id] = settlement
        return list(found.values())

    def _sweep(self) -> None:
        """Remove what was created and never got its name: its process died in that moment, long ago."""
        assert self._folder is not None
        for path in self._folder.glob(f"*{NEW_SUFFIX}"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE_S:
                    path.unlink()

    def _take_over(self, path: Path) -> list[Settlement]:
        """What a dead instance's file holds, moved here. Nothing, when its instance lives or another one is faster."""
        with suppress(FileNotFoundError):
            file = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(file).st_ino != path.stat().st_ino:
                    return []
                with open(file, "rb", closefd=False) as reader:
                    replay = replayed(reader.read())
                if replay.settlements:
                    self._append(journal_of(replay.settlements), sync=True)
                if replay.damaged:
                    kept = path.rename(path.with_suffix(".damaged"))
                    log.error("%d lines of a journal can't be read; it is kept as %s", replay.damaged, kept)
                else:
                    path.unlink()
                return replay.settlements
            except BlockingIOError:
                return []
            finally:
                os.close(file)
        return []

    def _append(self, data: bytes, *, sync: bool) -> None:
        if self._file is None:
            self._file = self._create()
        try:
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
            if sync:
                os.fsync(self._file)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, self._length)  # the next line must not follow half a one
            raise
        self._length += len(data)

    def _create(self) -> int:
        """The file, under its name only once it is locked: nobody takes it for a dead one's."""
        assert self._folder is not None
        assert self._path is not None
        new = self._path.with_suffix(NEW_SUFFIX)
        file = os.open(new, os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_WRONLY, FILE_MODE)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            new.rename(self._path)
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError:
            os.close(file)
            raise
        self._length = 0
        return file

    def _delete(self) -> None:
        if self._file is not None and self._path is not None:
            with suppress(FileNotFoundError):
                self._path.unlink()
            os.close(self._file)
            self._file = None
