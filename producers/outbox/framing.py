"""The bytes of a segment file: how a record is framed, and how frames are read again, damaged ones included.

    segment  = "ALOB" version marker crc32(what stands before)            20 bytes, little-endian as all numbers here
    frame    = marker kind length seq previous_seq crc32(body) crc32(what stands before)   37 bytes, then the body
    body     = length of topic, topic, length of key, key, value

The marker is random for each segment and stands in its file name too: behind a damaged frame, the next one is found by
it, whatever texts are in the events. Each frame names the event before it, so that a lost one is known by its number.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple
from zlib import crc32

from agentledger.schemas.errors import AgentledgerError
from agentledger.schemas.topics import EVENT_BYTES_MAX

EVENT = 0
ANNOUNCEMENT = 1
NO_SEQ = -1
MARKER_BYTES = 8
VERSION = 1
_MAGIC = b"ALOB"
_FILE_HEAD = struct.Struct("<4sI8s")
_HEAD = struct.Struct("<8sBIqqI")
_CRC = struct.Struct("<I")
FILE_HEAD_BYTES = _FILE_HEAD.size + _CRC.size
HEAD_BYTES = _HEAD.size + _CRC.size
BODY_BYTES_MAX = EVENT_BYTES_MAX + 1024  # with topic and key, which have 512 bytes at most
FRAME_BYTES_MAX = HEAD_BYTES + BODY_BYTES_MAX


class OutboxRecord(NamedTuple):
    """One record as it goes to Kafka. `seq` is its producer_seq, among events or among announcements."""

    kind: int
    seq: int
    topic: str
    key: bytes
    value: bytes


class Frame(NamedTuple):
    """A whole record, read from a segment. `end` is where the next begins; `previous_seq` the event before it."""

    record: OutboxRecord
    previous_seq: int
    end: int


class Damage(NamedTuple):
    """Bytes that are no frame any more. `seq` is that of the event in it, where its head can still be read."""

    end: int
    seq: int | None


class NewerFormatError(AgentledgerError):
    """A segment was written by a newer version of the outbox."""


def file_head(marker: bytes) -> bytes:
    """The first bytes of a segment."""
    head = _FILE_HEAD.pack(_MAGIC, VERSION, marker)
    return head + _CRC.pack(crc32(head))


def check_file_head(head: bytes, where: str) -> None:
    """Raise NewerFormatError where a head that is whole has another version. A damaged head says nothing."""
    if len(head) < FILE_HEAD_BYTES or _CRC.unpack_from(head, _FILE_HEAD.size)[0] != crc32(head[: _FILE_HEAD.size]):
        return
    magic, version, _ = _FILE_HEAD.unpack_from(head)
    if magic != _MAGIC or version > VERSION:
        raise NewerFormatError(
            f"a segment of outbox format {version} can't be read: this version knows {VERSION}",
            where=where,
            next_step="send it with the version of agentledger that wrote it, or a newer one",
        )


def frame(marker: bytes, record: OutboxRecord, previous_seq: int) -> bytes:
    """One record as it stands in a segment."""
    kind, seq, topic, key, value = record
    front = b"%c%b%b%b" % (len(topic), topic.encode(), len(key).to_bytes(2, "little"), key)
    head = _HEAD.pack(marker, kind, len(front) + len(value), seq, previous_seq, crc32(value, crc32(front)))
    return b"".join((head, crc32(head).to_bytes(4, "little"), front, value))


def read_frames(data: bytes, marker: bytes, *, is_end: bool) -> Iterator[Frame | Damage]:
    """What stands in these bytes of a segment, in order; positions count from their beginning.

    An incomplete frame at the end gives nothing: more of the file is to be read from the last `end` on. Where `is_end`
    says that there is no more, it is a torn write, of which nobody was told that it was done.
    """
    at = 0
    while True:
        head = _read_head(data, marker, at)
        if head is None:
            if len(data) - at < HEAD_BYTES or (is_end and not any(data[at:])):
                return  # the beginning of a head, or the zeros that a loss of power can leave
            at = _next_frame(data, marker, at, is_end=is_end)
            yield Damage(at, None)
            continue
        kind, length, seq, previous_seq, body_crc = head
        begin, at = at + HEAD_BYTES, at + HEAD_BYTES + length
        if at > len(data):
            return
        body = data[begin:at]
        if crc32(body) == body_crc:
            yield Frame(_record(kind, seq, body), previous_seq, at)
        else:
            yield Damage(at, seq if kind == EVENT else None)


def _read_head(data: bytes, marker: bytes, at: int) -> tuple[int, int, int, int, int] | None:
    if len(data) - at < HEAD_BYTES or not data.startswith(marker, at):
        return None
    end = at + _HEAD.size
    if _CRC.unpack_from(data, end)[0] != crc32(data[at:end]):
        return None
    _, kind, length, seq, previous_seq, body_crc = _HEAD.unpack_from(data, at)
    return kind, length, seq, previous_seq, body_crc


def _next_frame(data: bytes, marker: bytes, at: int, *, is_end: bool) -> int:
    """Where the next frame with a whole head begins; else the end, less what may be the beginning of one."""
    at += 1
    while (at := data.find(marker, at)) >= 0:
        if len(data) - at < HEAD_BYTES or _read_head(data, marker, at) is not None:
            return at
        at += 1
    return len(data) if is_end else len(data) - MARKER_BYTES + 1


def _record(kind: int, seq: int, body: bytes) -> OutboxRecord:
    topic_end = 1 + body[0]
    key_begin = topic_end + 2
    key_end = key_begin + int.from_bytes(body[topic_end:key_begin], "little")
    return OutboxRecord(kind, seq, body[1:topic_end].decode(), body[key_begin:key_end], body[key_end:])
