"""The keys of data subjects in a folder: a file per key (0600), and one per subject that names its key.

The name of a subject is in no file: its file is named by an HMAC under a secret of the folder. A key is overwritten
before it is removed. Copies of the folder (backups, snapshots) hold keys too: erasing reaches only as far as they do.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from agentledger.schemas.errors import StoreError
from agentledger.schemas.personal import KEY_BYTES, KEY_ID_BYTES
from agentledger.schemas.ports import SubjectKey

KEYS, SUBJECTS, SECRET = "keys", "subjects", "secret"
ATTEMPTS_MAX = 10  # each lost attempt means that somebody made or erased the same subject's key at that moment


class FileSubjectKeys:
    """Keys in a folder of one host, or on a file system that hosts share."""

    def __init__(self, folder: Path | str) -> None:
        self._folder = Path(folder)  # a text would fail at each key, and every personal field would be withheld

    def key_for(self, tenant_id: str, subject: str) -> SubjectKey:
        """The subject's key; made where it has none, or none any more. Two who ask at once get the same."""
        with self._told():
            path = self._subject_path(tenant_id, subject)
            for _ in range(ATTEMPTS_MAX):
                key_id = _text(path)
                key = self.key_of(key_id) if key_id else None
                if key is not None:
                    return SubjectKey(key_id, key)
                if key_id:
                    path.unlink(missing_ok=True)  # an erasure that was killed: the key is gone, its name isn't
                self._make(path)
        raise StoreError("the key store does not come to rest", where=str(self._folder), next_step="try again")

    def key_of(self, key_id: str) -> bytes | None:
        """The key of this id; None where it was destroyed or never was."""
        if len(key_id) != 2 * KEY_ID_BYTES or not key_id.isalnum():
            return None
        with self._told():
            text = _text(self._key_path(key_id))
        try:
            key = bytes.fromhex(text)
        except ValueError:
            key = b""
        return key if len(key) == KEY_BYTES and any(key) else None  # zeros: an erasure that was killed

    def key_id_of(self, tenant_id: str, subject: str) -> str | None:
        """The id of the subject's key; None where it has none. Makes none."""
        with self._told():
            key_id = _text(self._subject_path(tenant_id, subject))
        return key_id if key_id and self.key_of(key_id) is not None else None

    def erase(self, tenant_id: str, subject: str) -> str | None:
        """Destroy the subject's key for good; its id, or None where there was none. Returns when it is gone."""
        with self._told():
            path = self._subject_path(tenant_id, subject)
            key_id = _text(path)
            if not key_id:
                return None
            key_path = self._key_path(key_id)
            if key_path.exists():
                _overwrite(key_path)
                key_path.unlink(missing_ok=True)
                _sync(key_path.parent)
            path.unlink(missing_ok=True)
            _sync(path.parent)
        return key_id

    def _make(self, path: Path) -> None:
        """Make a key, unless another has made one for the same subject first."""
        key_id = secrets.token_hex(KEY_ID_BYTES)
        key_path = self._key_path(key_id)
        _write_new(key_path, secrets.token_bytes(KEY_BYTES).hex())
        named = path.with_name(f".{path.name}.{key_id}")
        _write_new(named, key_id)
        try:
            os.link(named, path)  # fails where the name is taken
            _sync(path.parent)
        except FileExistsError:
            key_path.unlink()
        finally:
            named.unlink()

    def _key_path(self, key_id: str) -> Path:
        return self._folder / KEYS / key_id[:2] / key_id

    def _subject_path(self, tenant_id: str, subject: str) -> Path:
        named = f"{len(tenant_id)}:{tenant_id}{subject}".encode("utf-8", "surrogatepass")
        name = hmac.digest(self._secret(), named, "sha256").hex()
        return self._folder / SUBJECTS / name[:2] / name

    def _secret(self) -> bytes:
        path = self._folder / SECRET
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._folder.chmod(0o700)
            temporary = path.with_name(f".{SECRET}.{secrets.token_hex(8)}")
            _write_new(temporary, secrets.token_hex(32))
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
            temporary.unlink()
        return bytes.fromhex(_text(path))

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            raise StoreError(
                f"the keys of data subjects can't be read or written: {getattr(error, 'strerror', None) or error}",
                where=str(self._folder), next_step="check AGENTLEDGER_SUBJECT_KEYS_DIR and who owns it",
            ) from None  # fmt: skip


def _text(path: Path) -> str:
    """What a file holds; empty where there is none."""
    try:
        return path.read_text("ascii").strip()
    except FileNotFoundError:
        return ""


def _write_new(path: Path, text: str) -> None:
    """Write a file that only its owner can read, and return when it is on disk."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    _sync(path.parent)


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"0" * 2 * KEY_BYTES)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
