"""Answers that take long on a large ledger: kept for a while, renewed in the background, shown with their age.

Where an answer comes quickly, it is always fresh: nobody on a small ledger sees anything of this.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from agentledger.schemas.errors import AgentledgerError

FRESH_US = 1_000_000  # younger than the interval at which pages hear of news
REST_FACTOR = 30  # asked anew after 30 times as long as it took: each takes a thirtieth of a core at most
REST_US_MAX = 300_000_000  # but after five minutes
WAIT_S_MAX = 0.1  # that a page waits for newer answers, for all of them together
FIRST_WAIT_S_MAX = 1.0  # that it waits for the first ones; then it says that they are being counted, and asks again
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

    def is_quick(self) -> bool:
        return self.took_us < WAIT_S_MAX * 1_000_000

    def shown(self, now_us: int) -> Snapshot[Any]:
        with self.lock:
            return Snapshot(self.value, self.as_of_us, self.as_of_us > now_us - FRESH_US, self.error)


class Snapshots:
    """The answers of all tenants; a key must name the tenant. `clock_ns` says how long something took."""

    def __init__(self, clock_ns: Callable[[], int]) -> None:
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._answers: OrderedDict[Key, _Answer] = OrderedDict()
        self._quick = ThreadPoolExecutor(THREADS, "snapshot")
        # One after the other, in the order in which they are asked for: together they would slow the pages down.
        self._long = ThreadPoolExecutor(1, "long-snapshot")

    def of(self, key: Key, ask: Callable[[], Value], now_us: int) -> Snapshot[Value]:
        """The answer to `ask`; it is as seldom renewed as it takes long."""
        return self.together({key: ask}, now_us)[key]

    def together(self, asks: Mapping[Key, Callable[[], Any]], now_us: int) -> dict[Key, Snapshot[Any]]:
        """The answers to all of them, which are waited for together.

        Those that came quickly the last time are asked at the same time, all others in their order: give those first
        that hardly take long.
        """
        answers = {key: self._answer(key) for key in asks}
        first, quick = [], []
        for key, ask in asks.items():
            answer = answers[key]
            with answer.lock:
                is_asked_first = answer.tried_us == 0 and answer.under_way is None  # later visits don't wait again
                if answer.is_due(now_us):
                    pool = self._quick if answer.is_quick() and not is_asked_first else self._long
                    answer.under_way = pool.submit(self._renew, answer, ask, now_us)
                if answer.under_way is not None and is_asked_first:
                    first.append(answer.under_way)
                elif answer.under_way is not None and answer.is_quick():
                    quick.append(answer.under_way)
        wait(first, FIRST_WAIT_S_MAX)
        wait(quick, WAIT_S_MAX)
        return {key: answer.shown(now_us) for key, answer in answers.items()}

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
