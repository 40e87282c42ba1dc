"""The signer's keys on disk: `signer.key` signs, `signer.pub` is for everybody, `retired/` keeps what was rotated out.

A private key is readable by its owner alone (0600, its folder 0700), or it is refused.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from agentledger.schemas.errors import ConfigurationError, ProofError, UsageError
from agentledger.schemas.notes import SignerKey, VerifierKey

PRIVATE_NAME, PUBLIC_NAME, RETIRED = "signer.key", "signer.pub", "retired"


class KeyFolder:
    """One folder with the keys of one origin."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def private_path(self) -> Path:
        """The key that signs."""
        return self.folder / PRIVATE_NAME

    @property
    def public_path(self) -> Path:
        """All public keys, the oldest first, one a line."""
        return self.folder / PUBLIC_NAME

    def new(self, name: str) -> VerifierKey:
        """Make the first key. Raises UsageError where there is one."""
        if self.private_path.exists():
            raise UsageError(
                "there is a key already",
                where=str(self.private_path),
                next_step="agentledger keys rotate makes the next",
            )
        key = SignerKey.generate(name)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o700)
        self._add_public(key.verifier)  # first: a private key whose public half is nowhere can't be verified
        write_private(self.private_path, key.secret_text() + "\n")
        return key.verifier

    def rotate(self) -> VerifierKey:
        """Make the next key; the old one stays under `retired/` until the signer has handed over."""
        old = self.active()
        key = SignerKey.generate(old.name)
        retired = self.folder / RETIRED
        retired.mkdir(exist_ok=True, mode=0o700)
        write_private(retired / f"{old.verifier.key_id.hex()}.key", old.secret_text() + "\n")
        self._add_public(key.verifier)
        write_private(self.private_path, key.secret_text() + "\n")
        return key.verifier

    def active(self) -> SignerKey:
        """The key that signs. Raises ConfigurationError."""
        return read_private(self.private_path)

    def retired(self, key: VerifierKey) -> SignerKey:
        """The private half of a key that was rotated out. Raises ConfigurationError where it isn't there."""
        return read_private(self.folder / RETIRED / f"{key.key_id.hex()}.key")

    def public(self) -> list[VerifierKey]:
        """All public keys, the oldest first."""
        return read_public(self.public_path)

    def _add_public(self, key: VerifierKey) -> None:
        lines = self.public_path.read_text("utf-8") if self.public_path.exists() else ""
        if str(key) not in lines.splitlines():
            write_synced(self.public_path, f"{lines}{key}\n", 0o644)


def read_private(path: Path) -> SignerKey:
    """The private key in a file. Raises ConfigurationError where it is none, or open to others than its owner."""
    try:
        mode = path.stat()
        text = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the private key can't be read: {getattr(error, 'strerror', error)}",
            where=str(path), next_step="agentledger keys new NAME makes one",
        ) from None  # fmt: skip
    if mode.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(
            f"the private key is open to others (mode {mode.st_mode & 0o777:o})",
            where=str(path), next_step="chmod 600 it, and if somebody may have read it: agentledger keys rotate",
        )  # fmt: skip
    try:
        return SignerKey.parse(text)
    except ProofError as error:
        raise ConfigurationError(error.what, where=str(path)) from None


def read_public(path: Path) -> list[VerifierKey]:
    """The public keys in a file, one a line; empty lines and lines that begin with # say nothing."""
    try:
        lines = path.read_text("utf-8").splitlines()
        keys = [VerifierKey.parse(line) for line in lines if line.strip() and not line.startswith("#")]
    except (OSError, UnicodeDecodeError, ProofError) as error:
        raise ConfigurationError(
            f"the public keys can't be read: {getattr(error, 'strerror', error)}",
            where=str(path), next_step="one key a line, as agentledger keys show prints it",
        ) from None  # fmt: skip
    if not keys:
        raise ConfigurationError("no public key is in this file", where=str(path))
    return keys


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    write_synced(path, text, 0o600)


def write_synced(path: Path, text: str, mode: int) -> None:
    """Write a file whole or not at all, and return when it is on disk."""
    temporary = path.with_name(f".{path.name}.new")  # one name: what a killed process left is written over
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        os.fchmod(descriptor, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Return when the names in this folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
