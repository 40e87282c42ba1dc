"""Personal fields under a key of their subject: AES-256-GCM, as a token of plain text that fits into any field.

    {sealed:v1:KEY_ID:BASE64URL}

What is hashed, signed and proven is the token. Without the key nobody reads it, and nobody can test a guess, as digests
are over the token, too: destroying the key erases the field and leaves every proof as it was. The nonce follows from
key and text (an HMAC, cut to 12 bytes), so that the same field gives the same token: equal arguments still have equal
digests. The key id is random; it says nothing of the subject.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentledger.schemas.errors import StoreError
from agentledger.schemas.ports import SubjectKey

KEY_BYTES, KEY_ID_BYTES, NONCE_BYTES = 32, 16, 12
ERASED, UNREADABLE = "[erased]", "[sealed: damaged]"
_DOMAIN = b"agentledger.sealed.v1"
_TOKEN = re.compile(r"\{sealed:v1:([0-9a-f]{32}):([A-Za-z0-9_-]{38,})\}")


def seal(text: str, key: SubjectKey) -> str:
    """The text as a token that only the key opens. The same text under the same key gives the same token."""
    plain = text.encode()
    bound = _DOMAIN + key.key_id.encode()
    nonce_key, cipher_key = _derived(key.key, b"nonce"), _derived(key.key, b"cipher")
    nonce = hmac.digest(nonce_key, plain, "sha256")[:NONCE_BYTES]
    raw = nonce + AESGCM(cipher_key).encrypt(nonce, plain, bound)
    return f"{{sealed:v1:{key.key_id}:{base64.urlsafe_b64encode(raw).rstrip(b'=').decode()}}}"


def reveal(text: str, key_of: Callable[[str], bytes | None]) -> str:
    """The text with every token in it opened, or with `[erased]` where its key is gone.

    `key_of` gives the key of a key id; None: it is destroyed. What it raises is raised.
    """
    if "{sealed:v1:" not in text:
        return text
    return _TOKEN.sub(lambda found: _opened(found[1], found[2], key_of), text)


def has_sealed(text: str) -> bool:
    """Whether a token is in the text."""
    return _TOKEN.search(text) is not None


def _opened(key_id: str, body: str, key_of: Callable[[str], bytes | None]) -> str:
    key = key_of(key_id)
    if key is None:
        return ERASED
    try:
        raw = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        plain = AESGCM(_derived(key, b"cipher")).decrypt(
            raw[:NONCE_BYTES], raw[NONCE_BYTES:], _DOMAIN + key_id.encode()
        )
        return plain.decode()
    except (binascii.Error, ValueError, InvalidTag):
        return UNREADABLE


def _derived(key: bytes, purpose: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise StoreError(f"a subject's key has {KEY_BYTES} bytes, not {len(key)}", next_step="restore the key store")
    return hmac.digest(key, _DOMAIN + purpose, hashlib.sha256)
