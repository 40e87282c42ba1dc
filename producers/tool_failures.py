"""How often each tool call of a run has failed in a row: what a budget on retries goes by. Pure, safe for threads."""

from __future__ import annotations

import threading

FAILED = frozenset({"error", "timeout"})  # a call that was denied was not made: it is no attempt
CALLS_MAX = 256  # failing calls of one run that are told apart; the one that failed longest ago is forgotten first


class ToolFailures:
    """Failures in a row, by tool and digest of the arguments."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()

    def note(self, tool: str, arguments_digest: str, status: str) -> int:
        """A call has ended; how often it has now failed in a row, 0 where it didn't fail."""
        call = tool, arguments_digest
        if status == "denied":
            return 0
        with self._lock:
            count = self._counts.pop(call, 0) + 1
            if status not in FAILED:
                return 0
            if len(self._counts) >= CALLS_MAX:
                del self._counts[next(iter(self._counts))]
            self._counts[call] = count
            return count
