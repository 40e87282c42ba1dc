"""API keys: who may do what for which tenant, and how a presented key is recognised.

    alk_<key id: 12 hex digits>_<secret: 43 characters of base64url, 256 random bits>

Kept is the key id and the SHA-256 of key id and secret. A slow hash (argon2, scrypt) makes guessing a *password* dear;
256 random bits can't be guessed at any speed, and a slow hash on each request would let anybody keep a server busy with
wrong keys. The key id in what is hashed keeps equal secrets from looking equal, and names the one key to compare with.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from agentledger.schemas.errors import UsageError

SCOPES = ("ingest", "read", "export", "admin")
KEY_ID_BYTES, SECRET_BYTES = 6, 32
NAME_CHARS_MAX = 64
LIFE_US_MAX = 100 * 366 * 86_400_000_000
KEYS_MAX = 10_000  # in one file, which is read whole
_DOMAIN = b"agentledger.api_key.v1"
_FORM = re.compile(r"alk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_NO_HASH = bytes(32)  # what an unknown key is compared with, so that it takes as long as a known one


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """One key as it is kept: without its secret. Times are microseconds since 1970; None: never.

    `name` is the client's: it stays when the key is rotated. `events_per_s_max` of None is the server's setting.
    """

    key_id: str
    name: str
    tenant_id: str
    scopes: tuple[str, ...]
    secret_sha256: str
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None
    events_per_s_max: int | None = None

    def valid_at(self, now_us: int) -> bool:
        """Whether it opens anything at that time."""
        return self.revoked_at is None and (self.expires_at is None or now_us < self.expires_at)

    def state(self, now_us: int) -> str:
        """active, expired or revoked."""
        if self.revoked_at is not None:
            return "revoked"
        return "active" if self.valid_at(now_us) else "expired"

    def as_fields(self) -> dict[str, Any]:
        """The key as JSON keeps it."""
        return {**asdict(self), "scopes": list(self.scopes)}

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> ApiKey:
        """The inverse of `as_fields`. Raises TypeError, KeyError for what isn't one."""
        return cls(**{**fields, "scopes": tuple(fields["scopes"])})


def new_api_key(
    name: str,
    tenant_id: str,
    scopes: Iterable[str],
    *,
    now_us: int,
    expires_at: int | None = None,
    events_per_s_max: int | None = None,
) -> tuple[ApiKey, str]:
    """A new key, and the text to hand to its owner: that is kept nowhere. Raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for a key",
            next_step="use up to 64 of a-z, 0-9, '.', '_' and '-', such as billing-bot",
        )
    named = tuple(scope for scope in SCOPES if scope in set(scopes))
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not named:
        raise UsageError(
            f"no scope is called {', '.join(unknown) or '(none)'}", next_step=f"one of {', '.join(SCOPES)}"
        )
    if not 0 < len(tenant_id) <= 200:
        raise UsageError("a tenant's id has 1 to 200 characters")
    if expires_at is not None and not now_us < expires_at <= now_us + LIFE_US_MAX:
        raise UsageError("a key expires after it is made, and within 100 years", next_step="give another time")
    key_id, secret = secrets.token_hex(KEY_ID_BYTES), secrets.token_urlsafe(SECRET_BYTES)
    key = ApiKey(
        key_id=key_id,
        name=name,
        tenant_id=tenant_id,
        scopes=named,
        secret_sha256=_hash_of(key_id, secret).hex(),
        created_at=now_us,
        expires_at=expires_at,
        events_per_s_max=events_per_s_max,
    )
    return key, f"alk_{key_id}_{secret}"


def key_id_of(text: str) -> str | None:
    """The key id in a presented text; None where it has not the form of a key."""
    match = _FORM.fullmatch(text)
    return match[1] if match else None


def opens(text: str, key: ApiKey | None, now_us: int) -> bool:
    """Whether the text is this key, and the key is valid. A wrong secret takes as long as the right one."""
    match = _FORM.fullmatch(text)
    if match is None:
        return False
    kept = _NO_HASH if key is None else bytes.fromhex(key.secret_sha256)
    same = hmac.compare_digest(_hash_of(match[1], match[2]), kept)
    return same and key is not None and key.key_id == match[1] and key.valid_at(now_us)


def rotated(key: ApiKey, *, now_us: int, overlap_us: int) -> tuple[ApiKey, ApiKey, str]:
    """The old key with an end, its successor of the same rights, and the successor's text.

    Both are valid for `overlap_us`, so that clients change over without a gap; an earlier end of the old one stays.
    Raises UsageError where the old one isn't valid any more.
    """
    if not key.valid_at(now_us):
        raise UsageError(
            f"key {key.key_id} is {key.state(now_us)}", next_step="make a new one: agentledger api-keys new"
        )
    end = now_us + max(0, overlap_us)
    lifetime = None if key.expires_at is None else max(key.expires_at - key.created_at, 1)
    successor, text = new_api_key(
        key.name, key.tenant_id, key.scopes, now_us=now_us,
        expires_at=None if lifetime is None else now_us + lifetime, events_per_s_max=key.events_per_s_max,
    )  # fmt: skip
    return replace(key, expires_at=end if key.expires_at is None else min(end, key.expires_at)), successor, text


def _hash_of(key_id: str, secret: str) -> bytes:
    return hashlib.sha256(b"\x1f".join((_DOMAIN, key_id.encode(), secret.encode()))).digest()
