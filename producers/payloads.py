"""Content to its own topic, when asked for: in chunks under the broker's limit, found again by the event's id.

It is no part of the trail: it is kept for a short time (infra/docs/REDACTION.md), while the event keeps the digest of
what was sent (`payload_digests`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from agentledger.producers.bounds import CHUNK_BYTES_MAX
from agentledger.producers.emitter import BLANK_ENVELOPE, Emitter
from agentledger.producers.envelope import RunEnvelope
from agentledger.producers.event_ids import new_event_id
from agentledger.schemas.events import PayloadChunk
from agentledger.schemas.hashing import digest_bytes

PAYLOAD_RECORDS = ("GapDetected", "PayloadChunk")
SUFFIX = ":payloads"


class Payloads:
    """Sends the payloads of events, numbered by an emitter of their own. Never raises, never waits."""

    def __init__(self, emitter: Emitter) -> None:
        self.emitter = emitter

    def send(self, envelope: RunEnvelope, event_id: str, payloads: Mapping[str, bytes]) -> None:
        """Queue the payloads of one event, by part: arguments, result, input, output."""
        under_event = envelope.keyed_by(event_id.encode())  # one event's chunks in one partition, in order
        for part, text in payloads.items():
            for chunk in chunks_of(event_id, part, text):
                self._emit(under_event, event_id, chunk)

    def _emit(self, envelope: RunEnvelope, event_id: str, chunk: PayloadChunk) -> None:
        now_us = self.emitter.now_us()
        own_id = new_event_id(now_us)
        self.emitter.emit(
            self.emitter.kinds["PayloadChunk"], envelope, chunk, own_id, event_id, span_id=None, occurred_at=now_us
        )


def chunks_of(event_id: str, part: str, text: bytes) -> Iterator[PayloadChunk]:
    """The chunks of one payload, which is canonical JSON: cut between characters, at least one."""
    pieces = list(cut(text, CHUNK_BYTES_MAX)) or [b""]
    digest = digest_bytes(text)
    for number, piece in enumerate(pieces):
        yield PayloadChunk(
            **BLANK_ENVELOPE, payload_event_id=event_id, part=part, payload_digest=digest, payload_bytes=len(text),
            chunk=number, chunks=len(pieces), content=piece.decode(),
        )  # fmt: skip


def cut(text: bytes, bytes_max: int) -> Iterator[bytes]:
    """UTF-8 in pieces of at most `bytes_max` bytes (4 or more) that are UTF-8 again."""
    first = 0
    while first < len(text):
        behind = min(first + bytes_max, len(text))
        while behind < len(text) and text[behind] & 0xC0 == 0x80:  # in the middle of a character
            behind -= 1
        yield text[first:behind]
        first = behind
