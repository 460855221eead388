"""What became of a turn and what it is charged, and the file format in which that waits for the database.

A journal is lines: version, CRC-32 of what follows in hex, and JSON; either a settlement or the id of a turn that is
done. A line that was cut off, or damaged, is told by its checksum and passed over. No I/O here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple
from uuid import UUID
from zlib import crc32

import msgspec

from geko_proxy.metering.leases import Lease
from geko_proxy.metering.ledger import Charge
from geko_proxy.metering.lifecycle import Outcome

VERSION: Final = b"1"


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of a turn. recovering: as in `Leases.settle`."""

    lease: Lease
    outcome: Outcome
    charges: Sequence[Charge]
    recovering: bool = False

    @property
    def turn_id(self) -> UUID:
        return self.lease.turn_id


class _Line(msgspec.Struct, omit_defaults=True):
    """One line: a settlement, or that a turn is done."""

    settle: Settlement | None = None
    done: UUID | None = None


class Replay(NamedTuple):
    """What a journal holds: settlements that are not done, oldest first. damaged: lines that could not be read."""

    settlements: list[Settlement]
    damaged: int


_decode = msgspec.json.Decoder(_Line).decode


def settlement_line(settlement: Settlement) -> bytes:
    """The line that keeps a settlement."""
    return _line(_Line(settle=settlement))


def done_line(turn_id: UUID) -> bytes:
    """The line that says that a turn has been settled."""
    return _line(_Line(done=turn_id))


def replayed(data: bytes) -> Replay:
    """What a journal's bytes hold. A last line without its end was being written when the process died: no damage."""
    lines = data.split(b"\n")[:-1]
    waiting: dict[UUID, Settlement] = {}
    damaged = 0
    for line in lines:
        read = _read(line)
        if read is None:
            damaged += 1
        elif read.settle is not None:
            waiting[read.settle.turn_id] = read.settle
        elif read.done is not None:
            waiting.pop(read.done, None)
    return Replay(list(waiting.values()), damaged)


def journal_of(settlements: Iterable[Settlement]) -> bytes:
    """A journal that holds these settlements."""
    return b"".join(settlement_line(each) for each in settlements)


def _line(line: _Line) -> bytes:
    payload = msgspec.json.encode(line)
    return b"%s %08x %s\n" % (VERSION, crc32(payload), payload)


def _read(line: bytes) -> _Line | None:
    version, _, rest = line.partition(b" ")
    checksum, _, payload = rest.partition(b" ")
    if version != VERSION or checksum != b"%08x" % crc32(payload):
        return None
    try:
        return _decode(payload)
    except (msgspec.DecodeError, ValueError):
        return None
