"""Encoders compiled from the schemas: one function per record that turns a typed event into its Avro body.

Byte for byte what fastavro writes (a test holds it to that), in a fraction of the time, because the shape of each
record is known when the function is made. Encoding is the only validation on the way out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from agentledger.schemas.catalogue import Schema
from agentledger.schemas.errors import SchemaError
from agentledger.schemas.written import define

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
_TWO_BYTES: Final = 1 << 14  # what a varint says in two bytes
_HIGH_KEPT: Final = 256  # upper halves of large numbers: those of times change every two minutes
_TEXTS_KEPT: Final = 4096
_TEXT_BYTES_MAX: Final = 64
Encoder = Callable[[Any], bytes]
FramedEncoder = Callable[..., bytes]

# Two bytes at a time: those that end a number, and those that more follow.
END: Final = [bytes((rest,)) if rest < 128 else bytes((rest & 127 | 128, rest >> 7)) for rest in range(_TWO_BYTES)]
MORE: Final = [bytes((rest & 127 | 128, rest >> 7 | 128)) for rest in range(_TWO_BYTES)]


class _LongTable(dict[int, bytes]):
    """Zigzag varints (Avro specification, "Binary encoding"): small numbers from the table, others computed."""

    def __missing__(self, number: int) -> bytes:
        if 8192 <= number < 1 << 27:  # most amounts of money, in four bytes at most
            return MORE[(number << 1) & 16383] + END[number >> 13]
        if 1 << 27 <= number < 1 << 62:  # times: what is above the lowest two minutes of them changes seldom
            return MORE[(number << 1) & 16383] + MORE[number >> 13 & 16383] + HIGH[number >> 27]
        if not INT64_MIN <= number <= INT64_MAX:
            raise OverflowError(f"{number} does not fit 64 bits")
        rest = (number << 1) ^ (number >> 63)
        out = b""
        while rest >= _TWO_BYTES:
            out += MORE[rest & 16383]
            rest >>= 14
        return out + END[rest]


class _HighTable(dict[int, bytes]):
    """What stands of a large number above its lowest 28 bits. Bounded."""

    def __missing__(self, rest: int) -> bytes:
        if len(self) >= _HIGH_KEPT:
            self.clear()
        out, left = b"", rest
        while left >= _TWO_BYTES:
            out += MORE[left & 16383]
            left >>= 14
        self[rest] = out = out + END[left]
        return out


HIGH: Final = _HighTable()
LONG: Final = _LongTable()
LONG.update({number: LONG[number] for number in range(-64, 4096)})


def encode_long(number: int) -> bytes:
    """A number as Avro writes it. As LONG, for compiled code: there arithmetic is quicker than tables of which each
    item lies elsewhere in memory.
    """
    if 0 <= number < 64:
        return END[number << 1]
    if 64 <= number < 8192:
        return (number << 1 & 127 | 128 | number >> 6 << 8).to_bytes(2, "little")
    if 8192 <= number < 1 << 20:
        return (number << 1 & 127 | number << 2 & 0x7F00 | number >> 13 << 16 | 0x8080).to_bytes(3, "little")
    if 1 << 20 <= number < 1 << 61:
        low = number << 1 & 127 | number << 2 & 0x7F00 | number << 3 & 0x7F0000
        if number < 1 << 27:
            return (low | number >> 20 << 24 | 0x808080).to_bytes(4, "little")
        return (low | number << 4 & 0x7F000000 | 0x80808080).to_bytes(4, "little") + HIGH[number >> 27]
    return LONG[number]


def encode_text(text: str) -> bytes:
    """A string as Avro writes it: its length in bytes, then UTF-8."""
    raw = text.encode()
    return encode_long(len(raw)) + raw


class _TextTable(dict[str, bytes]):
    """Short texts that come again and again, such as models and statuses, as Avro writes them. Bounded."""

    def __missing__(self, text: str) -> bytes:
        encoded = encode_text(text)
        if len(encoded) <= _TEXT_BYTES_MAX:
            if len(self) >= _TEXTS_KEPT:
                self.clear()
            self[text] = encoded
        return encoded


TEXT: Final = _TextTable()
# Texts that hardly ever come again: ids (also as the value of a scope), digests, and what people or tools say.
UNIQUE = ("_id", "_key", "_value", "_digest", "_redacted", "_message", "target", "task")


def encode_map(entries: Mapping[str, str]) -> bytes:
    """A map of strings as Avro writes it, in one block."""
    if not entries:
        return b"\x00"
    body = b"".join(encode_text(name) + encode_text(value) for name, value in entries.items())
    return LONG[len(entries)] + body + b"\x00"


def encode_texts(items: list[str]) -> bytes:
    """An array of strings as Avro writes it, in one block."""
    if not items:
        return b"\x00"
    return LONG[len(items)] + b"".join(map(encode_text, items)) + b"\x00"


DOUBLE: Final = struct.Struct("<d").pack
_HEADER = """\
from typing import Any

