"""At most one line a minute: a broker that is away for an hour must not fill the agent's log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

LINE_SECONDS_MIN = 60.0


class OncePerMinute(logging.Filter):
    """Lets one record of a logger through per minute; the next one says how many were left out."""

    def __init__(self, seconds: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._seconds = seconds
        self._next = float("-inf")
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """True for the first record of a minute."""
        now = self._seconds()
        if now < self._next:
            self._left_out += 1
            return False
        self._next = now + LINE_SECONDS_MIN
        if self._left_out:
            record.msg = f"{record.getMessage()} ({self._left_out} lines like this were left out)"
            record.args = ()
            self._left_out = 0
        return True


def quiet_logger(name: str) -> logging.Logger:
    """The logger of this name, limited to one line a minute."""
    logger = logging.getLogger(name)
    if not any(isinstance(item, OncePerMinute) for item in logger.filters):
        logger.addFilter(OncePerMinute())
    return logger
