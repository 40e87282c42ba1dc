"""Sends what is in the segments of one outbox, in order, and removes what the broker has acknowledged."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

from agentledger.producers.outbox.disk import OutboxFile
from agentledger.producers.outbox.framing import (
    EVENT,
    FILE_HEAD_BYTES,
    FRAME_BYTES_MAX,
    NO_SEQ,
    Damage,
    Frame,
    read_frames,
)
from agentledger.producers.outbox.losses import DAMAGED, NOT_ON_DISK
from agentledger.producers.outbox.position import UNKNOWN_SEQ, Position
from agentledger.producers.outbox.segments import Segment
from agentledger.schemas.ports import RecordProducer

READ_BYTES = 2 * FRAME_BYTES_MAX  # whatever stands there, one whole frame is in it
IN_FLIGHT_RECORDS_MAX = 10_000  # given to the producer and not acknowledged: a tenth of what its queue takes
AGAIN_S = 0.5  # between two tries of what the broker refused
SAVE_S = 0.2  # a crash sends again what was acknowledged since the position was saved last
# What is wrong with the record itself, so that sending it again would not help; and GapDetected's word for it.
_HOPELESS = {
    "MSG_SIZE_TOO_LARGE": "too_large", "INVALID_MSG_SIZE": "too_large",
    "INVALID_RECORD": "rejected", "INVALID_MSG": "rejected",
}  # fmt: skip
_PENDING = "pending"

# Announces that events of this outbox will not come: first and last number, reason, run. False: not possible now.
Lose = Callable[[int, int, str, str], bool]


class Place(Protocol):
    """The folder of one outbox, for who sends from it."""

    def next_segment(self, number: int) -> Segment | None:
        """The oldest segment after this one; it is not dropped from now on."""

    def open(self, segment: Segment) -> OutboxFile:
        """A handle for reading it."""

    def move(self, acked: Position) -> None:
        """Keep how far it is acknowledged."""

    def remove(self, segment: Segment) -> None:
        """Remove a segment that is acknowledged whole."""


class Delivered(NamedTuple):
    """Records that the broker has acknowledged since the last time."""

    events: int
    announcements: int


class _Sent:
    """A record that was given to the producer."""

    __slots__ = ("end", "key", "kind", "last_seq", "outcome", "segment", "seq")

    def __init__(self, segment: Segment, frame: Frame, end: int) -> None:
        self.segment = segment
        self.end = end
        self.kind, self.seq, _, self.key, _ = frame.record
        self.last_seq = self.seq if self.kind == EVENT else frame.previous_seq  # the last event, this one included
        self.outcome: str | None = _PENDING


class Backlog:
    """One outbox on its way to the broker. Used by one thread. Raises OSError where a segment can't be read.

    `is_growing`: more may come, as in this process's own outbox.
    """

    def __init__(
        self, place: Place, position: Position, producer: RecordProducer, *, lose: Lose, wake: Callable[[], None],
        seconds: Callable[[], float], is_growing: bool,
    ) -> None:  # fmt: skip
        self._place = place
        self._producer = producer
        self._lose = lose
        self._wake = wake
        self._seconds = seconds
        self._is_growing = is_growing
        self.acked = position
        self._saved = position
        self._save_at = float("-inf")
        self._in_flight: deque[_Sent] = deque()
        self._reading: Segment | None = None
        self._file: OutboxFile | None = None  # of the segment that is being read
        self._again_at: float | None = None  # when what was refused is to be sent again
        self._announced = (0, 0)  # losses before this segment and place were announced already
        self._go_back()

    @property
    def in_flight(self) -> int:
        """Records given to the producer and not acknowledged."""
        return len(self._in_flight)

    def turn(self) -> Delivered:
        """Take note of what was acknowledged, and send more, as far as the producer takes it."""
        delivered = self._settle()
        if self._again_at is None:
            self._send()
        elif not self._in_flight and self._seconds() >= self._again_at:
            self._again_at = None
            self._go_back()
            self._send()
        self._remove_finished()
        return delivered

    def is_done(self) -> bool:
        """Whether nothing is left: all was sent and acknowledged, and losses up to the very end were announced."""
        if self._in_flight or self._again_at is not None or self._reading is not None:
            return False
        return self._place.next_segment(self._passed) is None and self._conclude_end()

    def close(self) -> None:
        """Give the handle back."""
        self._stop_reading()

    def save(self) -> None:
        """Keep how far it is acknowledged now."""
        if self.acked != self._saved:
            self._place.move(self.acked)
            self._saved = self.acked
        self._save_at = self._seconds() + SAVE_S

    def _go_back(self) -> None:
        """Read on from what is acknowledged."""
        self._stop_reading()
        self._read: deque[Segment] = deque()  # read to their end, not removed yet
        self._passed = self.acked.segment - 1
        self._read_to = 0
        self._last_seq = self.acked.last_seq
        self._damaged_seqs: list[int | None] = []  # None: a frame, or several, without a head that can be read

    def _stop_reading(self) -> None:
        if self._file is not None and self._reading is not None and self._reading.path is not None:
            self._file.close()
        self._reading = self._file = None

    def _settle(self) -> Delivered:
        counts = [0, 0]
        while self._in_flight:
            sent = self._in_flight[0]
            if sent.outcome is _PENDING:
                break
            if sent.outcome is not None:
                reason = _HOPELESS.get(sent.outcome.partition(":")[0])
                if reason is None:
                    self._wait_to_send_again()
                    break
                if sent.kind == EVENT and not self._lose(sent.seq, sent.seq, reason, sent.key.decode()):
                    break
            counts[sent.kind] += sent.outcome is None
            self._in_flight.popleft()
            self.acked = Position(sent.segment.number, sent.end, sent.last_seq)
        if self.acked != self._saved and self._seconds() >= self._save_at:
            self.save()
        return Delivered(*counts)

    def _wait_to_send_again(self) -> None:
        """Something was refused: nothing more is sent before the fate of all that is under way is known."""
        if self._again_at is None:
            self._again_at = self._seconds() + AGAIN_S
        if all(sent.outcome is not _PENDING for sent in self._in_flight):
            self._in_flight.clear()

    def _send(self) -> None:
        while len(self._in_flight) < IN_FLIGHT_RECORDS_MAX:
            segment = self._reading or self._next_segment()
            if segment is None or self._file is None:
                return
            is_sealed, size = segment.is_sealed, segment.size  # in this order: sealed, it grows no more
            begin = self._read_to
            wanted = min(READ_BYTES, size - begin)
            data = self._file.read(begin, wanted)
            is_end = is_sealed and (begin + len(data) >= size or len(data) < wanted)
            if not self._send_frames(segment, data, is_end=is_end):
                return
            if is_end:
                self._passed = segment.number
                self._read.append(segment)
                self._stop_reading()
            elif self._read_to == begin:
                return  # nothing new

    def _next_segment(self) -> Segment | None:
        segment = self._place.next_segment(self._passed)
        if segment is None:
            return None
        if self._is_growing and segment.number > self._passed + 1:
            self._last_seq = UNKNOWN_SEQ  # what was between was dropped, and announced then
        self._file = self._place.open(segment)
        self._reading = segment
        at_acked = segment.number == self.acked.segment
        self._read_to = max(FILE_HEAD_BYTES, self.acked.offset) if at_acked else FILE_HEAD_BYTES
        return segment

    def _send_frames(self, segment: Segment, data: bytes, *, is_end: bool) -> bool:
        """Send each frame of these bytes; False where the producer, or the announcement of a loss, has to wait."""
        begin = self._read_to
        for item in read_frames(data, segment.marker, is_end=is_end):
            end = begin + item.end
            if isinstance(item, Damage):
                self._damaged_seqs.append(item.seq)
            elif not self._conclude_until(item, (segment.number, end)) or not self._send_frame(segment, item, end):
                return False
            self._read_to = end
            if len(self._in_flight) >= IN_FLIGHT_RECORDS_MAX:
                return False
        return True

    def _send_frame(self, segment: Segment, frame: Frame, end: int) -> bool:
        sent = _Sent(segment, frame, end)
        _, _, topic, key, value = frame.record
        self._in_flight.append(sent)  # first: the report may come before `send` returns
        if not self._producer.send(topic, key, value, partial(self._on_delivery, sent)):
            self._in_flight.pop()
            return False
        self._last_seq = sent.last_seq
        return True

    def _on_delivery(self, sent: _Sent, error: str | None, _: bytes) -> None:
        """In the producer's thread."""
        sent.outcome = error
        self._wake()

    def _conclude_until(self, frame: Frame, place: tuple[int, int]) -> bool:
        """Announce the events that are missing before this frame; whether that is done."""
        last_seq, before = self._last_seq, frame.previous_seq
        if last_seq == UNKNOWN_SEQ and not self._damaged_seqs:
            self._last_seq = before
        elif self._damaged_seqs or before != last_seq:
            lost = {seq for seq in self._damaged_seqs if seq is not None}
            all_known = bool(self._damaged_seqs) and None not in self._damaged_seqs
            if not all_known and before not in {last_seq, NO_SEQ}:
                lost |= {before, before if last_seq == UNKNOWN_SEQ else min(last_seq + 1, before)}
            if place > self._announced and not self._announce(lost):
                return False
            self._announced = max(self._announced, place)
            self._damaged_seqs = []
            self._last_seq = before
        return True

    def _conclude_end(self) -> bool:
        """Announce what damage at the very end has cost; whether that is done."""
        if self._damaged_seqs:
            lost = {seq for seq in self._damaged_seqs if seq is not None}
            next_seq = max(self._last_seq, NO_SEQ) + 1
            if None in self._damaged_seqs and not self._lose(next_seq, next_seq, NOT_ON_DISK, ""):
                return False  # how many there were, nobody can read any more
            if not self._announce(lost):
                return False
            self._damaged_seqs = []
        return True

    def _announce(self, lost: set[int]) -> bool:
        return not lost or self._lose(min(lost), max(lost), DAMAGED if self._damaged_seqs else NOT_ON_DISK, "")

    def _remove_finished(self) -> None:
        """Remove the segments of which nothing is under way any more."""
        while self._read and self._again_at is None and not self._damaged_seqs:
            finished = self._read[0]
            if self._in_flight and self._in_flight[0].segment.number <= finished.number:
                return
            self._read.popleft()
            if self.acked.segment <= finished.number:
                self.acked = Position(finished.number + 1, 0, self.acked.last_seq)
            self.save()  # before: a position in a segment that isn't there would look like a loss
            self._place.remove(finished)
