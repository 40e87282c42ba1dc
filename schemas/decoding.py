"""Readers compiled from the schemas: one function per record that takes a few named fields out of an Avro body.

For who reads very many events and needs a third of each: several times as fast as reading all of it. A reader skips
what isn't wanted, and remembers what it read last where fields repeat from event to event (a `Memo`).

A reader gives what `Codec.decode` gives for those fields, or raises; it raises for whatever is unusual (an over-long
number, say), so whoever uses it asks `Codec.decode` then. It doesn't look into text that it skips: a body whose only
fault is text there that is no UTF-8 passes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from agentledger.schemas.catalogue import Schema
from agentledger.schemas.errors import SchemaError
from agentledger.schemas.events import Event
from agentledger.schemas.written import define

# (bytes, position of the first field to read, memo, event): the event gets the wanted fields, and keeps its others.
Reader = Callable[[bytes, int, "Memo", Any], None]
Memo = list[tuple[bytes, Any]]  # per repeated part: its bytes when it was read last, and what they say

_NOTHING: tuple[bytes, Any] = (b"\x01", None)  # no text or map begins with these bytes


class UnusualError(ValueError):
    """The bytes are wrong, or right in a way that only the codec reads."""


def read_long(value: bytes, at: int) -> tuple[int, int]:
    """A number of up to nine bytes, and where it ends."""
    rest = shift = 0
    while True:
        byte = value[at]
        at += 1
        rest |= (byte & 127) << shift
        if byte < 128:
            return (rest >> 1) ^ -(rest & 1), at
        shift += 7
        if shift > 56:
            raise UnusualError("a number of more than nine bytes")


def text_end(value: bytes, at: int) -> tuple[int, int]:
    """Where a text begins, after its size, and where it ends."""
    size, start = read_long(value, at)
    if size < 0 or start + size > len(value):
        raise UnusualError("a text that ends outside")
    return start, start + size


def read_texts(value: bytes, at: int) -> tuple[list[str], int]:
    """An array of texts, and where it ends."""
    items: list[str] = []
    while value[at]:
        count, at = read_long(value, at)
        if count < 0:
            raise UnusualError("a block with its size")
        for _ in range(count):
            start, at = text_end(value, at)
            items.append(value[start:at].decode())
    return items, at + 1


def read_map(value: bytes, at: int) -> tuple[dict[str, str], int]:
    """A map of texts, and where it ends."""
    entries: dict[str, str] = {}
    while value[at]:
        count, at = read_long(value, at)
        if count < 0:
            raise UnusualError("a block with its size")
        for _ in range(count):
            start, at = text_end(value, at)
            name = value[start:at].decode()
            start, at = text_end(value, at)
            entries[name] = value[start:at].decode()
    return entries, at + 1


_HEADER = """\
from librt.strings import read_f64_le
from mypy_extensions import i64

from agentledger.schemas.decoding import Memo, UnusualError, read_long, read_map, read_texts, text_end
from agentledger.schemas.events import {kind}


def read(value: bytes, at: i64, memo: Memo, event: {kind}) -> None:
    size: i64
    start: i64
    end: i64
    rest: i64
    last: i64
    start_of_part: i64
