"""Verifying the ledger in the background: one at a time, with its progress and its last report."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agentledger.schemas.errors import AgentledgerError

PROBLEMS_SHOWN_MAX = 50
Verify = Callable[[Callable[[int], None], Callable[[int], None]], Mapping[str, Any]]

log = logging.getLogger("agentledger.sinks.console")


@dataclass(frozen=True)
class JobState:
    """How far it is. `report` is that of the last one that ended; `error` says why one could not be made."""

    is_possible: bool
    is_running: bool = False
    rows: int = 0
    rows_done: int = 0
    asked_by: str = ""
    asked_us: int = 0
    report: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


class VerifyJob:
    """The one job of a console. `verify` is told where to say how many rows there are and how many are done."""

    def __init__(self, verify: Verify | None) -> None:
        self._verify = verify
        self._lock = threading.Lock()
        self._state = JobState(verify is not None)

    def state(self) -> JobState:
        """How far it is now."""
        with self._lock:
            return self._state

    def start(self, asked_by: str, now_us: int) -> bool:
        """Begin, or join the one that is under way; false where nothing can be verified from here."""
        with self._lock:
            if self._verify is None:
                return False
            if self._state.is_running:
                return True
            self._state = JobState(True, is_running=True, asked_by=asked_by, asked_us=now_us)
        threading.Thread(target=self._run, args=(self._verify,), name="verify", daemon=True).start()
        return True

    def _run(self, verify: Verify) -> None:
        report: Mapping[str, Any] = {}
        error = ""
        try:
            report = verify(lambda rows: self._set(rows=rows), self._advance)
        except AgentledgerError as failed:
            error = str(failed)
        except Exception as failed:  # a thread's end: whatever it is, the page must say that it ended
            log.exception("verifying failed")
            error = f"verifying failed: {type(failed).__name__}; the console's log says why"
        self._set(is_running=False, report=report, error=error)

    def _advance(self, rows: int) -> None:
        with self._lock:
            self._state = replace(self._state, rows_done=self._state.rows_done + rows)

    def _set(self, **values: Any) -> None:
        with self._lock:
            self._state = replace(self._state, **values)
