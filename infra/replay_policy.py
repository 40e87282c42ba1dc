"""Which recorded tool calls a policy would have denied, or let through. A policy here is an ordered list of rules:

    version: "2026-04"
    default: allow                # what holds where no rule does: allow, deny or require_approval
    rules:
      - name: no-deletes
        tool: "delete_*"          # patterns with * and ?; of a rule, all that are given must match
        effect: irreversible
        workflow: "refund*"
        agent: "*"
        environment: production
        target: "db/*"
        verdict: deny

The first rule that matches a call decides. What was done then is read from the call: it was denied (its status), it
waited for an approval (the decision that it names says so), or it was let through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.table import Table

from agentledger.infra.replay_crew import Report
from agentledger.infra.replay_parts import RecordSource, check_known
from agentledger.infra.replay_unmatched import Unmatched
from agentledger.infra.replay_wanted import Wanted
from agentledger.schemas.codec import Codec
from agentledger.schemas.errors import AgentledgerError
from agentledger.schemas.events import PolicyDecided, ToolCallCompleted
from agentledger.schemas.topics import EVENTS
from agentledger.schemas.yaml_file import YamlFileError, parse_yaml, read_bounded
from agentledger.sinks.record_filter import RecordFilter
from agentledger.sinks.replay_source import LedgerRecord
from agentledger.sinks.rows import FIRST

Verdict = Literal["allow", "deny", "require_approval"]
FILE_BYTES_MAX = 1_000_000
EXAMPLES_MAX = 10_000  # changed calls that are named; the rest is counted
LISTED = 25


class PolicyRule(BaseModel):
    """One rule: patterns, all of which must match, and the verdict."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    tool: str = "*"
    effect: str = "*"
    target: str = "*"
    workflow: str = "*"
    agent: str = "*"
    environment: str = "*"
    verdict: Verdict

    def matches(self, call: ToolCallCompleted) -> bool:
        """True where every pattern matches the call."""
        return (
            fnmatchcase(call.tool, self.tool)
            and fnmatchcase(call.effect, self.effect)
            and fnmatchcase(call.target, self.target)
            and fnmatchcase(call.workflow, self.workflow)
            and fnmatchcase(call.agent_id, self.agent)
            and fnmatchcase(call.environment, self.environment)
        )


