"""Work that takes longer than a page: in the background, one of a kind at a time, with its progress and last report."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agentledger.schemas.errors import AgentledgerError, UsageError

STATES_MAX = 200  # last reports that are remembered: the oldest goes
Say = Callable[[int], None]
Work = Callable[[Say, Say], Mapping[str, Any]]

log = logging.getLogger("agentledger.sinks.console")


@dataclass(frozen=True)
class JobState:
    """How far it is. `report` is that of the last one that ended; `error` says why one could not be made.

    `rows` are to be looked at, of which `rows_done` have been; 0 where that isn't known.
    """

    is_running: bool = False
    rows: int = 0
    rows_done: int = 0
    asked_by: str = ""
    asked_us: int = 0
    report: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


class Jobs:
    """The work under way. Each kind (verify, trial, export) reads much of the ledger: one at a time of each.

    What a job reports belongs to a tenant, and is given to visitors of this tenant alone; the empty tenant's are
    everybody's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: OrderedDict[tuple[str, str], JobState] = OrderedDict()

    def state(self, kind: str, tenant_id: str = "") -> JobState:
        """How far the tenant's last one of this kind is."""
        with self._lock:
            return self._states.get((kind, tenant_id), JobState())

    def start(self, kind: str, work: Work, asked_by: str, now_us: int, tenant_id: str = "") -> bool:
        """Begin; false where the tenant's own is still under way, which goes on.

        `work` is told where to say how many rows there are and how many more are done. Raises UsageError while
        another tenant's is under way.
        """
        key = (kind, tenant_id)
        with self._lock:
            busy = [other for other, state in self._states.items() if other[0] == kind and state.is_running]
            if key in busy:
                return False
            if busy:
                raise UsageError(f"another {kind} is under way", next_step="ask again in a minute")
            self._states[key] = JobState(is_running=True, asked_by=asked_by, asked_us=now_us)
            self._states.move_to_end(key)
            self._forget_oldest()
        threading.Thread(target=self._run, args=(key, work), name=kind, daemon=True).start()
        return True

    def _run(self, key: tuple[str, str], work: Work) -> None:
        report: Mapping[str, Any] = {}
        error = ""
        try:
            report = work(lambda rows: self._set(key, rows=rows), lambda rows: self._advance(key, rows))
        except AgentledgerError as failed:
            error = str(failed)
        except Exception as failed:  # a thread's end: whatever it is, the page must say that it ended
            log.exception("%s failed", key[0])
            error = f"{key[0]} failed: {type(failed).__name__}; the console's log says why"
        self._set(key, is_running=False, report=report, error=error)

    def _advance(self, key: tuple[str, str], rows: int) -> None:
        with self._lock:
            state = self._states[key]
            self._states[key] = replace(state, rows_done=state.rows_done + rows)

    def _set(self, key: tuple[str, str], **values: Any) -> None:
        with self._lock:
            self._states[key] = replace(self._states[key], **values)

    def _forget_oldest(self) -> None:
        over = len(self._states) - STATES_MAX
        ended = [key for key, state in self._states.items() if not state.is_running]
        for key in ended[: max(over, 0)]:
            del self._states[key]
