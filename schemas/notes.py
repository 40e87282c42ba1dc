"""Signed notes (c2sp.org/signed-note): a text, and who signed it. Ed25519, and the timed cosignatures of witnesses.

A note is read only together with keys: `open_note` gives its text when a key that the caller trusts has signed it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from agentledger.schemas.errors import ProofError

ED25519, COSIGNATURE = 0x01, 0x04
KEY_BYTES, KEY_ID_BYTES, SIGNATURE_BYTES, TIME_BYTES = 32, 4, 64, 8
NOTE_BYTES_MAX = 1_000_000
SIGNATURES_MAX = 100  # the specification asks for 16 at least
_DASH = "\u2014 "
_PRIVATE = "PRIVATE+KEY+"


@dataclass(frozen=True)
class VerifierKey:
    """A public key with its name, as `NAME+ID+BASE64` spells it (a "vkey")."""

    name: str
    public: bytes
    kind: int = ED25519

    def __post_init__(self) -> None:
        check_key_name(self.name)
        if len(self.public) != KEY_BYTES or self.kind not in {ED25519, COSIGNATURE}:
            raise ProofError("this is no Ed25519 public key", where=self.name)

    @property
    def key_id(self) -> bytes:
        """Four bytes that tell keys of one name apart."""
        named = self.name.encode() + b"\n" + bytes([self.kind]) + self.public
        return hashlib.sha256(named).digest()[:KEY_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{encode_base64(bytes([self.kind]) + self.public)}"

    @staticmethod
    def parse(text: str) -> VerifierKey:
        """The key of its text. Raises ProofError."""
        name, key_id, material = _three_parts(text)
        raw = decode_base64(material, "a public key")
        key = VerifierKey(name, raw[1:], raw[0] if raw else 0)
        if key.key_id.hex() != key_id:
            raise ProofError(f"the key's id is {key.key_id.hex()}, not {key_id}", where=name)
        return key

    def verify(self, text: str, signature: bytes) -> bool:
        """Whether this key has signed the text. `signature` is without the key id."""
        message = text.encode()
        if self.kind == COSIGNATURE:
            if len(signature) != TIME_BYTES + SIGNATURE_BYTES:
                return False
            time_s = int.from_bytes(signature[:TIME_BYTES], "big")
            message = f"cosignature/v1\ntime {time_s}\n".encode() + message
            signature = signature[TIME_BYTES:]
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True)
class SignerKey:
    """A private key with its name. Its text is a secret."""

    name: str
    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        check_key_name(self.name)
        if len(self.seed) != KEY_BYTES:
            raise ProofError("this is no Ed25519 private key", where=self.name)

    @property
    def verifier(self) -> VerifierKey:
        """The public half."""
        return VerifierKey(self.name, Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw())

    def sign(self, text: str) -> bytes:
        """The signature of a text, without the key id."""
        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(text.encode())

    def secret_text(self) -> str:
        """The key as `PRIVATE+KEY+NAME+ID+BASE64`."""
        material = encode_base64(bytes([ED25519]) + self.seed)
        return f"{_PRIVATE}{self.name}+{self.verifier.key_id.hex()}+{material}"

    @staticmethod
    def parse(text: str) -> SignerKey:
        """The key of its text. Raises ProofError, whose message holds nothing of the key."""
        if not text.startswith(_PRIVATE):
            raise ProofError("this is no private key: it does not begin with PRIVATE+KEY+")
        name, key_id, material = _three_parts(text.removeprefix(_PRIVATE))
        raw = decode_base64(material, "a private key")
        if raw[:1] != bytes([ED25519]):
            raise ProofError("this is no Ed25519 private key", where=name)
        key = SignerKey(name, raw[1:])
        if key.verifier.key_id.hex() != key_id:
            raise ProofError("the private key does not fit its id", where=name)
        return key

    @staticmethod
    def generate(name: str) -> SignerKey:
        """A new random key."""
        return SignerKey(name, Ed25519PrivateKey.generate().private_bytes_raw())


@dataclass(frozen=True)
class Signature:
    """One signature line."""

    name: str
    key_id: bytes
    signature: bytes = field(repr=False)


@dataclass(frozen=True)
class Note:
    """A text and its signatures; nothing is verified yet."""

    text: str
    signatures: tuple[Signature, ...]

    @staticmethod
    def parse(raw: str | bytes) -> Note:
        """The note in these bytes. Raises ProofError where they have not the form of one."""
        whole = _checked_text(raw)
        at = whole.rfind("\n\n")
        if at < 0 or not whole.endswith("\n"):
            raise ProofError("this is no signed note: it has no blank line before its signatures")
        lines = whole[at + 2 : -1].split("\n")
        if len(lines) > SIGNATURES_MAX:
            raise ProofError(f"the note has more than {SIGNATURES_MAX} signatures")
        return Note(whole[: at + 1], tuple(_signature(line) for line in lines))

    def __str__(self) -> str:
        lines = (
            f"{_DASH}{one.name} {encode_base64(one.key_id + one.signature)}\n" for one in self.signatures
        )  # fmt: skip
        return f"{self.text}\n{''.join(lines)}"

    def signers(self, keys: Iterable[VerifierKey]) -> list[VerifierKey]:
        """Those of the keys that have signed. Raises ProofError where a signature of one of them is wrong."""
        known = {(key.name, key.key_id): key for key in keys}
        found: list[VerifierKey] = []
        for one in self.signatures:
            key = known.get((one.name, one.key_id))
            if key is None:
                continue
            if not key.verify(self.text, one.signature):
                raise ProofError(f"the signature of {one.name}, key {one.key_id.hex()}, does not fit the text")
            if key not in found:
                found.append(key)
        return found


def sign_note(text: str, keys: Sequence[SignerKey]) -> str:
    """The text as a note signed by all keys. Raises ProofError where it can't be the text of one."""
    _checked_text(text)
    if not text.endswith("\n"):
        raise ProofError("the text of a note ends with a line feed")
    return str(Note(text, tuple(Signature(key.name, key.verifier.key_id, key.sign(text)) for key in keys)))


