"""The services' logs: one bounded file each, and the one line of it that says why a service died."""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO

ROTATE_BYTES = 50 * 1024 * 1024
KEEP = 3
TAIL_BYTES = 128 * 1024
LINE_CHARACTERS = 300

_FRAME = re.compile(r"^(\s+at |\s*\.\.\. \d+ more|\d+\. .* @ 0x|\s+File \"|\s{2,}|Traceback |Picked up |Stack trace)")
_NOISE = re.compile(r"\b(TRACE|DEBUG|INFO|WARN|WARNING)\b")
_TELLING = (
    re.compile(r"No space left on device", re.IGNORECASE),
    re.compile(r"Address already in use", re.IGNORECASE),
    re.compile(r"OutOfMemoryError|Cannot allocate memory", re.IGNORECASE),
    re.compile(r"^(Caused by: )?[\w.]+(Exception|Error)\b|DB::\w*Exception"),
    re.compile(r"\b(FATAL|ERROR)\b"),
)


def log_path(data_dir: Path, name: str) -> Path:
    """Where the service `name` writes what it has to say."""
    return data_dir / "logs" / f"{name}.log"


def open_log(path: Path, *, rotate_bytes: int = ROTATE_BYTES) -> IO[bytes]:
    """Open a log to append to; one that has grown large is put aside first (.1 is the newest of three)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > rotate_bytes:
        rotate(path)
    return path.open("ab")


def rotate(path: Path) -> None:
    """Move x.log to x.log.1, x.log.1 to x.log.2 and so on; the oldest goes."""
    for number in range(KEEP - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    path.replace(path.with_name(f"{path.name}.1"))


def telling_line(path: Path, since: int = 0) -> str:
    """The line that says best why the writer of this log died, looking only at what came after the offset `since`."""
    lines = [line for line in _tail(path, since) if line.strip() and not _FRAME.match(line) and not _NOISE.search(line)]
    for pattern in _TELLING:
        for line in reversed(lines):
            if pattern.search(line):
                return line.strip()[:LINE_CHARACTERS]
    return lines[-1].strip()[:LINE_CHARACTERS] if lines else ""


def _tail(path: Path, since: int) -> list[str]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(since if since <= size else 0, size - TAIL_BYTES))
            return file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []
