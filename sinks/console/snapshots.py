"""Answers that take long on a large ledger: kept for a while, renewed in the background, shown with their age.

Where an answer comes quickly, it is always fresh: nobody on a small ledger sees anything of this.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from agentledger.schemas.errors import AgentledgerError

FRESH_US = 1_000_000  # younger than the interval at which pages hear of news
REST_FACTOR = 20  # asked anew after 20 times as long as it took: at most a twentieth of the server's time
REST_US_MAX = 300_000_000  # but after five minutes
WAIT_S_MAX = 0.1  # that a page waits for a newer answer
FIRST_WAIT_S_MAX = 5.0  # that it waits for the first one
THREADS = 4
ANSWERS_MAX = 1_000  # then the one that was asked for longest ago goes

Value = TypeVar("Value")
Key = tuple[str, ...]


class Snapshot(NamedTuple, Generic[Value]):
    """An answer, and the time of which it is, microseconds; `value` is None until the first one is there. `is_latest`:
    there is hardly a newer one. `error` says why the last try gave none."""

    value: Value | None
    as_of_us: int
    is_latest: bool
    error: str = ""


@dataclass
class _Answer:
    value: Any = None
    as_of_us: int = 0
    tried_us: int = 0
    took_us: int = 0
    error: str = ""
    under_way: Future[None] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def is_due(self, now_us: int) -> bool:
        rest_us = min(max(FRESH_US, REST_FACTOR * self.took_us), REST_US_MAX)
        return self.under_way is None and not 0 <= now_us - self.tried_us < rest_us


class Snapshots:
    """The answers of all tenants; a key must name the tenant. `clock_ns` says how long something took."""

    def __init__(self, clock_ns: Callable[[], int]) -> None:
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._answers: OrderedDict[Key, _Answer] = OrderedDict()
        self._pool = ThreadPoolExecutor(THREADS, "snapshot")

    def of(self, key: Key, ask: Callable[[], Value], now_us: int) -> Snapshot[Value]:
        """The answer to `ask`; it is as seldom renewed as it takes long."""
        answer = self._answer(key)
        with answer.lock:
            if answer.is_due(now_us):
                answer.under_way = self._pool.submit(self._renew, answer, ask, now_us)
            under_way = answer.under_way
            was_quick = answer.took_us < WAIT_S_MAX * 1_000_000
            is_first = answer.tried_us == 0
        if under_way is not None and (was_quick or is_first):
            wait([under_way], FIRST_WAIT_S_MAX if is_first else WAIT_S_MAX)
        with answer.lock:
            is_latest = answer.as_of_us > now_us - FRESH_US
            return Snapshot(answer.value, answer.as_of_us, is_latest, answer.error)

    def _answer(self, key: Key) -> _Answer:
        with self._lock:
            answer = self._answers.setdefault(key, _Answer())
            self._answers.move_to_end(key)
            if len(self._answers) > ANSWERS_MAX:
                self._answers.popitem(last=False)
            return answer

    def _renew(self, answer: _Answer, ask: Callable[[], Any], now_us: int) -> None:
        began_ns = self._clock_ns()
        error, value = "", None
        try:
            value = ask()
        except AgentledgerError as failed:
            error = str(failed)
        with answer.lock:
            answer.took_us = (self._clock_ns() - began_ns) // 1000
            answer.under_way = None
            answer.error, answer.tried_us = error, now_us
            if not error:
                answer.value, answer.as_of_us = value, now_us


def oldest(snapshots: Sequence[Snapshot[Any]]) -> Snapshot[Any] | None:
    """The oldest of those that a page shows, if it isn't the latest that there is: the page says of when it is."""
    aged = [one for one in snapshots if not one.is_latest]
    return min(aged, key=lambda one: one.as_of_us) if aged else None
