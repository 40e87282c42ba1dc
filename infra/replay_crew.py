"""The processes that work on a replay: as many as asked for, started once."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

POLL_S = 0.2  # between two looks at how far the processes are
# Folding makes states, which live on, and leaves no cycles: to look for those among all that lives costs a tenth of it.
# Looked for they are all the same, as what reads and compares may leave some when it fails.
RECORDS_PER_COLLECTION = 1_000_000

Report = Callable[[int], None]  # told how many more records were folded
Task = TypeVar("Task")
Tools = TypeVar("Tools")
Result = TypeVar("Result")


class Crew:
    """With one job, all work is done in this process.

    Begin with it: while this process has no other thread, the others are forks of it, and ready at once. Otherwise they
    start as new processes, when they are first needed, and load our code again: that takes as long as folding 20,000
    records.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._pool: ProcessPoolExecutor | None = None
        self._folded: Any = None  # in shared memory: how many records all of them have folded
        if jobs > 1 and _is_alone():
            self._start("fork").submit(_count, 0).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def work(
        self,
        function: Callable[[Task, Tools, Report], Result],
        tasks: Sequence[Task],
        tools: Tools,
        report: Report = lambda _more: None,
    ) -> list[Result]:
        """`function(task, tools, report)` of all tasks, in their order. Raises what the first one raises that fails."""
        if self.jobs == 1:
            with _few_collections():
                return [function(task, tools, _collecting(report)) for task in tasks]
        pool = self._pool or self._start("spawn")
        known = self._folded.value  # read first: a short task may be done before the last one is given out
        futures = [pool.submit(_run, function, task, tools) for task in tasks]
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, POLL_S)
            now = self._folded.value
            report(now - known)
            known = now
            for future in done:
                future.result()
        return [future.result() for future in futures]

    def _start(self, method: str) -> ProcessPoolExecutor:
        context: Any = multiprocessing.get_context(method)
        self._folded = context.Value("q", 0)
        self._pool = ProcessPoolExecutor(self.jobs, context, _begin, (self._folded,))
        return self._pool


def _is_alone() -> bool:
    """True where no other thread of any kind is in this process: a fork would copy the locks that it holds."""
    try:
        return sum(1 for _ in Path("/proc/self/task").iterdir()) == 1
    except OSError:
        return False  # no Linux: there, the system's own libraries don't take forks well


@contextmanager
def _few_collections() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _collecting(report: Report) -> Report:
    """Reports, and looks for cycles now and then."""
    since = 0

    def count(more: int) -> None:
        nonlocal since
        since += more
        if since >= RECORDS_PER_COLLECTION:
            since = 0
            gc.collect()
        report(more)

    return count


_folded: Any = None  # of a process of the pool: see Crew


def _begin(folded: Any) -> None:
    global _folded  # noqa: PLW0603 - shared memory reaches a process only when it starts
    _folded = folded
    gc.freeze()
    gc.disable()


def _count(more: int) -> None:
    with _folded.get_lock():
        _folded.value += more


def _run(function: Callable[[Any, Any, Report], Any], task: Any, tools: Any) -> Any:
    return function(task, tools, _collecting(_count))