class Policy(BaseModel):
    """Rules in order, and what holds where none matches."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str = ""
    default: Verdict = "allow"
    rules: tuple[PolicyRule, ...] = ()

    def decide(self, call: ToolCallCompleted) -> tuple[str, str]:
        """The verdict on a call, and the name of the rule that gave it."""
        for rule in self.rules:
            if rule.matches(call):
                return rule.verdict, rule.name
        return self.default, "(default)"


class Changed(NamedTuple):
    """A call that the policy would have treated in another way than it was."""

    at_us: int
    event_id: str
    tenant_id: str
    run_id: str
    tool: str
    target: str
    was: str
    would_be: str
    rule: str


@dataclass
class PolicyReport:
    """Calls by tool, recorded verdict, the policy's verdict and its rule; those that differ by name."""

    version: str = ""
    calls: int = 0
    counts: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    changed: list[Changed] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The report as JSON has it. Times are microseconds since 1970."""
        names = ("tool", "was", "would_be", "rule")
        return {
            "policy_version": self.version,
            "calls": self.calls,
            "counts": [
                dict(zip(names, key, strict=True)) | {"calls": count} for key, count in sorted(self.counts.items())
            ],
            "changed": [one._asdict() for one in self.changed],
        }


class PolicyFileError(YamlFileError):
    """The policy to replay with is wrong."""

    advice = "see infra/docs/REPLAY.md for what it has to say"


def read_policy(path: Path) -> Policy:
    """The policy in a file. Raises PolicyFileError with every wrong place."""
    raw = read_bounded(path, bytes_max=FILE_BYTES_MAX, error=PolicyFileError)
    file = parse_yaml(raw, where=str(path), bytes_max=FILE_BYTES_MAX, error=PolicyFileError)
    if not file.content:
        raise PolicyFileError([file.problem((), "says nothing")])
    return file.checked(Policy)


def try_policy(
    source: RecordSource,
    codec: Codec,
    policy: Policy,
    wanted: Wanted,
    *,
    begin: Callable[[int], None] = lambda _total: None,
    report: Report = lambda _more: None,
) -> PolicyReport:
    """What the policy says of every recorded tool call whose record lies in the range, each once.

    Raises UsageError where nothing of the run or tenant that is asked for is in the ledger.
    """
    check_known(source, source.spans([EVENTS.name], to_us=wanted.to_us), wanted)
    spans = source.spans([EVENTS.name], from_us=wanted.from_us, to_us=wanted.to_us)
    chosen = RecordFilter(
        tenant_id=wanted.tenant_id, run_id=wanted.run_id, event_types=("PolicyDecided", "ToolCallCompleted")
    )
    begin(source.count(spans, chosen))
    trial = _Trial(codec, policy)
    reader = source.reader(spans, chosen)
    for window in source.windows(spans):
        for block in reader.read(window):
            for record in block.records():
                if record.occurrence == FIRST:
                    trial.take(record)
            report(len(block))
    trial.close()
    return trial.found


class _Trial:
    def __init__(self, codec: Codec, policy: Policy) -> None:
        self._codec = codec
        self._policy = policy
        self._verdicts = Unmatched()  # of decisions, by id: calls follow them
        self.found = PolicyReport(policy.version)

    def take(self, record: LedgerRecord) -> None:
        try:
            event = self._codec.decode(record.value)
        except AgentledgerError:
            return
        if isinstance(event, PolicyDecided):
            self._verdicts.add(event.event_id.encode(), event.verdict)
        elif isinstance(event, ToolCallCompleted):
            self._judge(event, record.ledger_time_us)

    def close(self) -> None:
        self._verdicts.close()

    def _judge(self, call: ToolCallCompleted, at_us: int) -> None:
        was = self._recorded(call)
        would_be, rule = self._policy.decide(call)
        found = self.found
        found.calls += 1
        found.counts[call.tool, was, would_be, rule] += 1
        if was != would_be and len(found.changed) < EXAMPLES_MAX:
            found.changed.append(
                Changed(at_us, call.event_id, call.tenant_id, call.run_id, call.tool, call.target, was, would_be, rule)
            )

    def _recorded(self, call: ToolCallCompleted) -> str:
        """What became of the call. One that ran although a decision said no was let through."""
        if call.status == "denied":
            return "deny"
        key = (call.policy_decision_id or "").encode()
        verdict = self._verdicts.pop(key) if key else None
        if verdict is not None:
            self._verdicts.add(key, verdict)  # several calls may follow from one decision
        return "require_approval" if verdict == "require_approval" else "allow"


def print_policy(console: Console, found: PolicyReport) -> None:
    """Which calls would have been treated in another way."""
    changed = sum(count for (_, was, would_be, _), count in found.counts.items() if was != would_be)
    if not found.calls:
        _say(console, "no tool call was recorded in this range")
        return
    _say(console, f"tool calls {found.calls:,}, of them {changed:,} that this policy would have treated otherwise")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in ("tool", "was", "would have been", "by rule"):
        table.add_column(column)
    table.add_column("calls", justify="right")
    for (tool, was, would_be, rule), count in _rows(found):
        if was != would_be:
            table.add_row(tool, was, would_be, rule, f"{count:,}")
    if changed:
        console.print(table)
    for one in found.changed[:LISTED]:
        call = f"{one.tool} {one.target}".rstrip()
        _say(console, f"  {one.tenant_id} run {one.run_id}: {call}: {one.was} → {one.would_be} ({one.rule})")
    if changed > LISTED:
        _say(console, f"  … and {changed - LISTED:,} more: see --json")


def _rows(found: PolicyReport) -> Iterator[tuple[tuple[str, str, str, str], int]]:
    yield from sorted(found.counts.items(), key=lambda item: (-item[1], item[0]))


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
