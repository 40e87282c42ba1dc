"""The recorded runs: what the importers read equals the counts in the READMEs beside the recordings.

`agentledger import` into the live pipeline, and the same counts from the views, are the integration test's part.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest

from agentledger.producers.importers import ImportOptions, ImportReport, import_files
from agentledger.schemas import Codec, open_registry
from agentledger.schemas.events import (
    Event,
    ModelCallCompleted,
    OutcomeRecorded,
    PolicyDecided,
    RunFinished,
    RunStarted,
    StateChanged,
    ToolCallCompleted,
)

pytestmark = pytest.mark.traces
TRACES = Path(os.environ.get("AGENTLEDGER_TRACES") or Path(__file__).resolve().parents[3] / "shared" / "traces")
SETS = {
    "tau2-retail": "tau2",
    "tau2-policy-trials": "tau2",
    "swe-django": "mini-swe",
    "otel-any-agent": "otel-json",
    "tau2-events": "tau2-events",
}
E = TypeVar("E", bound=Event)


@pytest.fixture(autouse=True)
def _recordings() -> None:
    if not TRACES.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"the recorded runs are not at {TRACES}: set AGENTLEDGER_TRACES")
        pytest.skip(f"the recorded runs are not at {TRACES}")


@dataclass(frozen=True)
class Imported:
    report: ImportReport
    events: list[Event]

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def counts(self) -> tuple[int, int, int, int]:
        """Runs, model turns, tool calls, successes: the columns of the READMEs."""
        return (
            len(self.of(RunStarted)),
            len(self.of(ModelCallCompleted)),
            len(self.of(ToolCallCompleted)),
            sum(event.success is True for event in self.of(OutcomeRecorded)),
        )

    def calls_cost(self) -> int:
        return sum(event.reported_cost_nanousd or 0 for event in self.of(ModelCallCompleted))

    def runs_cost(self) -> int:
        return sum(event.reported_cost_nanousd or 0 for event in self.of(RunFinished))


@cache
def imported(path: str) -> Imported:
    events: list[Event] = []
    report = import_files(SETS[path.partition("/")[0]], [TRACES / path], events.append)
    assert report.rejected == []
    return Imported(report, events)


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("tau2-retail", (215, 2258, 1667, 181)),
        ("tau2-policy-trials", (85, 896, 656, 50)),
        ("swe-django", (90, 3700, 3497, 68)),
        ("tau2-events", (19, 78, 48, 11)),
        ("tau2-retail/retail-gpt-4.1-finetuned.json.gz", (40, 531, 292, 34)),
        ("tau2-retail/retail-gpt-4.1.json.gz", (40, 476, 299, 34)),
        ("tau2-retail/retail-orchestrator.json.gz", (114, 1027, 873, 96)),
        ("tau2-retail/telecom-gpt-4.1-empty.json.gz", (0, 0, 0, 0)),
        ("tau2-retail/telecom-solo-gpt-4.1-1task.json.gz", (1, 12, 11, 1)),
        ("tau2-retail/telecom-solo-gpt-4.1-4trials.json.gz", (20, 212, 192, 16)),
        ("tau2-retail/telecom-solo-qwen2.5-1.5b-empty.json.gz", (0, 0, 0, 0)),
        ("tau2-policy-trials/airline-base-grok-3-20trials.json.gz", (20, 260, 145, 4)),
        ("tau2-policy-trials/airline-tighter-a-grok-3-20trials.json.gz", (20, 252, 142, 2)),
        ("tau2-policy-trials/airline-tighter-a-grok-4-20trials.json.gz", (20, 152, 149, 20)),
        ("tau2-policy-trials/airline-tighter-b-grok-4-20trials.json.gz", (20, 153, 164, 20)),
        ("tau2-policy-trials/telecom-grok-3-5tasks.json.gz", (5, 79, 56, 4)),
    ],
)
def test_runs_turns_calls_and_successes_equal_the_readme(path: str, counts: tuple[int, int, int, int]) -> None:
    assert imported(path).counts() == counts


@pytest.mark.parametrize(
    ("file", "policy", "readme_usd", "nanousd"),
    [
        ("airline-base-grok-3-20trials", "dd9ad42bd717", "4.8114", 4_811_433_000),
        ("airline-tighter-a-grok-3-20trials", "efbf3c2d8271", "4.6049", 4_604_862_000),
        ("airline-tighter-a-grok-4-20trials", "efbf3c2d8271", "4.0366", 4_036_587_000),
        ("airline-tighter-b-grok-4-20trials", "04c0e4e92632", "4.1685", 4_168_488_000),
        ("telecom-grok-3-5tasks", "065b48503bf7", "2.0642", 2_064_156_000),
    ],
)
def test_policy_and_cost_of_each_batch_of_trials(file: str, policy: str, readme_usd: str, nanousd: int) -> None:
    found = imported(f"tau2-policy-trials/{file}.json.gz")
    assert {start.policy_version for start in found.of(RunStarted)} == {policy}
    assert found.runs_cost() == found.calls_cost() == nanousd
    assert f"{nanousd / 1e9:.4f}" == readme_usd


def test_the_users_tool_calls_are_told_apart() -> None:
    tools = imported("tau2-policy-trials/telecom-grok-3-5tasks.json.gz").of(ToolCallCompleted)
    assert Counter(tool.requestor for tool in tools) == {"assistant": 31, "user": 25}


def test_zero_missing_and_not_priced_in_retail() -> None:
    tuned = imported("tau2-retail/retail-gpt-4.1-finetuned.json.gz")
    assert {call.reported_cost_nanousd for call in tuned.of(ModelCallCompleted)} == {None}
    assert all(call.input_tokens for call in tuned.of(ModelCallCompleted))
    other = imported("tau2-retail/retail-orchestrator.json.gz")
    assert {(call.input_tokens, call.reported_cost_nanousd) for call in other.of(ModelCallCompleted)} == {(None, None)}
    assert {end.reported_cost_nanousd for end in (*tuned.of(RunFinished), *other.of(RunFinished))} == {None}
    assert imported("tau2-retail").runs_cost() == imported("tau2-retail").calls_cost() == 2_945_004_000
    assert len(imported("tau2-retail").of(PolicyDecided)) == 3


def test_the_coding_agent() -> None:
    found = imported("swe-django")
    assert Counter(tool.status for tool in found.of(ToolCallCompleted)) == {"ok": 3243, "error": 250, "timeout": 4}
    assert Counter(call.status for call in found.of(ModelCallCompleted)) == {"ok": 3497, "rejected": 203}
    assert len(found.of(PolicyDecided)) == 203
    assert found.runs_cost() == found.calls_cost() == 44_270_019_750
    assert f"{found.calls_cost() / 1e9:.5f}" == "44.27002"


def test_the_spans() -> None:
    found = imported("otel-any-agent")
    newer = [call for call in found.of(ModelCallCompleted) if call.labels["convention"] == "gen_ai"]
    newer_tools = [tool for tool in found.of(ToolCallCompleted) if tool.labels["convention"] == "gen_ai"]
    assert (len(found.of(RunStarted)), len(newer), len(newer_tools)) == (68, 210, 141)
    assert (sum(c.input_tokens or 0 for c in newer), sum(c.output_tokens or 0 for c in newer)) == (68203, 5985)
    assert sum(call.reported_cost_nanousd or 0 for call in newer) == 12_860_500
    assert sum(call.reported_cost_nanousd is None for call in newer) == 75
    assert sum(call.status == "error" for call in found.of(ModelCallCompleted)) == 0
    assert found.report.unmapped["span without end, taken without latency"].count == 15
    assert {len(start.trace_id) for start in found.of(RunStarted)} == {32}
    assert found.of(OutcomeRecorded) == []


def test_the_spans_of_the_older_convention_are_read_too_and_once_each() -> None:
    """The README counts spans named `call_llm` and `execute_tool`; two traces of 2025-05-20 have other names."""
    found = imported("otel-any-agent")
    older = [call for call in found.of(ModelCallCompleted) if call.labels["convention"] == "openinference"]
    tools = [tool for tool in found.of(ToolCallCompleted) if tool.labels["convention"] == "openinference"]
    assert (len({call.run_id for call in older}), len(older), len(tools)) == (2, 6, 4)
    assert sum(call.reported_cost_nanousd or 0 for call in older) == 828_800


def test_the_event_log() -> None:
    found = imported("tau2-events")
    assert found.runs_cost() == 44_340_800
    users = found.report.unmapped["user simulator turn"]
    assert (users.count, users.amount_nanousd) == (63, 20_830_000)
    assert len([end for end in found.of(RunFinished) if end.reported_cost_nanousd is None]) == 2
    assert len(found.of(StateChanged)) == 16
    decisions = [decision for decision in found.of(PolicyDecided) if decision.enforced == "observed"]
    assert len(decisions) == 2
    texts = repr(found.events)
    assert "/Users/" not in texts
    assert "yohei" not in texts


def test_the_event_logs_times_are_utc() -> None:
    """The first batch's log says 15:38:46 UTC where its results say 08:38:46."""
    start = imported("tau2-events/20260531-153843-240865/results.json.gz").of(RunStarted)[0]
    assert datetime.fromtimestamp(start.occurred_at / 1e6, UTC).strftime("%H:%M:%S") == "15:38:46"
    assert start.labels["times"] == "utc"


