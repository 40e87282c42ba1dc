"""Work in the background of the console: its progress, its end however it comes, and one of a kind at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from agentledger.schemas.errors import StoreError, UsageError
from agentledger.sinks.console.jobs import STATES_MAX, Jobs, JobState, Say


class Held:
    """Work that waits in its middle until it is let go."""

    def __init__(self) -> None:
        self.is_half = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, start: Say, progress: Say) -> Mapping[str, Any]:
        start(100)
        progress(30)
        progress(20)
        self.is_half.set()
        assert self.go_on.wait(30)
        return {"rows": 100}


@pytest.fixture
def held() -> Iterator[Held]:
    work = Held()
    yield work
    work.go_on.set()


def ended(jobs: Jobs, kind: str, tenant_id: str = "") -> JobState:
    for thread in threading.enumerate():
        if thread.name == kind:
            thread.join(30)
    return jobs.state(kind, tenant_id)


def test_progress_is_seen_and_then_the_report(held: Held) -> None:
    jobs = Jobs()
    assert jobs.state("verify") == JobState()
    assert jobs.start("verify", held, "ann", 7)
    assert held.is_half.wait(30)
    assert jobs.state("verify") == JobState(is_running=True, rows=100, rows_done=50, asked_by="ann", asked_us=7)
    held.go_on.set()
    state = ended(jobs, "verify")
    assert (state.is_running, state.report, state.error) == (False, {"rows": 100}, "")


def test_one_of_a_kind_runs_and_is_joined_by_its_own_tenant_alone(held: Held) -> None:
    jobs = Jobs()
    assert jobs.start("trial", held, "ann", 1, "acme")
    assert not jobs.start("trial", held, "bob", 2, "acme")
    assert jobs.state("trial", "acme").asked_by == "ann"
    with pytest.raises(UsageError, match="another trial is under way"):
        jobs.start("trial", held, "zoe", 3, "zeta")
    assert jobs.start("export", lambda *_: {"of": "zeta"}, "zoe", 4, "zeta")
    assert ended(jobs, "export", "zeta").report == {"of": "zeta"}


def test_a_tenant_sees_no_other_s_report() -> None:
    jobs = Jobs()
    jobs.start("trial", lambda *_: {"secret": 1}, "ann", 1, "acme")
    assert ended(jobs, "trial", "acme").report
    assert jobs.state("trial", "zeta") == JobState()


@pytest.mark.parametrize(
    ("error", "said"),
    [(StoreError("ClickHouse is away", next_step="look"), "ClickHouse is away"), (KeyError("inside"), "KeyError")],
)
def test_a_failure_is_said_and_does_not_stay_under_way(
    error: Exception, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_start: Say, _progress: Say) -> Mapping[str, Any]:
        raise error

    jobs = Jobs()
    jobs.start("verify", fail, "ann", 1)
    state = ended(jobs, "verify")
    assert not state.is_running
    assert said in state.error
    assert "inside" not in state.error
    assert bool(caplog.records) == isinstance(error, KeyError)
    assert jobs.start("verify", lambda *_: {"verified": True}, "ann", 2)
    assert ended(jobs, "verify").error == ""


def test_the_oldest_report_is_forgotten() -> None:
    jobs = Jobs()
    for number in range(STATES_MAX + 1):
        jobs.start("trial", lambda *_: {"done": True}, "ann", number, f"t{number}")
        ended(jobs, "trial")
    assert jobs.state("trial", "t0") == JobState()
    assert jobs.state("trial", f"t{STATES_MAX}").report
