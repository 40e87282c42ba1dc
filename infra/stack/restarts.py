"""When a service that died is started again, and when that's enough."""

from __future__ import annotations

from collections import deque

FIRST_DELAY = 0.5
LONGEST_DELAY = 10.0
WINDOW_SECONDS = 120.0
MOST_DEATHS = 10


class Restarts:
    """One service's recent deaths: the more there are, the longer the wait, up to a limit."""

    def __init__(self) -> None:
        self._deaths: deque[float] = deque()

    def died(self, now: float) -> float | None:
        """Note a death; the seconds to wait before the next start, or None if it died too often of late."""
        self._deaths.append(now)
        while self._deaths[0] < now - WINDOW_SECONDS:
            self._deaths.popleft()
        if len(self._deaths) > MOST_DEATHS:
            return None
        return float(min(FIRST_DELAY * 2 ** (len(self._deaths) - 1), LONGEST_DELAY))
