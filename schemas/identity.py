"""Event ids: UUIDs that begin with a time in milliseconds, so that ids of one time lie side by side in an index.

Random ids are UUIDv7; ids derived from content are UUIDv8 of the same layout (RFC 9562, sections 5.7 and 5.8).
"""

from __future__ import annotations

import os
from hashlib import sha256
from typing import Final

# The `producer_seq` of events that nobody counts: the sender gave no numbers, so no hole among them means a loss.
UNCOUNTED: Final = -1
_VERSION_7: Final = 0x7 << 76
_VERSION_8: Final = 0x8 << 76
_VARIANT: Final = 0x2 << 62
_RANDOM_BITS_HIGH: Final = (1 << 12) - 1
_RANDOM_BITS_LOW: Final = (1 << 62) - 1
_TIME_MASK: Final = (1 << 48) - 1
_SEPARATOR: Final = "\x1f"  # can't occur in the middle of a UTF-8 character, and is escaped in JSON texts
# In a UUIDv8, version and highest bits as text, a byte as text, and the byte of variant and the six bits after it. No
# larger table: what is random would be looked for elsewhere in memory each time.
_HIGH_STARTS: Final = [f"8{bits:x}" for bits in range(16)]
_BYTE_TEXTS: Final = [f"{byte:02x}" for byte in range(256)]
_LOW_STARTS: Final = [bytes([0x80 | bits]) for bits in range(64)]


def uuid7(now_us: int, random_bytes: bytes | None = None) -> str:
    """A random event id of this time (microseconds since 1970), in canonical lower-case text."""
    bits = int.from_bytes(random_bytes if random_bytes is not None else os.urandom(10), "big")
    return _text(now_us // 1000, _VERSION_7, bits)


def content_id(occurred_at_us: int, *parts: str) -> str:
    """The event id of content named by `parts`: the same parts at the same time always give the same id."""
    return _text(occurred_at_us // 1000, _VERSION_8, _hash_bits(_digest(_SEPARATOR.join(parts))))


def derived_id(base_event_id: str, *parts: str) -> str:
    """The id of an event that follows from `base_event_id`: its time prefix, and a hash of it and `parts`.

    Which `parts` are named decides what counts as the same conclusion: rule, scope and threshold, say, and not the
    event that happened to trigger it.
    """
    named = parts[0] if len(parts) == 1 else _SEPARATOR.join(parts)
    digest = _digest(f"{base_event_id}{_SEPARATOR}{named}")
    if base_event_id[8] == "-" == base_event_id[13]:  # always so in canonical text; as `_text`, in a third of the time
        high = digest[0] << 10 | digest[1] << 2 | digest[2] >> 6
        low = (_LOW_STARTS[digest[2] & 63] + digest[3:10]).hex("-", 6)
        start = base_event_id[:14].lower()
        return f"{start}{_HIGH_STARTS[high >> 8 & 15]}{_BYTE_TEXTS[high & 255]}-{low}"
    return _text(event_time_ms(base_event_id), _VERSION_8, _hash_bits(digest))


def event_time_ms(event_id: str) -> int:
    """The time prefix of an event id, milliseconds since 1970."""
    return int(event_id[:8] + event_id[9:13], 16)


def utf8(text: str) -> bytes:
    """The text's bytes, also where it has lone surrogates."""
    try:
        return text.encode()  # in a third of the time
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _digest(text: str) -> bytes:
    return sha256(utf8(text)).digest()


def _hash_bits(digest: bytes) -> int:
    return int.from_bytes(digest[:10], "big")


def _rest(version: int, bits: int) -> int:
    """What follows the time: version, variant, and the random bits around them."""
    return version | ((bits >> 62) & _RANDOM_BITS_HIGH) << 64 | _VARIANT | (bits & _RANDOM_BITS_LOW)


def _text(time_ms: int, version: int, bits: int) -> str:
    hexed = f"{(time_ms & _TIME_MASK) << 80 | _rest(version, bits):032x}"
    return f"{hexed[:8]}-{hexed[8:12]}-{hexed[12:16]}-{hexed[16:20]}-{hexed[20:]}"
