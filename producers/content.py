"""Arguments and results as an event carries them: digest and size, and content only where the ledger was told so."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import hmac
from collections.abc import Callable, Mapping, Set
from datetime import date, time
from decimal import Decimal
from pathlib import PurePath
from typing import Any, NamedTuple
from uuid import UUID

from agentledger.producers.bounds import CONTENT_BYTES_MAX
from agentledger.schemas.hashing import canonical_json, digest_bytes

Redact = Callable[[Any], Any]  # what may be kept of a value, as JSON can hold it; None: nothing

KEYED = "hmac-sha256:"  # before a digest under a key
DEPTH_MAX = 32  # deeper nesting is named by its type: a cycle ends here too


class Content(NamedTuple):
    """What an event says of a value: digest and size of its canonical JSON, and what redaction let through: in the
    event (`kept`, up to 64 KiB), or beside it (`payload`)."""

    digest: str
    size: int
    kept: str | None
    payload: bytes | None = None


def describe(value: Any, redact: Redact | None = None, *, key: bytes | None = None, whole: bool = False) -> Content:
    """Digest, size in bytes and, where `redact` is given, the content that it lets through.

    The digest is SHA-256, or HMAC-SHA-256 under `key`. `whole`: the content is a payload of any size.
    Never raises: what JSON can't hold is written as `plain` says. A `redact` that fails keeps nothing.
    """
    raw = to_canonical(value)
    digest = digest_bytes(raw) if key is None else KEYED + hmac.digest(key, raw, hashlib.sha256).hex()
    shown = None if redact is None else _shown(value, redact)
    if shown is None or whole:
        return Content(digest, len(raw), None, shown)
    return Content(digest, len(raw), shown.decode() if len(shown) <= CONTENT_BYTES_MAX else None)


def digest_words(words: str, key: bytes | None = None) -> str:
    """What an event says of words that stay where they are: whoever has them in a log of their own finds them again."""
    content = describe(words, key=key)
    return f"{content.size} bytes, {content.digest}"


def to_canonical(value: Any) -> bytes:
    """Canonical JSON of any Python value. Never raises."""
    try:
        return canonical_json(value)
    except Exception:  # noqa: BLE001, S110 - not JSON as it is
        pass
    try:
        return canonical_json(plain(value))
    except Exception:  # noqa: BLE001 - not even then: a user's class in the way
        return canonical_json(_named(value))


def plain(value: Any, depth: int = 0) -> Any:
    """The value in terms of JSON: models and dataclasses by their fields, bytes by digest, dates in ISO 8601.

    Anything else is named by its type only: a repr may hold an address, which differs each time, or a secret.
    """
    if value is None or isinstance(value, bool | int):
        return value if type(value) in {bool, int} or value is None else int(value)
    if isinstance(value, str):
        return str(value.value if isinstance(value, enum.Enum) else value).encode("utf-8", "replace").decode()
    if depth >= DEPTH_MAX:
        return _named(value)
    return _plain_scalar(value) if _is_scalar(value) else _plain_nested(value, depth + 1)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, float | Decimal | UUID | PurePath | date | time | bytes | bytearray | memoryview)


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, float):
        return float(value) if value - value == 0 else str(value)  # NaN and the infinities have no form in JSON
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        raw = bytes(value)
        return {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    return str(value)


def _plain_nested(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping):
        return {plain_key(key): plain(item, depth) for key, item in value.items()}
    if isinstance(value, list | tuple | Set):
        items = [plain(item, depth) for item in value]
        return sorted(items, key=to_canonical) if isinstance(value, Set) else items
    if isinstance(value, enum.Enum):
        return plain(value.value, depth)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name, None), depth) for field in dataclasses.fields(value)}
    dump = getattr(value, "model_dump", None)  # pydantic's, without importing it
    if callable(dump) and not isinstance(value, type):
        return plain(dump(mode="json"), depth)
    return _named(value)


def plain_key(key: Any) -> str:
    """A mapping's key as text."""
    text = key if isinstance(key, str) else str(key) if isinstance(key, int | float | UUID | date) else repr(plain(key))
    return text.encode("utf-8", "replace").decode()


def _named(value: Any) -> str:
    kind = type(value)
    return f"<{kind.__module__}.{kind.__qualname__}>"


def _shown(value: Any, redact: Redact) -> bytes | None:
    try:
        shown = redact(value)
    except Exception:  # noqa: BLE001 - a redaction that fails must not let anything through, nor stop the agent
        return None
    return None if shown is None else to_canonical(shown)


def keep_all(value: Any) -> Any:
    """The redaction that lets everything through: `Ledger(keep_content=True)`."""
    return value
