"""The segments of one outbox: files that grow to a size and are removed whole, and memory where the disk refuses."""

from __future__ import annotations

import errno
import re
import secrets
from collections import deque
from pathlib import Path

from agentledger.producers.outbox.disk import OutboxDisk, OutboxFile
from agentledger.producers.outbox.framing import (
    ANNOUNCEMENT,
    EVENT,
    FILE_HEAD_BYTES,
    MARKER_BYTES,
    NO_SEQ,
    OutboxRecord,
    check_file_head,
    file_head,
    frame,
)

_NAME = re.compile(r"(\d{10})-([0-9a-f]{16})\.seg")


def parse_name(name: str) -> tuple[int, bytes] | None:
    """Number and marker of the segment with this file name; None for another file."""
    found = _NAME.fullmatch(name)
    return None if found is None else (int(found[1]), bytes.fromhex(found[2]))


class MemoryFile:
    """`OutboxFile` without a disk: what the disk refuses is kept here, in the same order as everything else."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    @property
    def size(self) -> int:
        """Bytes so far."""
        return len(self._bytes)

    def append(self, data: bytes) -> None:
        """Add at the end."""
        self._bytes += data

    def write_at(self, offset: int, data: bytes) -> None:
        """Write over what is there."""
        self._bytes[offset : offset + len(data)] = data

    def read(self, offset: int, length: int) -> bytes:
        """At most so many bytes from there on."""
        return bytes(self._bytes[offset : offset + length])

    def sync(self) -> None:
        """Nothing to do: memory outlasts nothing."""

    def close(self) -> None:
        """Nothing to do."""


class Segment:
    """One segment. Only whole frames stand before `size`, unless a crash or damage left something else."""

    def __init__(self, number: int, marker: bytes, path: Path | None, file: OutboxFile | None, size: int) -> None:
        self.number = number
        self.marker = marker
        self.path = path  # None: in memory
        self.file = file  # for who writes; None once nobody will
        self.size = size
        self.is_sealed = file is None
        self.events = 0  # those appended by this process
        self.first_seq = self.last_seq = NO_SEQ  # lowest and highest of them
        self.announcements: list[OutboxRecord] = []  # to be kept where the segment is dropped

    def append(self, record: OutboxRecord, previous_seq: int) -> None:
        """Add a record. Raises OSError; then nothing of it counts."""
        if self.file is None:
            raise OSError(errno.EBADF, f"segment {self.number} is closed")
        self.file.append(frame(self.marker, record, previous_seq))
        if record.kind == EVENT:
            seq = record.seq
            self.last_seq = max(self.last_seq, seq)
            self.first_seq = seq if self.first_seq == NO_SEQ else min(self.first_seq, seq)
            self.events += 1
        elif record.kind == ANNOUNCEMENT:
            self.announcements.append(record)
        self.size = self.file.size  # last: who reads goes by it

    def close(self) -> None:
        """Give the handle of who writes back; what is in memory stays readable."""
        if self.file is not None and self.path is not None:
            self.file.close()
            self.file = None


class SegmentFolder:
    """The segments in one folder, oldest first. Whoever uses it from several threads holds a lock."""

    def __init__(self, disk: OutboxDisk, folder: Path) -> None:
        self._disk = disk
        self.folder = folder
        self.segments: deque[Segment] = deque()
        self.bytes_waiting = 0
        self.bytes_in_memory = 0
        self._next_number = 1

    def load(self) -> None:
        """Open what a process before us has left, sealed. Raises OSError, NewerFormatError."""
        for name in self._disk.names(self.folder):
            found = parse_name(name)
            if found is None:
                continue
            number, marker = found
            path = self.folder / name
            file = self._disk.open(path)
            try:
                check_file_head(file.read(0, FILE_HEAD_BYTES), str(path))
                self._add(Segment(number, marker, path, None, file.size))
            finally:
                file.close()

    @property
    def newest(self) -> Segment | None:
        """The segment that grows, if there is one."""
        return self.segments[-1] if self.segments and not self.segments[-1].is_sealed else None

    def begin(self, *, on_disk: bool) -> Segment:
        """Seal the newest segment and begin another. Raises OSError; then the newest stays sealed."""
        if self.segments:
            self.segments[-1].is_sealed = True
        number, marker = self._next_number, secrets.token_bytes(MARKER_BYTES)
        if on_disk:
            path = self.folder / f"{number:010d}-{marker.hex()}.seg"
            file: OutboxFile = self._disk.open(path)
            try:
                file.append(file_head(marker))
            except OSError:
                file.close()
                self._disk.remove(path)
                raise
        else:
            path, file = None, MemoryFile()
            file.append(file_head(marker))
        segment = Segment(number, marker, path, file, file.size)
        self._add(segment)
        return segment

    def append(self, record: OutboxRecord, previous_seq: int) -> Segment:
        """Add a record to the newest segment, which there has to be. Raises OSError; then nothing of it counts."""
        segment = self.segments[-1]
        before = segment.size
        segment.append(record, previous_seq)
        self._count(segment, segment.size - before)
        return segment

    def after(self, number: int) -> Segment | None:
        """The oldest segment with a higher number."""
        return next((segment for segment in self.segments if segment.number > number), None)

    def remove(self, segment: Segment) -> None:
        """Remove a segment for good. Raises OSError."""
        if segment.path is not None:
            self._disk.remove(segment.path)
        segment.close()
        self.segments.remove(segment)
        self._count(segment, -segment.size)

    def sync_names(self) -> None:
        """Return when the files themselves would outlast a loss of power. Raises OSError."""
        self._disk.sync_folder(self.folder)

    def open(self, segment: Segment) -> OutboxFile:
        """A handle for reading a segment. Raises OSError."""
        if segment.path is not None:
            return self._disk.open(segment.path)
        if segment.file is None:
            raise OSError(errno.EBADF, f"segment {segment.number} is gone")
        return segment.file

    def close(self) -> None:
        """Give all handles back; the files stay."""
        for segment in self.segments:
            segment.close()

    def _add(self, segment: Segment) -> None:
        self.segments.append(segment)
        self._next_number = segment.number + 1
        self._count(segment, segment.size)

    def _count(self, segment: Segment, size: int) -> None:
        self.bytes_waiting += size
        if segment.path is None:
            self.bytes_in_memory += size
