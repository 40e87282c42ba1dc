"""The packed message: many records of one source partition in one, joined without decoding them.

    message = version (1 byte, 1), entries
    entry   = source offset (int64), broker time in milliseconds (int64), size (int32), value (size bytes)

Integers are big-endian. A size of -1 marks a tombstone and -2 a value too big to pack: neither has value bytes, but
both keep their place, so that a reader can count them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from librt.strings import read_i32_be, read_i64_be
from mypy_extensions import i64

from agentledger.schemas.errors import CodecError

VERSION = b"\x01"
TOMBSTONE = -1
OVERSIZED: Final = -2
_ENTRY: Final = struct.Struct(">qqi")
ENTRY_OVERHEAD_BYTES: Final = _ENTRY.size


class PackedRecord(NamedTuple):
    """One source record. `value` is None for a tombstone, and for one too big to pack (`oversized`)."""

    offset: int
    timestamp_ms: int
    value: bytes | None
    oversized: bool = False


def pack(records: Iterable[PackedRecord]) -> bytes:
    """The records as one message value."""
    parts = [VERSION]
    for offset, timestamp_ms, value, oversized in records:
        if value is None or oversized:
            parts.append(_ENTRY.pack(offset, timestamp_ms, OVERSIZED if oversized else TOMBSTONE))
        else:
            parts += (_ENTRY.pack(offset, timestamp_ms, len(value)), value)
    return b"".join(parts)


class Entries:
    """The records of a message, one after the other: `take_next` brings the next one's fields.

    For who reads very many of them: no object is made for a record but its value.
    """

    __slots__ = ("_at", "_message", "offset", "oversized", "timestamp_ms", "value")

    def __init__(self, message: bytes) -> None:
        if message[:1] != VERSION:
            raise CodecError(
                f"packed version {message[:1].hex() or 'missing'} is unknown",
                next_step="run packer and worker of the same release",
            )
        self._message = message
        self._at = 1
        self.offset = 0
        self.timestamp_ms = 0
        self.value: bytes | None = None
        self.oversized = False

    def take_next(self) -> bool:
        """False where there is no other. Raises CodecError where the bytes are no packed message."""
        message = self._message
        at: i64 = self._at
        start: i64 = at + ENTRY_OVERHEAD_BYTES
        end: i64 = len(message)
        if start > end:
            if at == end:
                return False
            raise CodecError("a packed message ends in the middle of an entry")
        self.offset, self.timestamp_ms = read_i64_be(message, at), read_i64_be(message, at + 8)
        size: int = read_i32_be(message, at + 16)
        if size < 0:
            if size < OVERSIZED:
                raise CodecError(f"a packed entry has the size {size}")
            self.value, self.oversized, self._at = None, size == OVERSIZED, start
            return True
        after: i64 = start + size
        if after > end:
            raise CodecError("a packed message ends in the middle of a value")
        self.value, self.oversized, self._at = message[start:after], False, after
        return True


def unpack(message: bytes) -> list[PackedRecord]:
    """The records of a message value, in order. Raises CodecError where the bytes are no packed message."""
    records: list[PackedRecord] = []
    entries = Entries(message)
    while entries.take_next():
        records.append(PackedRecord(entries.offset, entries.timestamp_ms, entries.value, entries.oversized))
    return records
