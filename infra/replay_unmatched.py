"""Records that wait for their counterpart, by event id: a dict that goes on in a file."""

from __future__ import annotations

import pickle
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

IN_MEMORY_MAX = 200_000  # conclusions without a counterpart yet: 200 MB; more of them wait in a file


class Unmatched:
    """Records by event id; those that wait for longest go to a file where there are too many."""

    def __init__(self, in_memory_max: int = IN_MEMORY_MAX) -> None:
        self._max = in_memory_max
        self._live: dict[bytes, Any] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._file: sqlite3.Connection | None = None

    @property
    def is_empty(self) -> bool:
        """True while nothing waits in memory and nothing ever had to leave it."""
        return not self._live and self._file is None

    def add(self, key: bytes, item: Any) -> bool:
        """Keep it; False where there is one of this id already."""
        if self._live.setdefault(key, item) is not item:
            return False
        if len(self._live) > self._max:
            self._spill()
        return True

    def pop(self, key: bytes) -> Any:
        """Take it out; None where there is none of this id."""
        item = self._live.pop(key, None)
        if item is None and self._file is not None:
            row = self._file.execute("DELETE FROM items WHERE key = ? RETURNING value", (key,)).fetchone()
            item = None if row is None else pickle.loads(row[0])  # noqa: S301 - we wrote it a moment ago
        return item

    def items(self) -> Iterator[Any]:
        """All that is left, those that wait for longest first."""
        if self._file is not None:
            for (value,) in self._file.execute("SELECT value FROM items ORDER BY rowid"):
                yield pickle.loads(value)  # noqa: S301 - as above
        yield from self._live.values()

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None and self._folder is not None:
            self._file.close()
            self._folder.cleanup()
            self._file = None

    def _spill(self) -> None:
        if self._file is None:
            self._folder = tempfile.TemporaryDirectory(prefix="agentledger-replay-")
            self._file = sqlite3.connect(Path(self._folder.name) / "items", isolation_level=None)
            self._file.executescript(
                "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; CREATE TABLE items (key BLOB UNIQUE, value BLOB)"
            )
        oldest = [next_key for next_key, _ in zip(self._live, range(self._max // 2), strict=False)]
        self._file.execute("BEGIN")
        for key in oldest:
            value = pickle.dumps(self._live.pop(key))
            self._file.execute("INSERT OR IGNORE INTO items VALUES (?, ?)", (key, value))
        self._file.execute("COMMIT")
