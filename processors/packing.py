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

from agentledger.schemas.errors import CodecError

VERSION = b"\x01"
TOMBSTONE = -1
OVERSIZED: Final = -2
_ENTRY: Final = struct.Struct(">qqi")
ENTRY_OVERHEAD_BYTES: Final = _ENTRY.size
_made: Final = tuple.__new__  # a named tuple in half the time


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


def unpack(message: bytes) -> list[PackedRecord]:
    """The records of a message value, in order. Raises CodecError where the bytes are no packed message."""
    records: list[PackedRecord] = []
    if message[:1] != VERSION:
        raise CodecError(
            f"packed version {message[:1].hex() or 'missing'} is unknown",
            next_step="run packer and worker of the same release",
        )
    position, end = 1, len(message)
    offset: int
    timestamp_ms: int
    size: int
    while position < end:
        if position + ENTRY_OVERHEAD_BYTES > end:
            raise CodecError("a packed message ends in the middle of an entry")
        offset, timestamp_ms, size = _ENTRY.unpack_from(message, position)
        position += ENTRY_OVERHEAD_BYTES
        if size < 0:
            if size < OVERSIZED:
                raise CodecError(f"a packed entry has the size {size}")
            records.append(_made(PackedRecord, (offset, timestamp_ms, None, size == OVERSIZED)))
            continue
        start, position = position, position + size
        if position > end:
            raise CodecError("a packed message ends in the middle of a value")
        records.append(_made(PackedRecord, (offset, timestamp_ms, message[start:position], False)))
    return records
