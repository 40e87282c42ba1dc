"""The kill switch that needs no broker: a file on the host, which each SDK looks at before its calls.

It holds `{"halts": [{tenant_id, scope, scope_value, reason, issued_by, issued_at, expires_at}, …]}`; `*` stands for
each tenant or each value. A file that is empty or can't be read as that halts everything on this host: whoever creates
it by hand in a hurry means it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agentledger.producers.halts import ANY, Command
from agentledger.schemas.control import is_control_scope

ENV_HALT_FILE = "AGENTLEDGER_HALT_FILE"
ENV_DATA_DIR = "AGENTLEDGER_DATA_DIR"
DEFAULT_DATA_DIR = ".agentledger"
FILE_NAME = "halt.json"
VIA = "halt file"
FILE_BYTES_MAX = 1_000_000  # some 4,000 halts; a longer file is taken for one that can't be read
_KEPT = ("tenant_id", "scope", "scope_value", "reason", "issued_by", "issued_at", "expires_at")


def halt_file_path(environ: Mapping[str, str] = os.environ) -> Path:
    """AGENTLEDGER_HALT_FILE, or else `halt.json` in the data folder (AGENTLEDGER_DATA_DIR, `.agentledger`)."""
    named = environ.get(ENV_HALT_FILE)
    path = Path(named) if named else Path(environ.get(ENV_DATA_DIR) or DEFAULT_DATA_DIR) / FILE_NAME
    return path.expanduser().absolute()


class HaltFile:
    """One halt file. `changed` is cheap enough to be asked every few milliseconds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, ...] | None = None

    def changed(self) -> bool:
        """Whether the file appeared, went away or is another one than when it was last asked."""
        try:
            found = os.stat(self.path)  # noqa: PTH116 - twice as fast as Path.stat
        except OSError:  # not there, or its folder is closed to us: either way nothing that can be obeyed
            seen = None
        else:
            seen = found.st_mtime_ns, found.st_ino, found.st_size, found.st_dev
        if seen == self._seen:
            return False
        self._seen = seen
        return True

    def read(self) -> list[Command]:
        """The halts in the file; none where there is no file. Never raises."""
        try:
            with self.path.open("rb") as file:
                text = file.read(FILE_BYTES_MAX + 1)
        except FileNotFoundError:
            return []
        except OSError:
            return [_everything(self.path, "it can't be read")]
        try:
            if len(text) > FILE_BYTES_MAX:
                raise ValueError("too long")
            return [_command(item) for item in json.loads(text)["halts"]]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return [_everything(self.path, "it holds no list of halts")]

    def write(self, halts: Iterable[Command]) -> None:
        """Replace the file, whole or not at all; without any halt it is taken away. Raises OSError."""
        kept = [{name: asdict(halt)[name] for name in _KEPT} for halt in halts]
        if not kept:
            self.path.unlink(missing_ok=True)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"halts": kept}, file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)  # an agent of another user has to be able to read it
            Path(temporary).replace(self.path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _command(item: Mapping[str, Any]) -> Command:
    scope, issued_at, expires_at = item["scope"], item.get("issued_at"), item.get("expires_at")
    for time_us in (issued_at, expires_at):
        if time_us is not None and not isinstance(time_us, int):
            raise TypeError("a time is microseconds since 1970")
    if scope != "host" and not is_control_scope(scope):
        raise ValueError(f"no scope is called {scope}")
    tenant_id, value = str(item.get("tenant_id") or ANY), str(item.get("scope_value") or ANY)
    reason, issued_by = str(item.get("reason") or ""), str(item.get("issued_by") or "")
    return Command("halt", tenant_id, scope, value, reason, issued_by, issued_at, expires_at, VIA)


def _everything(path: Path, why: str) -> Command:
    return Command("halt", ANY, "host", ANY, f"there is a halt file, and {why}: {path}", via=VIA)
