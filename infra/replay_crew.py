"""The processes that work on a replay: as many as asked for, started once."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from types import TracebackType
from typing import Any, Self, TypeVar

POLL_S = 0.2  # between two looks at how far the processes are
GC_THRESHOLD = 50_000  # a block makes some 100,000 objects, none of them in cycles: collections cost an eighth else

Report = Callable[[int], None]  # told how many more records were folded
Task = TypeVar("Task")
Tools = TypeVar("Tools")
Result = TypeVar("Result")


class Crew:
    """With one job, all work is done in this process."""

    def __init__(self, jobs: int, report: Report) -> None:
        self._report = report
        self._thresholds = gc.get_threshold()
        self._pool: ProcessPoolExecutor | None = None
        if jobs > 1:
            context = multiprocessing.get_context("spawn")  # a fork would share ClickHouse's connections
            self._folded: Any = context.Value("q", 0)
            self._pool = ProcessPoolExecutor(jobs, context, _begin, (self._folded,))

    def __enter__(self) -> Self:
        gc.set_threshold(GC_THRESHOLD)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        gc.set_threshold(*self._thresholds)
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def work(
        self, function: Callable[[Task, Tools, Report], Result], tasks: Sequence[Task], tools: Tools
    ) -> list[Result]:
        """`function(task, tools, report)` of all tasks, in their order. Raises what the first one raises that fails."""
        if self._pool is None:
            return [function(task, tools, self._report) for task in tasks]
        futures = [self._pool.submit(_run, function, task, tools) for task in tasks]
        waiting, known = set(futures), self._folded.value
        while waiting:
            done, waiting = wait(waiting, POLL_S)
            now = self._folded.value
            self._report(now - known)
            known = now
            for future in done:
                future.result()
        return [future.result() for future in futures]


_folded: Any = None  # of a process of the pool: how many records all of them have folded


def _begin(folded: Any) -> None:
    global _folded  # noqa: PLW0603 - shared memory reaches a process only when it starts
    _folded = folded
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def _count(more: int) -> None:
    with _folded.get_lock():
        _folded.value += more


def _run(function: Callable[[Any, Any, Report], Any], task: Any, tools: Any) -> Any:
    return function(task, tools, _count)
