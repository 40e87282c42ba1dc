"""What evidence rests on: canonical JSON, digests of content, and the leaf that commits to one record of a log."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from typing import Any

import rfc8785

ID_CHARACTERS = 36  # of an event id in its canonical form
LEAF_DOMAIN = b"agentledger.leaf.v1"
_NEEDS_CARE = re.compile(r"\d[.eE]|\d{16}")  # a float or an integer beyond 2**53 may stand here
_LENGTH = struct.Struct(">I")


def canonical_json(value: Any) -> bytes:
    """The value in canonical JSON (RFC 8785), UTF-8.

    Integers beyond 2**53, which RFC 8785 has no form for, are written as strings. Raises ValueError or TypeError for
    what JSON can't hold. The common case (no floats, no huge integers) goes through the C encoder: there Python's
    order and spelling are those of the RFC.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    if _NEEDS_CARE.search(text) is None and (text.isascii() or max(text) < "\ud800"):
        return text.encode()
    return rfc8785.dumps(_within_range(json.loads(text)))


def _within_range(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _within_range(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_within_range(item) for item in value]
    if isinstance(value, int) and abs(value) >= 2**53:
        return str(value)
    return value


def digest_bytes(content: bytes) -> str:
    """`sha256:` and the hexadecimal SHA-256 of the bytes."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


class LeafHasher:
    """Hashes the leaves of one log, that is of one (topic id, partition).

    A leaf is SHA-256 over 0x00 (RFC 6962, section 2.1), the domain tag, topic id, partition, offset, log index,
    ledger time (microseconds), event id, and the SHA-256 of writer schema, key, headers and value; each with its length
    before it as a 32-bit big-endian integer, integers big-endian and of fixed width.
    """

    _parts = struct.Struct(">IqIqIqI36sI32sI32sI32sI32s")
    _numbers = struct.Struct(">IqIqIqI")
    _hashes = struct.Struct(">I32sI32sI32sI32s")

    def __init__(self, topic_id: bytes, partition: int) -> None:
        self._prefix = b"\x00" + b"".join(
            _LENGTH.pack(len(part)) + part for part in (LEAF_DOMAIN, topic_id, partition.to_bytes(4, "big"))
        )

    def leaf(  # noqa: PLR0917 (called once per record: keyword arguments cost as much as the packing)
        self,
        offset: int,
        log_index: int,
        ledger_time_us: int,
        event_id: bytes,
        schema_sha256: bytes,
        key_sha256: bytes,
        headers_sha256: bytes,
        value_sha256: bytes,
    ) -> bytes:
        """The 32 bytes of the leaf. `event_id` is the id's text, or empty where the record has none."""
        hashes = 32, schema_sha256, 32, key_sha256, 32, headers_sha256, 32, value_sha256
        numbers = 8, offset, 8, log_index, 8, ledger_time_us, len(event_id)
        if len(event_id) == ID_CHARACTERS:  # nearly all: at once
            parts = self._parts.pack(*numbers, event_id, *hashes)
        else:
            parts = self._numbers.pack(*numbers) + event_id + self._hashes.pack(*hashes)
        return hashlib.sha256(self._prefix + parts).digest()


def headers_digest(headers: list[tuple[str, bytes | None]] | None) -> bytes:
    """SHA-256 over the headers in order, each name and value with its length before it; a null value has no bytes."""
    if not headers:
        return EMPTY_SHA256
    sha = hashlib.sha256()
    for name, value in headers:
        for part in (name.encode(), value or b""):
            sha.update(_LENGTH.pack(len(part)) + part)
    return sha.digest()


EMPTY_SHA256 = hashlib.sha256(b"").digest()
