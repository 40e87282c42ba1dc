"""API keys in one JSON file that only its owner can read (0600), replaced whole at each change."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agentledger.schemas.api_keys import KEYS_MAX, ApiKey
from agentledger.schemas.errors import StoreError

FILE_BYTES_MAX = 16 * 1024 * 1024  # some 400 bytes a key
_OTHERS = 0o077


class FileApiKeys:
    """`ApiKeys` in a file. A change by another process is seen at the next look; an unreadable file opens nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._keys: dict[str, ApiKey] = {}

    def find(self, key_id: str) -> ApiKey | None:
        """The key of this id. Raises StoreError where the file can't be read."""
        return self._load().get(key_id)

    def listed(self) -> list[ApiKey]:
        """Every key, oldest first. Raises StoreError."""
        return sorted(self._load().values(), key=lambda key: (key.created_at, key.key_id))

    def change(self, edit: Callable[[dict[str, ApiKey]], None]) -> None:
        """Let `edit` change the keys by id, and keep the result; nothing is kept where it raises. Raises StoreError."""
        try:
            with self._locked():
                keys = dict(self._load())
                edit(keys)
                if len(keys) > KEYS_MAX:
                    raise StoreError(
                        f"more than {KEYS_MAX:,} keys", where=str(self._path), next_step="revoke and prune some"
                    )
                self._write(keys)
        except OSError as error:
            raise self._failed(error.strerror or str(error)) from None

    def _load(self) -> dict[str, ApiKey]:
        try:
            stat = self._path.stat()
            stamp = stat.st_ino, stat.st_size, stat.st_mtime_ns
            if stamp != self._stamp:
                self._keys, self._stamp = self._read(stat), stamp
        except FileNotFoundError:
            self._keys, self._stamp = {}, None
        except OSError as error:
            raise self._failed(error.strerror or str(error)) from None
        return self._keys

    def _read(self, stat: os.stat_result) -> dict[str, ApiKey]:
        if stat.st_mode & _OTHERS:
            raise self._failed("others can read or write it", f"chmod 600 {self._path}")
        if stat.st_size > FILE_BYTES_MAX:
            raise self._failed(f"it has more than {FILE_BYTES_MAX:,} bytes")
        try:
            kept = json.loads(self._path.read_text("utf-8"))
            keys = [ApiKey.from_fields(fields) for fields in kept["keys"]]
        except (ValueError, TypeError, KeyError) as error:
            raise self._failed(f"it isn't what agentledger wrote: {type(error).__name__}", "restore it") from None
        return {key.key_id: key for key in keys}

    def _write(self, keys: dict[str, ApiKey]) -> None:
        text = json.dumps({"version": 1, "keys": [key.as_fields() for key in keys.values()]}, indent=2) + "\n"
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._path.with_name(f".{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _failed(self, why: str, next_step: str = "check AGENTLEDGER_API_KEYS_FILE and who owns it") -> StoreError:
        return StoreError(f"the file of API keys can't be used: {why}", where=str(self._path), next_step=next_step)
