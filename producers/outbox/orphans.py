"""An outbox whose process is gone, on its way to the broker."""

from __future__ import annotations

from collections.abc import Callable

from agentledger.producers.outbox.backlog import Backlog, Delivered
from agentledger.producers.outbox.disk import OutboxDisk, OutboxFile
from agentledger.producers.outbox.framing import (
    ANNOUNCEMENT,
    EVENT,
    FILE_HEAD_BYTES,
    NO_SEQ,
    Frame,
    OutboxRecord,
    read_frames,
)
from agentledger.producers.outbox.instances import Instance, Owner, remove_instance
from agentledger.producers.outbox.losses import NOT_ON_DISK, OUTBOX_FULL, Loss
from agentledger.producers.outbox.position import UNKNOWN_SEQ, Position
from agentledger.producers.outbox.segments import Segment, SegmentFolder
from agentledger.schemas.decoding import text_end
from agentledger.schemas.ports import RecordProducer

VALUE_HEADER_BYTES = 5  # of the Confluent wire format


class Orphan:
    """Sends what another process left, announces what of it is lost, and removes its folder. Used by one thread.

    Raises OSError and NewerFormatError where it can't be read.
    """

    def __init__(
        self, disk: OutboxDisk, instance: Instance, producer: RecordProducer, *, announce: Callable[[Loss], bool],
        keep: Callable[[OutboxRecord], bool], wake: Callable[[], None], seconds: Callable[[], float],
    ) -> None:  # fmt: skip
        self._disk = disk
        self._announce = announce
        self._keep = keep
        self.instance = instance
        self.segments = SegmentFolder(disk, instance.path)
        self.segments.load()
        self.owner = instance.owner or self._owner_by_records()
        self._position = instance.position_file.load() or Position(last_seq=UNKNOWN_SEQ)
        self._reading_number = 0
        self._backlog = Backlog(
            self, self._position, producer, lose=self._lose, wake=wake, seconds=seconds, is_growing=False
        )

    @property
    def in_flight(self) -> int:
        """Records given to the producer and not acknowledged."""
        return self._backlog.in_flight

    def turn(self) -> Delivered:
        """As of a backlog."""
        return self._backlog.turn()

    def finish(self) -> bool:
        """Where all of it was sent or announced: remove the folder. Whether it is gone."""
        if not self._backlog.is_done() or not self._conclude_tail():
            return False
        self._backlog.close()
        remove_instance(self._disk, self.instance)
        return True

    def close(self) -> None:
        """Leave the rest to whoever comes next."""
        self._backlog.save()
        self.forget()

    def forget(self) -> None:
        """Give the handles back and write nothing, as in a forked child."""
        self._backlog.close()
        self.instance.close()

    def drop_oldest(self) -> bool:
        """Announce the oldest segment that is not being sent yet, and remove it; whether there was one."""
        oldest = self.segments.after(self._reading_number)
        if oldest is None:
            return False
        seqs: list[int] = []
        for record in self._records(oldest):
            if record.kind == ANNOUNCEMENT and not self._keep(record):
                return False
            if record.kind == EVENT:
                seqs.append(record.seq)
        if seqs and not self._lose(min(seqs), max(seqs), OUTBOX_FULL, ""):
            return False
        self.segments.remove(oldest)
        return True

    def next_segment(self, number: int) -> Segment | None:
        """As of a place."""
        segment = self.segments.after(number)
        if segment is not None:
            self._reading_number = max(self._reading_number, segment.number)
        return segment

    def open(self, segment: Segment) -> OutboxFile:
        """A handle for reading a segment."""
        return self.segments.open(segment)

    def move(self, acked: Position) -> None:
        """Keep how far it is acknowledged."""
        position = self._position
        self._position = acked._replace(unprotected_from=position.unprotected_from, is_clean=position.is_clean)
        self.instance.position_file.save(self._position)

    def remove(self, segment: Segment) -> None:
        """Remove a segment that is acknowledged whole."""
        self.segments.remove(segment)

    def _has_rebooted(self) -> bool:
        return self.owner is None or self.owner.boot_id != self._disk.boot_id()

    def _lose(self, first_seq: int, last_seq: int, reason: str, run_id: str) -> bool:
        if self.owner is None:
            return True  # there is nobody whose loss it could be
        return self._announce(Loss(self.owner.tenant_id, self.owner.producer_id, first_seq, last_seq, reason, run_id))

    def _conclude_tail(self) -> bool:
        """Announce what may have followed the last event and was never on the disk; whether that is done."""
        position, owner = self._position, self.owner
        last_seq = max(self._backlog.acked.last_seq, NO_SEQ)
        in_memory = position.unprotected_from != NO_SEQ
        unsynced = not position.is_clean and self._has_rebooted() and owner is not None and owner.fsync != "always"
        if not in_memory and not unsynced:
            return True
        return self._lose(last_seq + 1, last_seq + 1, NOT_ON_DISK, "")

    def _owner_by_records(self) -> Owner | None:
        """Each event names its tenant and producer."""
        for segment in self.segments.segments:
            for record in self._records(segment):
                if record.kind == EVENT:
                    tenant_id, producer_id = _names_of(record.value)
                    return Owner(tenant_id=tenant_id, producer_id=producer_id, pid=0, boot_id="", fsync="never")
        return None

    def _records(self, segment: Segment) -> list[OutboxRecord]:
        file = self.open(segment)
        try:
            data = file.read(FILE_HEAD_BYTES, segment.size)
        finally:
            file.close()
        return [item.record for item in read_frames(data, segment.marker, is_end=True) if isinstance(item, Frame)]


def _names_of(value: bytes) -> tuple[str, str]:
    """Tenant and producer of an encoded event: the second and third field of each record."""
    begin, end = text_end(value, VALUE_HEADER_BYTES)  # the event id
    begin, end = text_end(value, end)
    tenant_id = value[begin:end].decode()
    begin, end = text_end(value, end)
    return tenant_id, value[begin:end].decode()
