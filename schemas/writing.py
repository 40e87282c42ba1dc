"""Writers compiled from the schemas: one function per record that puts a few last fields behind what others wrote.

For who writes many records that begin alike. They write into mypyc's own buffer of bytes (`librt`), because compiled
code does that without making an object of each part, as joining them would. As `encoding`, byte for byte what fastavro
writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from librt.strings import BytesWriter
from mypy_extensions import i64

from agentledger.schemas.catalogue import Schema
from agentledger.schemas.encoding import UNIQUE
from agentledger.schemas.errors import SchemaError
from agentledger.schemas.written import define

# (buffer, all fields in the record's order, as a tuple), and (buffer, fields by name).
TupleWriter = Callable[[BytesWriter, Any], None]
NamedWriter = Callable[..., None]
_HEADER = """\
from librt.strings import BytesWriter, write_f64_le

from agentledger.schemas.encoding import TEXT
from agentledger.schemas.writing import put_flag, put_long, put_map, put_text, put_texts


"""


def put_long(to: BytesWriter, number: i64) -> None:
    """A number as a zigzag varint (Avro specification, "Binary encoding"). Raises OverflowError beyond 64 bits.

    Compiled, TypeError, where the caller isn't: what doesn't fit is no machine integer.
    """
    if number > 0x7FFFFFFFFFFFFFFF or number < -0x7FFFFFFFFFFFFFFF - 1:  # compiled, it can't be
        raise OverflowError(f"{number} does not fit 64 bits")
    rest: i64 = (number << 1) ^ (number >> 63)
    while not 0 <= rest < 128:  # compiled, the highest bit is a sign
        low: int = rest & 127 | 128  # as a plain number, which the buffer takes without making an object of it
        to.append(low)
        rest = (rest >> 7) & 0x1FFFFFFFFFFFFFF
    last: int = rest
    to.append(last)


def put_flag(to: BytesWriter, value: bool) -> None:
    """A boolean as Avro writes it."""
    to.append(1 if value else 0)


def put_text(to: BytesWriter, text: str) -> None:
    """A string as Avro writes it: its length in bytes, then UTF-8."""
    raw = text.encode()
    put_long(to, len(raw))
    to.write(raw)


def put_map(to: BytesWriter, entries: Mapping[str, str]) -> None:
    """A map of strings as Avro writes it, in one block."""
    if entries:
        put_long(to, len(entries))
        for name, value in entries.items():
            put_text(to, name)
            put_text(to, value)
    to.append(0)


def put_texts(to: BytesWriter, items: list[str]) -> None:
    """An array of strings as Avro writes it, in one block."""
    if items:
        put_long(to, len(items))
        for item in items:
            put_text(to, item)
    to.append(0)


def compile_tail_writers(schema: Schema, first: int) -> tuple[TupleWriter, NamedWriter]:
    """Functions that put a record's fields from number `first` on into a buffer: of a tuple with all of them, and by
    name. Fields that aren't named are as in an event that doesn't name them.
    """
    source = tail_writer_source(schema, first)
    return define(source, "write_all"), define(source, "write")


def tail_writer_source(schema: Schema, first: int) -> str:
    """The source of the module that `compile_tail_writers` takes its functions from."""
    names, annotations, parameters, lines = [], [], [], []
    for field in schema["fields"][first:]:
        name = field["name"]
        default = f" = {field['default']!r}" if "default" in field else ""
        annotation, statements = _field(field["type"], name)
        names.append(name)
        annotations.append(annotation)
        parameters.append(f"{name}: {annotation}{default}")
        lines += statements
    body = "".join(f"    {line}\n" for line in lines)
    return (
        f"{_HEADER}def write(to: BytesWriter, {', '.join(parameters)}) -> None:\n{body}\n\n"
        # A tuple as one argument: compiled, to spread it over the parameters takes as long as to write it.
        f"def write_all(to: BytesWriter, fields: tuple[{', '.join(annotations)}]) -> None:\n"
        f"    {', '.join(names)}, = fields\n    write(to, {', '.join(names)})\n"
    )


def _field(avro_type: Any, name: str) -> tuple[str, list[str]]:
    """The type of a field in Python, and the statements that write it."""
    kind = avro_type["type"] if isinstance(avro_type, dict) else avro_type
    if isinstance(kind, list):
        annotation, [statement] = _field(kind[1], name)
        lines = [f"if {name} is None:", "    to.append(0)", "else:", "    to.append(2)", f"    {statement}"]
        return f"{annotation} | None", lines
    if kind == "string" and not name.endswith(UNIQUE):
        return "str", [f"to.write(TEXT[{name}])"]
    found = {
        "string": ("str", "put_text"),
        "long": ("int", "put_long"),
        "double": ("float", "write_f64_le"),
        "boolean": ("bool", "put_flag"),
        "map": ("dict[str, str]", "put_map"),
        "array": ("list[str]", "put_texts"),
    }.get(kind)
    if found is None:
        raise SchemaError(f"no writer for the Avro type {kind!r}", next_step="add it to writing.py, with its test")
    annotation, function = found
    return annotation, [f"{function}(to, {name})"]
