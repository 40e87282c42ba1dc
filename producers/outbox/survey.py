"""What is in an outbox folder, seen from outside: nothing is changed, and locked for a moment at most."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agentledger.producers.outbox.disk import RealDisk
from agentledger.producers.outbox.framing import EVENT, FILE_HEAD_BYTES, Frame, OutboxRecord, read_frames
from agentledger.producers.outbox.instances import OWNER_NAME, parse_owner
from agentledger.producers.outbox.position import FILE_NAME, Position, newest_slot
from agentledger.producers.outbox.segments import parse_name

_ID_BEGIN, _ID_END = 6, 42  # of the event id in an encoded event: after the wire header and the id's length


@dataclass(frozen=True, slots=True)
class InstanceReport:
    """The outbox of one process. `is_in_use`: the process lives, or another one is sending it."""

    name: str
    tenant_id: str
    producer_id: str
    is_in_use: bool
    bytes_on_disk: int
    events: int
    announcements: int
    damaged: int
    oldest_event_id: str


def survey(folder: Path) -> list[InstanceReport]:
    """A report of each process's outbox in the folder, by name. Raises OSError where it can't be read."""
    if not folder.is_dir():
        return []
    return [_report(path) for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def waiting_records(path: Path) -> Iterator[OutboxRecord | None]:
    """What waits in one process's outbox, in order; None for what is damaged. What is sent meanwhile may be missing."""
    found = newest_slot(_bytes_of(path / FILE_NAME))
    acked = found[1] if found else Position()
    try:
        names = sorted(child.name for child in path.iterdir())
    except FileNotFoundError:
        return
    for name in names:
        parsed = parse_name(name)
        if parsed is None or parsed[0] < acked.segment:
            continue
        begin = max(FILE_HEAD_BYTES, acked.offset if parsed[0] == acked.segment else 0)
        for item in read_frames(_bytes_of(path / name)[begin:], parsed[1], is_end=True):
            yield item.record if isinstance(item, Frame) else None


def event_id_of(record: OutboxRecord) -> str:
    """The event id, without decoding the event."""
    return record.value[_ID_BEGIN:_ID_END].decode("ascii", "replace")


def _report(path: Path) -> InstanceReport:
    owner = parse_owner(_bytes_of(path / OWNER_NAME))
    counts = {"events": 0, "announcements": 0, "damaged": 0}
    oldest = ""
    for record in waiting_records(path):
        if record is None:
            counts["damaged"] += 1
            continue
        oldest = oldest or event_id_of(record)
        counts["events" if record.kind == EVENT else "announcements"] += 1
    lock = RealDisk().lock(path)
    if lock is not None:
        lock.release()
    return InstanceReport(
        name=path.name,
        tenant_id=owner.tenant_id if owner else "",
        producer_id=owner.producer_id if owner else "",
        is_in_use=lock is None,
        bytes_on_disk=_size_of(path),
        oldest_event_id=oldest,
        **counts,
    )


def _bytes_of(path: Path) -> bytes:
    """The file's bytes; none where it has gone meanwhile."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _size_of(folder: Path) -> int:
    size = 0
    with contextlib.suppress(FileNotFoundError):
        for child in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                size += child.stat().st_size
    return size