from agentledger.schemas.encoding import DOUBLE, END, HIGH, LONG, MORE, TEXT, encode_map, encode_texts


"""


def compile_encoder(schema: Schema) -> Encoder:
    """A function from an event with the schema's fields as attributes to its Avro body."""
    encoder: Encoder = define(_HEADER + _function("event: Any", *_event_source(schema, 0)), "encode")
    return encoder


def compile_framed_encoder(
    schema: Schema, first: int, parameters: str, before: Sequence[str], frame: Sequence[str]
) -> FramedEncoder:
    """A function of an event and of `parameters` to what `frame` says, and behind it the event's fields from number
    `first` on. `before` are statements; `frame` are expressions that give bytes, such as those of `long_source` and
    `time_source`.
    """
    lines, parts = _event_source(schema, first)
    source = _HEADER + _function(f"event: Any, {parameters}", [*before, *lines], [*frame, *parts])
    encoder: FramedEncoder = define(source, "encode")
    return encoder


def long_source(name: str) -> str:
    """An expression for the bytes of a number that counts up: from the tables, without a call below 2**27."""
    larger = f"MORE[({name} << 1) & 16383] + END[{name} >> 13] if 8192 <= {name} < {1 << 27} else LONG[{name}]"
    return f"END[{name} << 1] if 0 <= {name} < 8192 else {larger}"


def time_source(name: str) -> str:
    """An expression for the bytes of a time in microseconds, without a call for those of our days."""
    quick = f"MORE[({name} << 1) & 16383] + MORE[{name} >> 13 & 16383] + HIGH[{name} >> 27]"
    return f"{quick} if {1 << 27} <= {name} < {1 << 62} else LONG[{name}]"


def _event_source(schema: Schema, first: int) -> tuple[list[str], list[str]]:
    """Statements and expressions for an event's fields from number `first` on."""
    lines, parts = [], []
    for index, field in enumerate(schema["fields"][first:]):
        value = f"event.{field['name']}"
        if _plain(field["type"]) == "string" and not field["name"].endswith(UNIQUE):
            parts.append(f"TEXT[{value}]")
            continue
        prepare, expressions = _field_source(field["type"], value, f"v{index}")
        lines += prepare
        parts += expressions
    return lines, parts


def _function(parameters: str, lines: list[str], parts: list[str]) -> str:
    body = "".join(f"    {line}\n" for line in lines)
    return f"def encode({parameters}) -> bytes:\n{body}    return b''.join(({', '.join(parts)},))\n"


def _field_source(avro_type: Any, value: str, name: str) -> tuple[list[str], list[str]]:
    """Statements that come first, and expressions that give the field's bytes in order."""
    kind = avro_type["type"] if isinstance(avro_type, dict) else avro_type
    if isinstance(kind, list):
        _, inner = _field_source(kind[1], name, name)
        if _plain(kind[1]) == "string":
            return [f"{name} = {value}", f"{name} = None if {name} is None else {name}.encode()"], [
                f"b'\\x00' if {name} is None else b'\\x02' + LONG[len({name})] + {name}"
            ]
        return [f"{name} = {value}"], [f"b'\\x00' if {name} is None else b'\\x02' + {inner[0]}"]
    if kind == "string":
        return [f"{name} = {value}.encode()"], [f"LONG[len({name})]", name]
    single = {
        "long": f"LONG[{value}]",
        "double": f"DOUBLE({value})",
        "boolean": f"(b'\\x01' if {value} else b'\\x00')",
        "map": f"encode_map({value})",
        "array": f"encode_texts({value})",
    }
    if kind not in single:
        raise SchemaError(f"no encoder for the Avro type {kind!r}", next_step="add it to encoding.py, with its test")
    return [], [single[kind]]


def _plain(avro_type: Any) -> str:
    return str(avro_type["type"] if isinstance(avro_type, dict) else avro_type)