def open_note(raw: str | bytes, keys: Iterable[VerifierKey]) -> str:
    """The text of a note that one of the keys has signed. Raises ProofError."""
    note = Note.parse(raw)
    if not note.signers(keys):
        names = ", ".join(f"{one.name}+{one.key_id.hex()}" for one in note.signatures)
        raise ProofError(
            f"none of the trusted keys has signed this; it names {names}",
            next_step="a ledger whose key was rotated has several: give all that agentledger keys show prints",
        )
    return note.text


def check_key_name(name: str) -> None:
    """Raise ProofError where this can't be the name of a key."""
    if not name or "+" in name or any(char.isspace() or char < " " for char in name):
        raise ProofError(f"{name!r} can't be a key's name", next_step="use one word without spaces and plus signs")


def encode_base64(raw: bytes) -> str:
    """Standard base 64 (RFC 4648, section 4)."""
    return base64.b64encode(raw).decode()


def decode_base64(text: str, what: str) -> bytes:
    """The bytes; only their one spelling is taken. Raises ProofError."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = None
    if raw is None or encode_base64(raw) != text:
        raise ProofError(f"{what} is not in base 64")
    return raw


def _checked_text(raw: str | bytes) -> str:
    if len(raw) > NOTE_BYTES_MAX:
        raise ProofError(f"a note has {NOTE_BYTES_MAX} bytes at most")
    try:
        text = raw.decode() if isinstance(raw, bytes) else raw
        text.encode()
    except UnicodeError:
        raise ProofError("a note is UTF-8") from None
    if any(char < " " and char != "\n" for char in text):
        raise ProofError("a note has no control characters but line feeds")
    return text


def _signature(line: str) -> Signature:
    name, _, material = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not material:
        raise ProofError("this is no signed note: a line behind its blank line is no signature")
    check_key_name(name)
    raw = decode_base64(material, f"the signature of {name}")
    if len(raw) <= KEY_ID_BYTES:
        raise ProofError(f"the signature of {name} is too short")
    return Signature(name, raw[:KEY_ID_BYTES], raw[KEY_ID_BYTES:])


def _three_parts(text: str) -> tuple[str, str, str]:
    parts = text.strip().split("+", 2)  # base 64 may hold plus signs, the name and the id can't
    if len(parts) != 3:
        raise ProofError("a key is written NAME+ID+BASE64")
    return parts[0], parts[1], parts[2]
