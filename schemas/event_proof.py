"""That an event is in the ledger, as one file: a C2SP tlog-proof of the signed head of its log, and in the extra data
the event's leaf and its inclusion under that head. Checked with nothing but a public key.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from agentledger.schemas.checkpoints import Checkpoint, TlogProof, parse_hash
from agentledger.schemas.errors import ProofError
from agentledger.schemas.hashing import LeafHasher, canonical_json
from agentledger.schemas.heads import Head, LogId, parse_leaf
from agentledger.schemas.merkle import hash_leaf, verify_inclusion
from agentledger.schemas.notes import VerifierKey, decode_base64, encode_base64, open_note

FORMAT = "agentledger.event-proof.v1"
_HASHES = ("schema_sha256", "key_sha256", "headers_sha256", "value_sha256")


@dataclass(frozen=True)
class ProvenRecord:
    """One record of a log with all that its leaf commits to. Times are microseconds since 1970."""

    log: LogId
    offset: int
    log_index: int
    ledger_time_us: int
    event_id: str
    schema_sha256: bytes
    key_sha256: bytes
    headers_sha256: bytes
    value_sha256: bytes
    value: bytes | None = None  # the exact bytes; None where the proof leaves them out

    def leaf(self) -> bytes:
        """The record's leaf hash. Raises ProofError where its numbers can't be those of a record."""
        try:
            hasher = LeafHasher(bytes.fromhex(self.log.topic_id.replace("-", "")), self.log.partition)
            return hasher.leaf(
                self.offset, self.log_index, self.ledger_time_us, self.event_id.encode(),
                self.schema_sha256, self.key_sha256, self.headers_sha256, self.value_sha256,
            )  # fmt: skip
        except (ValueError, OverflowError, struct.error) as error:
            raise ProofError(f"the proof's record can't be one of a log: {error}") from None


@dataclass(frozen=True)
class ProvenEvent:
    """What a proof shows once it is verified."""

    record: ProvenRecord
    head: Head
    checkpoint: Checkpoint


def write_event_proof(
    record: ProvenRecord, hashes: Sequence[bytes], head: Head, *, place: int, head_hashes: Sequence[bytes], note: str
) -> str:
    """The proof as text. `hashes` lead from the record to its head, `head_hashes` from the head to the checkpoint in
    `note`; `place` is the head's index in the heads log."""
    extra: dict[str, Any] = {
        "format": FORMAT,
        "topic_id": record.log.topic_id,
        "partition": record.log.partition,
        "offset": record.offset,
        "log_index": record.log_index,
        "ledger_time_us": str(record.ledger_time_us),
        "event_id": record.event_id,
        **{name: encode_base64(getattr(record, name)) for name in _HASHES},
        "hashes": [encode_base64(one) for one in hashes],
        "head": head.line(),
    }
    if record.value is not None:
        extra["value"] = encode_base64(record.value)
    return TlogProof(place, tuple(head_hashes), note, canonical_json(extra)).text()


def verify_event_proof(text: str, keys: Iterable[VerifierKey]) -> ProvenEvent:
    """What the proof shows. Raises ProofError where it shows nothing, or none of the keys has signed it."""
    proof = TlogProof.parse(text)
    checkpoint = Checkpoint.parse(open_note(proof.note, keys))
    record, hashes, line = _read_extra(proof.extra)
    head = parse_leaf(line)
    if not isinstance(head, Head) or head.log != record.log:
        raise ProofError("the proof's head is not of the record's log")
    verify_inclusion(proof.index, checkpoint.size, hash_leaf(line.encode()), proof.hashes, checkpoint.root)
    verify_inclusion(record.log_index, head.size, record.leaf(), hashes, head.root)
    if record.value is not None and hashlib.sha256(record.value).digest() != record.value_sha256:
        raise ProofError("the proof's value has another SHA-256 than its leaf says")
    return ProvenEvent(record, head, checkpoint)


def _read_extra(extra: bytes | None) -> tuple[ProvenRecord, list[bytes], str]:
    try:
        found = json.loads(extra or b"")
        if found["format"] != FORMAT:
            raise ProofError(f"this proof is of the format {found['format']!r}, expected {FORMAT}")
        record = ProvenRecord(
            log=LogId(str(found["topic_id"]), int(found["partition"])),
            offset=int(found["offset"]),
            log_index=int(found["log_index"]),
            ledger_time_us=int(found["ledger_time_us"]),
            event_id=str(found["event_id"]),
            **{name: parse_hash(found[name]) for name in _HASHES},
            value=decode_base64(found["value"], "the value") if "value" in found else None,
        )
        return record, [parse_hash(one) for one in found["hashes"]], str(found["head"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ProofError("this is no proof of an event: its extra data doesn't hold a record") from None
