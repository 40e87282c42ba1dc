"""How the hold fold's cells are kept: keys, values, and the tenant's head that makes a batch of them whole.

A cell's value is version (1 byte), the offset that it is folded up to (int64) and JSON. What changed in a batch must
become valid together or not at all, and the changelog takes records one by one. So the tenant's head, which is written
first, carries a copy of every cell that changed with it: after a crash the head's copies replace what is older.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable
from dataclasses import fields
from operator import attrgetter
from typing import Any

from agentledger.processors.hold_state import Account, Budget, Context, Halt, Head, Hold
from agentledger.schemas.errors import CodecError

STATE_VERSION = b"\x01"
TENANT, BUDGET, ACCOUNT, HOLD, HALT = b"t", b"b", b"a", b"h", b"x"  # kinds of cells
PLAIN_BYTES_MAX = 64 * 1024  # a head with more copies than this is compressed; it must stay below the topic's limit
_OFFSET = struct.Struct(">q")
_HEAD = struct.Struct(">iB")
_COPY = struct.Struct(">Hi")

Cells = dict[bytes, bytes | None]


def tenant_prefix(partition: int, tenant_id: str) -> bytes:
    """What the keys of all of a tenant's cells begin with."""
    tenant = tenant_id.encode()
    return b"".join((partition.to_bytes(4, "big"), len(tenant).to_bytes(2, "big"), tenant))


def split_key(key: bytes) -> tuple[int, str, bytes]:
    """Partition, tenant, and the rest of a cell's key: its kind and name."""
    end = 6 + int.from_bytes(key[4:6], "big")
    return int.from_bytes(key[:4], "big"), key[6:end].decode(), key[end:]


def encode_cell(offset: int, item: Budget | Account | Hold | Halt) -> bytes:
    """The cell's value."""
    return b"".join((STATE_VERSION, _OFFSET.pack(offset), _to_json(_fields_of(item)).encode()))


def decode_cell(value: bytes) -> list[Any]:
    """The fields of a cell, in the order of its class. Raises CodecError."""
    _check(value)
    fields: list[Any] = json.loads(value[9:])
    return fields


def decode_hold(value: bytes) -> Hold:
    """The inverse of `encode_cell` for a hold, whose context is nested."""
    fields = decode_cell(value)
    fields[-1] = Context(*fields[-1])
    return Hold(*fields)


def encode_head(head: Head, copies: Cells) -> bytes:
    """The head's value: version, offset, sizes, its own JSON, and the cells that changed with it."""
    text = _to_json([head.time_us, head.seq, head.unknown_reports]).encode()
    parts = []
    for key, value in copies.items():
        parts += [_COPY.pack(len(key), -1 if value is None else len(value)), key, value or b""]
    body = b"".join(parts)
    is_packed = len(body) > PLAIN_BYTES_MAX
    if is_packed:
        body = zlib.compress(body, 1)
    return b"".join((STATE_VERSION, _OFFSET.pack(head.offset), _HEAD.pack(len(text), is_packed), text, body))


def decode_head(value: bytes) -> tuple[Head, Cells]:
    """The inverse of `encode_head`. Raises CodecError."""
    _check(value)
    size, is_packed = _HEAD.unpack_from(value, 9)
    end = 9 + _HEAD.size + size
    head = Head(_OFFSET.unpack_from(value, 1)[0], *json.loads(value[9 + _HEAD.size : end]))
    body = zlib.decompress(value[end:]) if is_packed else value[end:]
    copies: Cells = {}
    position = 0
    while position < len(body):
        key_size, value_size = _COPY.unpack_from(body, position)
        position += _COPY.size
        key = body[position : position + key_size]
        position += key_size
        copies[key] = None if value_size < 0 else body[position : position + value_size]
        position += max(0, value_size)
    return head, copies


def cell_offset(value: bytes) -> int:
    """The offset that a cell is folded up to."""
    offset: int = _OFFSET.unpack_from(value, 1)[0]
    return offset


def newest_cells(stored: Iterable[tuple[bytes, bytes]], head_offset: int, copies: Cells) -> tuple[Cells, set[bytes]]:
    """The cells as of the head, and the names of those of which only the head has the newest: write them again."""
    cells: Cells = dict(stored)
    missing = set()
    for key, value in copies.items():
        known = cells.get(key)
        if known is not None and cell_offset(known) >= (head_offset if value is None else cell_offset(value)):
            continue
        missing.add(key)
        if value is None:
            cells.pop(key, None)
        else:
            cells[key] = value
    return cells, missing


def _check(value: bytes) -> None:
    if value[:1] != STATE_VERSION:
        raise CodecError(
            f"state version {value[:1].hex() or 'missing'} is unknown",
            where="changelog of holds",
            next_step="run the release that wrote it, or rebuild the state from the ledger",
        )


def _fields_of(item: object) -> Any:
    return _FIELDS[type(item)](item)


# `dataclasses.astuple` copies every list and dict within, too: that took longer than all else about a cell.
_FIELDS: dict[type, attrgetter[Any]] = {
    kind: attrgetter(*(field.name for field in fields(kind))) for kind in (Budget, Account, Hold, Context, Halt)
}
_to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False, default=_fields_of).encode
