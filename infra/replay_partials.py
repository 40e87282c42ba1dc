"""What the runs' fold sums up for the scopes' fold, kept in files between the two: the ledger doesn't hold it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from agentledger.processors.partial_records import BUCKET_US, WATERMARK, decode_partial, read_head

_SIZE = struct.Struct(">I")


class PartialWriter:
    """Files of one source partition: one for each partition of the partials topic."""

    def __init__(self, folder: Path, source: int) -> None:
        self._folder = folder
        self._source = source
        self._files: dict[int, BinaryIO] = {}

    def write(self, partition: int, value: bytes) -> None:
        """Append a record for this partition."""
        file = self._files.get(partition)
        if file is None:
            path = self._folder / f"{self._source}-{partition}.partials"
            file = self._files[partition] = path.open("wb")
        file.write(_SIZE.pack(len(value)))
        file.write(value)

    def close(self) -> None:
        """Finish the files."""
        for file in self._files.values():
            file.close()


class PartialReader:
    """The records of all sources for one partition, by time: each source's own order is kept."""

    def __init__(self, folder: Path, partition: int) -> None:
        self._sources = [_values(path) for path in sorted(folder.glob(f"*-{partition}.partials"))]
        self._next = [next(source, None) for source in self._sources]

    def read(self, up_to_us: int) -> Iterator[bytes]:
        """What lies in seconds that began by then, source by source: the scopes' fold brings it in order."""
        for number, source in enumerate(self._sources):
            value = self._next[number]
            while value is not None and read_head(value).bucket * BUCKET_US <= up_to_us:
                yield value
                value = next(source, None)
            self._next[number] = value


def partial_key(value: bytes) -> bytes:
    """The key under which a record of the partials topic travels."""
    head = read_head(value)
    if head.kind == WATERMARK:
        return f"w:{head.source}".encode()
    return decode_partial(value).tenant_id.encode("utf-8", "surrogatepass")


def _values(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while size := file.read(_SIZE.size):
            yield file.read(_SIZE.unpack(size)[0])