def test_everything_again_is_byte_for_byte_the_same_and_no_id_comes_twice() -> None:
    codec = Codec(open_registry())
    ids: Counter[str] = Counter()
    for name, format_name in SETS.items():
        first = [codec.encode(event) for event in imported(name).events]
        again: list[bytes] = []
        import_files(format_name, [TRACES / name], lambda event, into=again: into.append(codec.encode(event)))
        assert again == first
        assert [codec.decode_strictly(value) for value in first] == imported(name).events
        ids.update(event.event_id for event in imported(name).events)
    assert ids.total() == len(ids) == 14_748


def test_sequences_are_dense_for_every_producer() -> None:
    for name in SETS:
        numbers: dict[str, list[int]] = {}
        for event in imported(name).events:
            numbers.setdefault(event.producer_id, []).append(event.producer_seq)
        assert all(found == list(range(len(found))) for found in numbers.values())


def test_chat_reads_the_conversations_with_options_alone() -> None:
    options = ImportOptions(outcome="reward_info.reward", run_id=("task_id", "trial"), cost="agent_cost")
    events: list[Event] = []
    report = import_files("chat", [TRACES / "tau2-policy-trials" / "*.json.gz"], events.append, options)
    assert report.rejected == []
    assert Imported(report, events).counts() == (85, 896, 656, 50)
    assert Imported(report, events).calls_cost() == 19_685_526_000
