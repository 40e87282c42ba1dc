"""The processes of a replay: forks of a process without threads, else new ones; and what each of them is given."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentledger.infra import replay_crew
from agentledger.infra.replay_crew import Crew, Report
from agentledger.infra.replay_parts import PARTS_MAX, PartTask, in_groups
from agentledger.infra.replay_stages import RUNS
from agentledger.infra.replay_wanted import Wanted
from agentledger.schemas.topics import EVENTS
from agentledger.sinks.replay_source import LogSpan
from agentledger.sinks.rows import LogPlace

FORKED = """
import multiprocessing, os
from agentledger.infra.replay_crew import Crew
from tests.unit.test_replay_crew import square
with Crew(2) as crew:
    assert multiprocessing.get_start_method(allow_none=True) is None
    children = {process.pid for process in multiprocessing.active_children()}
    assert len(children) == 2, children
    reported = []
    assert crew.work(square, [1, 2, 3], 10, reported.append) == [11, 14, 19]
    assert sum(reported) == 6
    assert {process.pid for process in multiprocessing.active_children()} == children
"""


def square(number: int, more: int, report: Report) -> int:
    if number < 0:
        raise ValueError(f"{number} is negative")
    report(number)
    return number * number + more


@pytest.mark.parametrize("jobs", [1, 2])
def test_all_tasks_are_done_in_their_order_and_counted(monkeypatch: pytest.MonkeyPatch, jobs: int) -> None:
    monkeypatch.setattr(replay_crew, "_is_alone", lambda: False)
    reported: list[int] = []
    with Crew(jobs) as crew:
        assert crew.work(square, [1, 2, 3], 10, reported.append) == [11, 14, 19]
        assert sum(reported) == 6
        with pytest.raises(ValueError, match="-2 is negative"):
            crew.work(square, [1, -2], 0)


def test_what_is_done_before_the_last_task_is_given_out_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_crew, "_is_alone", lambda: False)
    give_out = ProcessPoolExecutor.submit

    def and_wait(pool: ProcessPoolExecutor, *task: Any) -> Future[Any]:
        future: Future[Any] = give_out(pool, *task)
        future.result()
        return future

    monkeypatch.setattr(ProcessPoolExecutor, "submit", and_wait)
    reported: list[int] = []
    with Crew(2) as crew:
        crew.work(square, [1, 2, 3], 10, reported.append)
    assert sum(reported) == 6


def test_a_process_without_threads_is_forked_at_once() -> None:
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", FORKED], check=True, cwd=root)


@given(sizes=st.lists(st.integers(0, 1000), max_size=40), jobs=st.integers(1, 9))
def test_law_every_task_is_in_one_group_and_no_group_is_idle_or_too_wide(sizes: list[int], jobs: int) -> None:
    tasks = [task(partition, size) for partition, size in enumerate(sizes)]
    groups = in_groups(tasks, jobs)
    assert sorted(one.partition for group in groups for one in group) == list(range(len(sizes)))
    assert all(1 <= len(group) <= PARTS_MAX for group in groups)
    assert len(groups) == min(len(tasks), max(jobs, -(-len(tasks) // PARTS_MAX)))


def test_groups_have_about_as_many_records_each() -> None:
    groups = in_groups([task(partition, size) for partition, size in enumerate([50, 40, 30, 20])], jobs=2)
    assert [[one.partition for one in group] for group in groups] == [[0, 3], [1, 2]]


def task(partition: int, records: int) -> PartTask:
    span = LogSpan(LogPlace(EVENTS.name, "id", partition), 5, 5 + records)
    return PartTask(RUNS, partition, (span,), (), Wanted(), Path())
