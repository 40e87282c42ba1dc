"""Files to JSON values: gzip or not, whole documents or lines, every size bounded."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentledger.producers.json_values import parse_json
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
