"""Files to JSON values: gzip or not, whole documents or lines, numbers exact, every size bounded.

Fractions become `Decimal` and integers stay Python integers, so money and 128-bit trace ids keep every digit.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from agentledger.schemas import canonical_json, digest_bytes
from agentledger.schemas.errors import ImportFormatError

DOCUMENT_BYTES_MAX = 1 << 30  # inflated; a whole document is held in memory, at several times its size
LINE_BYTES_MAX = 64 << 20  # the longest line seen in practice has 0.2 MB
GZIP_MAGIC = b"\x1f\x8b"


@contextmanager
def open_inflated(path: Path) -> Iterator[io.BufferedIOBase]:
    """The file's bytes, inflated where they are gzip (told by the content, not by the name)."""
    try:
        raw = path.open("rb")
    except OSError as error:
        raise ImportFormatError(f"can't open the file: {error.strerror}", where=str(path)) from error
    with raw:
        yield gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == GZIP_MAGIC else raw


def read_document(path: Path) -> Any:
    """The one JSON value in the file. Raises ImportFormatError where it isn't one, or is over 1 GiB inflated."""
    with open_inflated(path) as stream:
        content = _read(stream, DOCUMENT_BYTES_MAX + 1, path)
    if len(content) > DOCUMENT_BYTES_MAX:
        raise ImportFormatError(
            "the document is over 1 GiB inflated", where=str(path), next_step="split it, or write it as JSON lines"
        )
    return parse_json(content, where=str(path))


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each line that isn't blank, numbered from 1. Raises ImportFormatError on broken gzip or a line over 64 MiB."""
    with open_inflated(path) as stream:
        number = 0
        while line := _read_line(stream, path):
            number += 1
            if len(line) > LINE_BYTES_MAX:
                raise ImportFormatError(
                    "a line is over 64 MiB", where=f"{path}:{number}", next_step="check that the file is JSON lines"
                )
            if line.strip():
                yield number, line


def parse_json(content: bytes | str, *, where: str = "") -> Any:
    """The JSON value, with fractions as Decimal. Raises ImportFormatError."""
    try:
        return json.loads(content, parse_float=Decimal, parse_constant=_refuse_constant)
    except RecursionError:
        raise ImportFormatError("the JSON is nested too deeply", where=where) from None
    except (ValueError, ArithmeticError) as error:
        raise ImportFormatError(f"not valid JSON: {error}", where=where) from None


def parse_json_text(text: str, *, layers_max: int = 3) -> Any:
    """What JSON written as a string stands for, also if it was written so twice; else the text itself."""
    value: Any = text
    for _ in range(layers_max):
        if not isinstance(value, str):
            break
        try:
            value = parse_json(value)
        except ImportFormatError:
            break
    return value


def digest_and_size(value: Any) -> tuple[str, int]:
    """`sha256:…` of the value in canonical JSON, and that JSON's size in bytes: equal values have equal digests."""
    content = canonical_json(plain(value))
    return digest_bytes(content), len(content)


def plain(value: Any) -> Any:
    """The value as canonical JSON takes it: decimals as doubles (RFC 8785), lone surrogates replaced."""
    if isinstance(value, str):
        return value if value.isascii() else clean_text(value)
    if isinstance(value, dict):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Decimal):
        double = float(value)
        return double if abs(double) != float("inf") else str(value)
    return value


def clean_text(text: str) -> str:
    """The text with lone surrogates, which UTF-8 can't hold, replaced by `?`."""
    return text.encode("utf-8", "replace").decode()


def _read(stream: io.BufferedIOBase, size: int, path: Path) -> bytes:
    try:
        return stream.read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise ImportFormatError(f"can't read the file: {error}", where=str(path)) from error


def _read_line(stream: io.BufferedIOBase, path: Path) -> bytes:
    try:
        return stream.readline(LINE_BYTES_MAX + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ImportFormatError(f"can't read the file: {error}", where=str(path)) from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