"""


def new_memo(repeated: Sequence[Collection[str]]) -> Memo:
    """An empty memo for readers compiled with these repeated parts."""
    return [_NOTHING] * len(repeated)


def compile_reader(
    schema: Schema, kind: type[Event], first: int, wanted: Collection[str], repeated: Sequence[Collection[str]] = ()
) -> Reader:
    """A reader of the fields from number `first` on, into an event of this kind.

    `repeated` names parts that are often the same in one event as in the one before that is read with the same memo: a
    map, or texts that follow each other. Parts that this record doesn't have are passed over.
    """
    reader: Reader = define(reader_source(schema, kind, first, wanted, repeated), "read")
    return reader


def reader_source(
    schema: Schema, kind: type[Event], first: int, wanted: Collection[str], repeated: Sequence[Collection[str]] = ()
) -> str:
    """The source of the module that `compile_reader` takes its function from."""
    names = [field["name"] for field in schema["fields"]]
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise SchemaError(f"{schema['name']} has no field {unknown[0]}", next_step="name one of its fields")
    starts = {min(part, key=names.index): place for place, part in enumerate(repeated) if set(part) <= set(names)}
    lines: list[str] = []
    place = first
    while place < len(names):
        part = starts.get(names[place])
        size = 1 if part is None else len(repeated[part])
        fields = schema["fields"][place : place + size]
        place += size
        if part is None:
            lines += _field_lines(fields[0]["type"], f"event.{fields[0]['name']}", fields[0]["name"] in wanted)
        else:
            lines += _repeated_lines(fields, part, wanted)
    lines += ["if at != len(value):", "    raise UnusualError('bytes are missing or left over')"]
    return _HEADER.format(kind=kind.__name__) + "".join(f"    {line}\n" for line in lines)


def _repeated_lines(fields: list[Any], part: int, wanted: Collection[str]) -> list[str]:
    kept = [(place, field) for place, field in enumerate(fields) if field["name"] in wanted]
    targets = "".join(f"event.{field['name']}, " for _, field in kept)
    read: list[str] = []
    for place, field in enumerate(fields):
        read += _field_lines(field["type"], f"v{part}_{place}", field["name"] in wanted)
    found = "".join(f"v{part}_{place}, " for place, _ in kept)
    types = ", ".join("dict[str, str]" if isinstance(field["type"], dict) else "str" for _, field in kept)
    return [
        f"raw, found = memo[{part}]",
        "end = at + len(raw)",
        "if value[at:end] == raw:",
        "    at = end",
        "else:",
        "    start_of_part = at",
        *(f"    {line}" for line in read),
        f"    found = ({found})",
        f"    memo[{part}] = value[start_of_part:at], found",
        *(
            [f"part_{part}: tuple[{types}] = found", f"{targets}= part_{part}"]
            if kept
            else ["if found is None:", "    raise UnusualError('nothing read')"]
        ),
    ]


def _field_lines(avro_type: Any, target: str, wanted: bool) -> list[str]:
    """Statements that read the field at `at` into `target`, or pass over it."""
    if isinstance(avro_type, dict) and avro_type.get("logicalType") == "timestamp-micros" and wanted:
        return _time_lines(target)
    kind = avro_type["type"] if isinstance(avro_type, dict) else avro_type
    if isinstance(kind, list):
        return [
            "size = value[at]",
            "if size == 0:",
            "    at += 1",
            *([f"    {target} = None"] if wanted else []),
            "elif size == 2:",
            "    at += 1",
            *(f"    {line}" for line in _field_lines(kind[1], target, wanted)),
            "else:",
            "    raise UnusualError('no such branch')",
        ]
    if kind in ("string", "long"):
        return _text_lines(target, wanted) if kind == "string" else _long_lines(target, wanted)
    if kind == "double":
        return [*([f"{target} = read_f64_le(value, at)"] if wanted else []), "at += 8"]
    if kind == "boolean":
        return [
            "if value[at] > 1:",
            "    raise UnusualError('no boolean')",
            *([f"{target} = value[at] == 1"] if wanted else []),
            "at += 1",
        ]
    if kind in ("map", "array"):
        call = "read_map" if kind == "map" else "read_texts"
        return [f"{target if wanted else '_'}, at = {call}(value, at)"]
    raise SchemaError(f"no reader for the Avro type {kind!r}", next_step="add it to decoding.py, with its test")


def _text_lines(target: str, wanted: bool) -> list[str]:
    """A text whose size has one byte or two; of others a function finds the end. A size that isn't even is below 0."""
    read = [f"{target} = value[start:at].decode()"] if wanted else []
    empty = ["if size == 0:", f"    {target} = ''", "    at += 1"] if wanted else []
    return [
        "size = value[at]",
        *empty,
        f"{'elif' if wanted else 'if'} size < 128 and not size & 1:",
        "    start = at + 1",
        "    at = start + (size >> 1)",
        *(f"    {line}" for line in read),
        "elif value[at + 1] < 128 and not size & 1:",
        "    start = at + 2",
        "    at = start + ((size & 127) >> 1 | value[at + 1] << 6)",
        *(f"    {line}" for line in read),
        "else:",
        "    start, at = text_end(value, at)",
        *(f"    {line}" for line in read),
    ]


def _time_lines(target: str) -> list[str]:
    """A time between 1972 and 3100 has eight bytes: seven with the highest bit, which is taken off, and one without.

    Where one of the seven hasn't it, taking it off makes the whole negative.
    """
    groups = " | ".join(f"(value[at + {place}] - 128) << {7 * place}" for place in range(7))
    return [
        "last = value[at + 7]",
        f"rest = {groups} | last << 49",
        "if rest >= 0 and last < 128:",
        f"    {target} = (rest >> 1) ^ -(rest & 1)",
        "    at += 8",
        "else:",
        f"    {target}, at = read_long(value, at)",
    ]


def _long_lines(target: str, wanted: bool) -> list[str]:
    if not wanted:
        return ["at += 1", "if value[at - 1] > 127:", "    at = read_long(value, at - 1)[1]"]
    return [
        "size = value[at]",
        "if size < 128:",
        f"    {target} = (size >> 1) ^ -(size & 1)",
        "    at += 1",
        "elif value[at + 1] < 128:",
        "    size = (size & 127) | (value[at + 1] << 7)",
        f"    {target} = (size >> 1) ^ -(size & 1)",
        "    at += 2",
        "else:",
        f"    {target}, at = read_long(value, at)",
    ]
