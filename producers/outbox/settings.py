"""How the outbox of a ledger is set up, and when there is one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agentledger.schemas.errors import ConfigurationError, UsageError

WhenFull = Literal["drop_oldest", "block"]
Fsync = Literal["never", "interval", "always"]
WHEN_FULL = ("drop_oldest", "block")
FSYNC = ("never", "interval", "always")
OFF = "off"
ENV_DIR = "AGENTLEDGER_OUTBOX_DIR"
ENV_BYTES_MAX = "AGENTLEDGER_OUTBOX_BYTES_MAX"
ENV_WHEN_FULL = "AGENTLEDGER_OUTBOX_WHEN_FULL"
ENV_BLOCK_MS_MAX = "AGENTLEDGER_OUTBOX_BLOCK_MS_MAX"
ENV_FSYNC = "AGENTLEDGER_OUTBOX_FSYNC"
ENV_DATA_DIR = "AGENTLEDGER_DATA_DIR"
DEFAULT_DATA_DIR = ".agentledger"
FOLDER_NAME = "outbox"
PRODUCTION = ("prod", "production")  # environments in which the outbox is on unless it is switched off
BYTES_MAX = 1 << 30  # two million usual events: five hours at 100 a second
BYTES_MAX_LEAST = 1 << 20  # the largest event, and segments to drop one at a time
SEGMENT_BYTES_MAX = 4 << 20
SEGMENT_BYTES_LEAST = 1 << 16
SEGMENTS = 64  # what is dropped at a time is a 64th of the bound, or 4 MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxSettings:
    """The outbox of one process. Raises UsageError for a value that makes no sense.

    - `folder`: on a local disk, shared by any number of processes of one user; each has a folder of its own in it.
    - `bytes_max` bounds what waits on disk for this process, orphans that it has taken over included.
    - `when_full`: `drop_oldest` gives up the oldest segment and announces it; `block` waits for room, at most
      `block_ms_max`, and then gives up the new event and announces that.
    - `fsync`: `never` leaves it to the system, `interval` syncs every `fsync_interval_ms`, `always` syncs before
      `emit` returns. A killed process loses nothing under any of them; a machine that loses its power does.
    """

    folder: Path
    bytes_max: int = BYTES_MAX
    when_full: WhenFull = "drop_oldest"
    block_ms_max: int = 100
    fsync: Fsync = "interval"
    fsync_interval_ms: int = 1000

    def __post_init__(self) -> None:
        if self.when_full not in WHEN_FULL or self.fsync not in FSYNC:
            raise UsageError(
                f"an outbox can't do when_full={self.when_full!r} with fsync={self.fsync!r}",
                next_step=f"use when_full {' or '.join(WHEN_FULL)}, and fsync {', '.join(FSYNC)}",
            )
        for name, least in (("bytes_max", BYTES_MAX_LEAST), ("block_ms_max", 0), ("fsync_interval_ms", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise UsageError(
                    f"an outbox can't have {name}={value!r}", next_step=f"give a number of {least} or more"
                )

    @property
    def segment_bytes(self) -> int:
        """The size from which on a segment gets nothing more."""
        return max(SEGMENT_BYTES_LEAST, min(SEGMENT_BYTES_MAX, self.bytes_max // SEGMENTS))


def to_outbox(given: OutboxSettings | Mapping[str, Any] | Path | str) -> OutboxSettings | None:
    """Settings from what a caller gave: a folder, names and values, or `off`. Raises UsageError."""
    if isinstance(given, OutboxSettings):
        return given
    if isinstance(given, Mapping):
        try:
            return OutboxSettings(**{**given, "folder": Path(given["folder"]).expanduser()})
        except (KeyError, TypeError):
            raise UsageError(
                f"{sorted(map(str, given))} is no outbox",
                next_step=f"give a folder, and of {', '.join(OutboxSettings.__slots__)} what you need",
            ) from None
    return None if given == OFF else OutboxSettings(folder=Path(given).expanduser())


def outbox_from_env(environment: str, environ: Mapping[str, str] = os.environ) -> OutboxSettings | None:
    """What AGENTLEDGER_OUTBOX_* say. Where they name no folder, there is an outbox in production alone: in the data
    folder (AGENTLEDGER_DATA_DIR, `.agentledger`). Raises ConfigurationError.
    """
    named = environ.get(ENV_DIR, "")
    if named == OFF or (not named and environment.lower() not in PRODUCTION):
        return None
    given: dict[str, Any] = {"folder": default_folder(environ).expanduser().absolute()}
    for name, variable in (("when_full", ENV_WHEN_FULL), ("fsync", ENV_FSYNC)):
        if environ.get(variable):
            given[name] = environ[variable]
    for name, variable in (("bytes_max", ENV_BYTES_MAX), ("block_ms_max", ENV_BLOCK_MS_MAX)):
        if environ.get(variable):
            given[name] = _whole_number(variable, environ[variable])
    try:
        return OutboxSettings(**given)
    except UsageError as wrong:
        raise ConfigurationError(wrong.what, where="AGENTLEDGER_OUTBOX_*", next_step=wrong.next_step) from None


def default_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """AGENTLEDGER_OUTBOX_DIR, or else `outbox` in the data folder (AGENTLEDGER_DATA_DIR, `.agentledger`)."""
    named = environ.get(ENV_DIR, "")
    if named and named != OFF:
        return Path(named)
    return Path(environ.get(ENV_DATA_DIR) or DEFAULT_DATA_DIR) / FOLDER_NAME


def _whole_number(variable: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigurationError(f"{variable}={text!r} is no whole number", next_step="give it in digits") from None
