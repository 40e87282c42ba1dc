"""Looks that were recorded a short time ago: a page that renews itself every few seconds is one look."""

from __future__ import annotations

import threading
from collections import OrderedDict

FRESH_US = 600_000_000  # ten minutes
LOOKS_MAX = 10_000  # then the oldest goes, and its next look is told again


class RecentLooks:
    """What was looked at, by whom, in the last ten minutes; for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._looks: OrderedDict[tuple[str, ...], int] = OrderedDict()

    def knows(self, look: tuple[str, ...], now_us: int) -> bool:
        """Whether this look was recorded lately."""
        with self._lock:
            return now_us - self._looks.get(look, -FRESH_US) < FRESH_US

    def add(self, look: tuple[str, ...], now_us: int) -> None:
        """It was recorded now."""
        with self._lock:
            self._looks[look] = now_us
            self._looks.move_to_end(look)
            if len(self._looks) > LOOKS_MAX:
                self._looks.popitem(last=False)
