"""How far an outbox is acknowledged, kept in a file of its own.

The file has its full size from the start, so that it can be written when the disk is full. Two slots are written in
turn, each with a checksum: a write that is torn leaves the other.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from agentledger.producers.outbox.disk import OutboxDisk
from agentledger.producers.outbox.framing import NO_SEQ

FILE_NAME = "position"
UNKNOWN_SEQ = -2
_SLOT = struct.Struct("<QQQqqB")
_SLOT_BYTES = 512  # a sector of its own
_CRC = struct.Struct("<I")


class Position(NamedTuple):
    """Everything before `offset` of `segment` is acknowledged; the last event before it is `last_seq`.

    `unprotected_from` is the first event that is in memory alone because the disk refused it, NO_SEQ where none is.
    `is_clean`: the process ended in order, and what it left is on the disk whatever happens to the machine.
    """

    segment: int = 1
    offset: int = 0
    last_seq: int = NO_SEQ
    unprotected_from: int = NO_SEQ
    is_clean: bool = False


def newest_slot(raw: bytes) -> tuple[int, Position] | None:
    """The position that was written last, and the number of that write, from the bytes of a position file."""
    found: list[tuple[int, Position]] = []
    for begin in (0, _SLOT_BYTES):
        slot, checksum = raw[begin : begin + _SLOT.size], raw[begin + _SLOT.size : begin + _SLOT.size + _CRC.size]
        if len(checksum) == _CRC.size and _CRC.unpack(checksum)[0] == crc32(slot):
            turn, segment, offset, last_seq, unprotected, flags = _SLOT.unpack(slot)
            if turn:  # a slot of zeros was never written
                found.append((turn, Position(segment, offset, last_seq, unprotected, bool(flags))))
    return max(found, default=None)


class PositionFile:
    """The position of one outbox. Raises OSError."""

    def __init__(self, disk: OutboxDisk, folder: Path) -> None:
        self._file = disk.open(folder / FILE_NAME)
        self._turn = 0
        if self._file.size < 2 * _SLOT_BYTES:
            self._file.append(bytes(2 * _SLOT_BYTES - self._file.size))

    def load(self) -> Position | None:
        """What was saved last; None where nothing of it can be read any more."""
        found = newest_slot(self._file.read(0, 2 * _SLOT_BYTES))
        if found is None:
            return None
        self._turn, position = found
        return position

    def save(self, position: Position) -> None:
        """Keep it; not before `sync` does it outlast a loss of power."""
        self._turn += 1
        segment, offset, last_seq, unprotected, is_clean = position
        raw = _SLOT.pack(self._turn, segment, offset, last_seq, unprotected, is_clean)
        self._file.write_at(self._turn % 2 * _SLOT_BYTES, raw + _CRC.pack(crc32(raw)))

    def sync(self) -> None:
        """Return when it would outlast a loss of power."""
        self._file.sync()

    def close(self) -> None:
        """Give the file back."""
        self._file.close()
