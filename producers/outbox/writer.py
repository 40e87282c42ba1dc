"""Puts records into the segments of one outbox, holds its bound, and goes on in memory where the disk refuses."""

from __future__ import annotations

import threading
from collections.abc import Callable

from agentledger.producers.outbox.disk import OutboxFile
from agentledger.producers.outbox.framing import EVENT, FILE_HEAD_BYTES, NO_SEQ, OutboxRecord
from agentledger.producers.outbox.losses import OUTBOX_FULL, Loss, OutboxOwner
from agentledger.producers.outbox.position import Position, PositionFile
from agentledger.producers.outbox.segments import Segment, SegmentFolder
from agentledger.producers.outbox.settings import OutboxSettings

MEMORY_BYTES_MAX = 32 << 20  # as long as the disk refuses: some 60,000 usual events
DISK_RETRY_S = 1.0  # how often a disk that refused is asked again

Seconds = Callable[[], float]


class OutboxWriter:
    """The end of an outbox where records go in. Safe for threads; `lock` guards segments and position."""

    def __init__(
        self, settings: OutboxSettings, segments: SegmentFolder, position_file: PositionFile, owner: OutboxOwner,
        seconds: Seconds,
    ) -> None:  # fmt: skip
        self.settings = settings
        self.segments = segments
        self.lock = threading.Condition()
        self.position = Position()
        self._reading_number = 0  # segments up to this one have begun to be sent: they are not dropped any more
        self._position_file = position_file
        self._owner = owner
        self._seconds = seconds
        self._last_seq = NO_SEQ
        self._disk_again_at = float("-inf")
        self._unsynced: list[Segment] = []
        self._sync_at = seconds()

    def append(self, record: OutboxRecord) -> bool:
        """Keep a record; whether it was. It outlasts this process then, or `position` says that it may not."""
        with self.lock:
            if self._is_full() and not self._make_room():
                return False
            self._write(record)
            return True

    def next_segment(self, number: int) -> Segment | None:
        """The oldest segment after this one, which is being sent from now on."""
        with self.lock:
            segment = self.segments.after(number)
            if segment is not None:
                self._reading_number = max(self._reading_number, segment.number)
            return segment

    def append_surely(self, record: OutboxRecord) -> bool:
        """Keep a record so that it outlasts a loss of power, under any policy; False where the disk doesn't let it.

        For what is said of another outbox before that is removed. Waits for the disk.
        """
        with self.lock:
            if self.segments.bytes_in_memory or (self._is_full() and not self._make_room()):
                return False
            self._write(record)
            newest = self.segments.newest
            if newest is None or newest.path is None or newest.file is None:
                return False
            try:
                newest.file.sync()
                self.segments.sync_names()
            except OSError as error:
                self._owner.tell("outbox_disk", f"the outbox was not synced: {error}")
                return False
            return True

    def open(self, segment: Segment) -> OutboxFile:
        """A handle for reading a segment. Raises OSError."""
        return self.segments.open(segment)

    def is_sent(self, acked: Position) -> bool:
        """Whether everything is acknowledged that was appended."""
        with self.lock:
            return not any(
                segment.size > max(FILE_HEAD_BYTES, acked.offset if segment.number == acked.segment else 0)
                for segment in self.segments.segments
                if segment.number >= acked.segment
            )

    def move(self, acked: Position) -> None:
        """Keep how far the outbox is acknowledged."""
        with self.lock:
            self._save(acked._replace(unprotected_from=self.position.unprotected_from))

    def remove(self, segment: Segment) -> None:
        """Remove a segment whose records are all acknowledged, or announced as lost."""
        with self.lock:
            try:
                self.segments.remove(segment)
            except OSError as error:
                self._owner.tell("outbox_disk", f"a segment was not removed: {error}")
                return
            if self.position.unprotected_from != NO_SEQ and not self.segments.bytes_in_memory:
                self._save(self.position._replace(unprotected_from=NO_SEQ))
            self.lock.notify_all()

    def end(self, acked: Position) -> None:
        """Nothing more comes from this process: what is left is on the disk, whatever happens to the machine."""
        with self.lock:
            is_synced = self.sync() and self.settings.fsync != "never"
            self._save(acked._replace(unprotected_from=self.position.unprotected_from, is_clean=is_synced))
            self._sync_position()
            self.segments.close()

    def sync_if_due(self) -> None:
        """Under the policy `interval`: sync what was written since, when it is time. Waits for the disk."""
        if self.settings.fsync == "interval" and self._unsynced and self._seconds() >= self._sync_at:
            self._sync_at = self._seconds() + self.settings.fsync_interval_ms / 1000
            self.sync()
            self._sync_position()

    def sync(self) -> bool:
        """Return when everything that was written outlasts a loss of power; False where the disk has refused."""
        with self.lock:
            unsynced, self._unsynced = self._unsynced, []
        is_synced = True
        for segment in unsynced:
            try:
                if segment.file is not None:
                    segment.file.sync()
                if segment.is_sealed:
                    segment.close()
            except OSError as error:
                if segment in self.segments.segments:  # else it was dropped meanwhile
                    self._owner.tell("outbox_disk", f"the outbox was not synced: {error}")
                    is_synced = False
        return is_synced

    def _is_full(self) -> bool:
        segments = self.segments
        return segments.bytes_waiting >= self.settings.bytes_max or segments.bytes_in_memory >= MEMORY_BYTES_MAX

    def _make_room(self) -> bool:
        if self.settings.when_full == "block":
            return self.lock.wait_for(lambda: not self._is_full(), self.settings.block_ms_max / 1000)
        while self._is_full():
            oldest = self.segments.after(self._reading_number)
            if oldest is None or not self._drop(oldest):
                return False
        return True

    def _drop(self, segment: Segment) -> bool:
        """Announce what is in a segment, then remove it: a crash in between sends it after all."""
        if segment is self.segments.newest:
            segment.is_sealed = True
        if segment.events:
            owner = self._owner
            loss = Loss(owner.tenant_id, owner.producer_id, segment.first_seq, segment.last_seq, OUTBOX_FULL)
            self._write(owner.announcement_of(loss))
        for announcement in segment.announcements:
            self._write(announcement)
        try:
            self.segments.remove(segment)
        except OSError as error:
            self._owner.tell("outbox_disk", f"a segment was not removed: {error}")
            return False
        self._owner.count_lost(segment.events, OUTBOX_FULL)
        return True

    def _write(self, record: OutboxRecord) -> None:
        segment = self.segments.newest
        if segment is None or segment.size >= self.settings.segment_bytes or self._may_leave_memory(segment):
            self._begin(record)
        try:
            segment = self.segments.append(record, self._last_seq)
        except OSError as error:
            self._begin_in_memory(record, error)
            segment = self.segments.append(record, self._last_seq)
        if record.kind == EVENT:
            self._last_seq = record.seq
        if self.settings.fsync != "never" and (not self._unsynced or self._unsynced[-1] is not segment):
            self._unsynced.append(segment)
        if self.settings.fsync == "always":
            self.sync()

    def _may_leave_memory(self, newest: Segment) -> bool:
        return newest.path is None and self._seconds() >= self._disk_again_at

    def _begin(self, record: OutboxRecord) -> None:
        if self.settings.fsync == "never" and self.segments.newest is not None:
            self.segments.newest.close()  # else it is closed once it is synced
        if self._seconds() >= self._disk_again_at:
            try:
                self.segments.begin(on_disk=True)
                if self.settings.fsync == "always":
                    self.segments.sync_names()
            except OSError as error:
                self._begin_in_memory(record, error)
        else:
            self._begin_in_memory(record, None)

    def _begin_in_memory(self, record: OutboxRecord, error: OSError | None) -> None:
        if error is not None:
            self._disk_again_at = self._seconds() + DISK_RETRY_S
            self._owner.tell("outbox_disk", f"events are kept in memory, as the disk refuses them: {error}")
        if self.position.unprotected_from == NO_SEQ:
            first_seq = record.seq if record.kind == EVENT else self._last_seq + 1
            self._save(self.position._replace(unprotected_from=first_seq))
            if self.settings.fsync != "never":
                self._sync_position()
        self.segments.begin(on_disk=False)

    def _sync_position(self) -> None:
        try:
            self._position_file.sync()
        except OSError as error:
            self._owner.tell("outbox_disk", f"the outbox's position was not synced: {error}")

    def _save(self, position: Position) -> None:
        """A disk that refuses even this costs records that are sent again after a crash."""
        self.position = position
        try:
            self._position_file.save(position)
        except OSError as error:
            self._owner.tell("outbox_disk", f"the outbox's position was not written: {error}")
