"""How long a tenant's records are kept: what was decided, what may go by that, and taking it away.

What is decided is a signed note in the ledger (`RetentionRecorded`); one that no trusted approver has signed counts for
nothing. Periods go by ledger time. Two classes: `trail`, the whole record, and `payloads`, the exact bytes and the
content of records that carry content; of those the row stays, with its digests and its leaf.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from agentledger.schemas.compact_range import CompactRange
from agentledger.schemas.errors import IntegrityError, ProofError, UsageError
from agentledger.schemas.hashing import canonical_json
from agentledger.schemas.heads import Head, LogId
from agentledger.schemas.notes import SignerKey, VerifierKey, open_note, sign_note
from agentledger.sinks.chain import Chain
from agentledger.sinks.leaves import ClickHouseLeafReader
from agentledger.sinks.tables import DATABASE, LEDGER, PURGED, typed_columns
from agentledger.sinks.tombstones import PlannedLog, PurgePlan, Tombstones
from agentledger.sinks.verify_logs import LogVerifier

STATEMENT_HEADER = "agentledger.retention.v1"
CLASSES = ("trail", "payloads")
KINDS = ("period", "hold", "release")
DAY_US = 86_400_000_000
PURGES = f"{DATABASE}.ledger_purges"
RANGES_MAX = 1_000_000  # of one plan: 100 MB of JSON; more go in several plans, one earlier --before after the other
WINDOW_ROWS = 1_000_000  # indexes that one query looks at: 40 MB where all of them go
INSERT_RANGES = 5_000  # ranges in one INSERT, under the server's bound on the size of a statement
# What still holds is kept: decisions on retention themselves, and what a rebuilt state begins with.
NEVER_PURGED = ("RetentionRecorded", "CheckpointSigned", "BudgetDeclared", "RunBudgetDeclared", "ControlIssued")


class Decision(NamedTuple):
    """One signed decision. `name` tells holds apart; `days` is of a period."""

    kind: str
    tenant_id: str
    data_class: str
    days: int | None
    name: str
    reason: str
    at_us: int

    def statement(self) -> str:
        """The text that is signed."""
        return f"{STATEMENT_HEADER}\n{canonical_json(self._asdict()).decode()}\n"


def decide(decision: Decision, key: SignerKey) -> str:
    """The decision as a note signed by this key. Raises UsageError, ProofError."""
    if decision.kind not in KINDS or (decision.kind == "period" and decision.data_class not in CLASSES):
        raise UsageError(f"there is no {decision.kind} of class {decision.data_class!r}")
    return sign_note(decision.statement(), [key])


def read_decision(note: str, trusted: Sequence[VerifierKey]) -> Decision:
    """The decision in a note that a trusted key has signed. Raises ProofError."""
    text = open_note(note, trusted)
    try:
        header, body, rest = text.split("\n")
        decision = Decision(**json.loads(body))
    except (ValueError, TypeError):
        raise ProofError("this is no decision on retention") from None
    if header != STATEMENT_HEADER or rest or decision.statement() != text:
        raise ProofError("this is no decision on retention")
    return decision


@dataclass(frozen=True)
class Policy:
    """What is in force for one tenant."""

    tenant_id: str
    days: Mapping[str, int]  # by class
    holds: Mapping[str, str]  # name to reason
    ignored: Sequence[str] = field(default=())  # why a decision in the ledger counts for nothing

    def before_us(self, data_class: str, now_us: int) -> int:
        """Rows of this class from before that ledger time may go."""
        return now_us - self.days[data_class] * DAY_US

    def check_no_hold(self) -> None:
        """Raise UsageError where a legal hold stops every purge."""
        if self.holds:
            named = "; ".join(f"{name}: {reason}" for name, reason in sorted(self.holds.items()))
            raise UsageError(
                f"a legal hold is on tenant {self.tenant_id!r}, nothing of it may go ({named})",
                next_step="who set it, lifts it with: agentledger retention release",
            )


def policy_of(
    reader: ClickHouseLeafReader, tenant_id: str, trusted: Sequence[VerifierKey], floors: Mapping[str, int]
) -> Policy:
    """What is in force: of signed decisions the last one, by the time that was signed. Raises StoreError."""
    rows = reader.query(
        f"SELECT statement, toString(event_id) FROM {LEDGER} WHERE event_type = 'RetentionRecorded' "
        "AND occurrence = 'first' AND tenant_id = {tenant:String} AND kind IN ('period', 'hold', 'release')",
        {"tenant": tenant_id},
    )
    decisions, ignored = [], []
    for note, event_id in rows:
        try:
            decision = read_decision(note, trusted)
        except ProofError as error:
            ignored.append(f"event {event_id}: {error.what}")
            continue
        if decision.tenant_id == tenant_id:
            decisions.append(decision)
    days, holds = dict(floors), {}
    for one in sorted(decisions, key=lambda found: found.at_us):
        if one.kind == "period" and one.days is not None and one.data_class in days:
            days[one.data_class] = max(one.days, floors[one.data_class])
        elif one.kind == "hold":
            holds[one.name] = one.reason
        elif one.kind == "release":
            holds.pop(one.name, None)
    return Policy(tenant_id, days, holds, tuple(sorted(ignored)))


def content_columns() -> list[str]:
    """The columns that hold content: what redaction let through."""
    return [name for name in typed_columns() if name.endswith("_redacted")]


def _may_go(data_class: str, purgeable: Mapping[LogId, int]) -> str:
    kept = ", ".join(f"'{name}'" for name in NEVER_PURGED)
    chosen = (
        "(tenant_id = {tenant:String} AND ledger_time < fromUnixTimestamp64Micro({before_us:Int64}, 'UTC') "
        f"AND event_type NOT IN ('', {kept}))"
    )
    if data_class == "payloads":
        content = " OR ".join(f"isNotNull({name})" for name in content_columns())
        return f"{chosen} AND raw != '' AND ({content})"
    # Of an event that came twice, the first row goes only together with the others: they would point to nothing.
    sizes = ", ".join(f"(toUUID('{log.topic_id}'), {log.partition}, {size})" for log, size in sorted(purgeable.items()))
    is_purgeable = f"arrayExists(one -> one.1 = topic_id AND one.2 = partition AND log_index < one.3, [{sizes}])"
    return (
        f"{chosen} AND event_id NOT IN (SELECT event_id FROM {LEDGER} WHERE occurrence != 'first' "
        f"AND event_type != '' AND NOT ({chosen} AND {is_purgeable}))"
    )


def purgeable_sizes(chain: Chain) -> dict[LogId, int]:
    """Of each log, the rows that a purge may touch at all: signed ones, and never the last of them, as the signer looks
    whether that still is as it was signed."""
    return {log: heads[-1].size - 1 for log, heads in chain.heads.items() if heads[-1].size > 1}


def chosen_rows(
    reader: ClickHouseLeafReader, chain: Chain, plan: PurgePlan, log: LogId, *, first: int, behind: int
) -> Iterator[tuple[int, bytes]]:
    """Index and leaf of the rows of a log that may go by what the plan asks for, in order. Raises StoreError."""
    may_go = _may_go(plan.data_class, purgeable_sizes(chain))
    for start in range(first, behind, WINDOW_ROWS):
        yield from reader.query(
            f"SELECT log_index, leaf_hash FROM {LEDGER} WHERE topic_id = {{topic_id:UUID}} "
            "AND partition = {partition:UInt32} AND log_index >= {first:UInt64} AND log_index < {behind:UInt64} "
            f"AND {may_go} ORDER BY log_index",
            {"topic_id": log.topic_id, "partition": log.partition, "first": start,
             "behind": min(behind, start + WINDOW_ROWS), "tenant": plan.tenant_id, "before_us": plan.before_us},
        )  # fmt: skip


def ranges_of(rows: Iterator[tuple[int, bytes]]) -> list[CompactRange]:
    """Rows in order of their index as compact ranges without holes. Raises UsageError where they are too many."""
    ranges: list[CompactRange] = []
    leaves: list[bytes] = []
    first = behind = -1
    for index, leaf in rows:
        if index != behind:
            _close(ranges, first, leaves)
            first, leaves = index, []
        leaves.append(bytes(leaf))
        behind = index + 1
        if len(ranges) > RANGES_MAX:
            raise UsageError(
                f"more than {RANGES_MAX:,} separate ranges would go",
                next_step="purge in steps: give an earlier --before first",
            )
    _close(ranges, first, leaves)
    return ranges


def _close(ranges: list[CompactRange], first: int, leaves: list[bytes]) -> None:
    if leaves:
        found = CompactRange(first)
        found.extend(leaves)
        ranges.append(found)


def make_plan(
    reader: ClickHouseLeafReader, chain: Chain, policy: Policy, data_class: str, *, before_us: int, now_us: int
) -> PurgePlan:
    """What may go now. Raises UsageError where a hold stops it, the time is too late, or nothing would go."""
    policy.check_no_hold()
    _check_time(policy, data_class, before_us, now_us)
    asked = PurgePlan(policy.tenant_id, data_class, before_us, now_us, ())
    logs = []
    for log, size in sorted(purgeable_sizes(chain).items(), key=lambda item: (chain.heads[item[0]][0].topic, item[0])):
        ranges = ranges_of(chosen_rows(reader, chain, asked, log, first=0, behind=size))
        if ranges:
            logs.append(PlannedLog(chain.heads[log][0].topic, log, tuple(ranges)))
    if not logs:
        raise UsageError("nothing is old enough to be purged", next_step="agentledger retention show")
    return PurgePlan(policy.tenant_id, data_class, before_us, now_us, tuple(logs))


def _check_time(policy: Policy, data_class: str, before_us: int, now_us: int) -> None:
    if data_class not in CLASSES:
        raise UsageError(f"no class is called {data_class!r}", next_step=f"one of {', '.join(CLASSES)}")
    if before_us > policy.before_us(data_class, now_us):
        raise UsageError(
            f"rows of class {data_class} are kept for {policy.days[data_class]} days",
            next_step="give an earlier --before, or set another period: agentledger retention set",
        )


def check_plan(
    reader: ClickHouseLeafReader, chain: Chain, policy: Policy, plan: PurgePlan, *, stones: Tombstones, now_us: int
) -> None:
    """Raise where the plan may not be carried out now: a hold, a longer period, rows that are not those planned, or a
    log that isn't what was signed. Raises UsageError, IntegrityError, StoreError."""
    policy.check_no_hold()
    _check_time(policy, plan.data_class, plan.before_us, now_us)
    for one in plan.logs:
        heads = chain.heads.get(one.log, [])
        if not heads or one.ranges[-1].behind > heads[-1].size - 1:
            raise UsageError("the plan names rows that aren't signed", where=f"{one.topic}/{one.log.partition}")
        rows = chosen_rows(reader, chain, plan, one.log, first=one.ranges[0].first, behind=one.ranges[-1].behind)
        leaves = {index: bytes(leaf) for index, leaf in rows}
        for planned in one.ranges:
            found = CompactRange(planned.first)
            found.extend(leaves[index] for index in range(planned.first, planned.behind) if index in leaves)
            if found != planned:
                raise UsageError(
                    f"rows {planned.first} to {planned.behind - 1} are not those that were planned",
                    where=f"{one.topic}/{one.log.partition}", next_step="make a new plan and have it approved",
                )  # fmt: skip
        _check_log(reader, one, heads, stones)


def _check_log(reader: ClickHouseLeafReader, planned: PlannedLog, heads: Sequence[Head], stones: Tombstones) -> None:
    """Raise IntegrityError unless the leaves give the signed roots: afterwards it could not be told any more."""
    log = planned.log
    verifier = LogVerifier(
        f"{planned.topic}/{log.partition}", heads[-1].size, heads,
        check=lambda _parts: iter(()),
        read_leaves=lambda first, behind: reader.leaves(log, first, behind, with_purged=False),
        is_wanted=lambda _first, _behind: False, progress=lambda _rows: None, purged=stones.nodes(log),
    )  # fmt: skip
    problems = verifier.verify().problems
    if problems:
        raise IntegrityError(problems[0].line(), next_step="nothing was purged: run agentledger verify --all")


def carry_out(reader: ClickHouseLeafReader, plan: PurgePlan) -> None:
    """Take away what the plan names, and return when it is gone. Can be repeated. Raises StoreError."""
    name = plan.sha256()
    reader.query(
        f"CREATE TABLE IF NOT EXISTS {PURGES} (plan_sha256 String, topic_id UUID, partition UInt32, "
        "first_index UInt64, behind UInt64) ENGINE = MergeTree "
        "ORDER BY (plan_sha256, topic_id, partition, first_index) "
        "COMMENT 'What purges took away: the ranges of their plans'"
    )
    for values in _values(name, plan):
        reader.query(f"INSERT INTO {PURGES} VALUES {values}")
    rows = (
        f"ledger_time < fromUnixTimestamp64Micro({plan.before_us}, 'UTC') AND (topic_id, partition, log_index) IN "
        f"(SELECT topic_id, partition, arrayJoin(range(first_index, behind)) FROM {PURGES} "
        f"WHERE plan_sha256 = '{name}')"
    )
    change = f"DELETE WHERE {rows}"
    if plan.data_class == "payloads":
        emptied = "".join(f", `{column}` = NULL" for column in content_columns())
        change = f"UPDATE raw = ''{emptied} WHERE {rows}"
    else:  # proofs about other rows need these leaves
        columns = "topic_id, partition, log_index, ledger_time, leaf_hash"
        reader.query(f"INSERT INTO {PURGED} ({columns}) SELECT {columns} FROM {LEDGER} WHERE {rows}")
    reader.query(f"ALTER TABLE {LEDGER} {change} SETTINGS mutations_sync = 2")


def _values(name: str, plan: PurgePlan) -> Iterator[str]:
    rows = [
        f"('{name}', '{one.log.topic_id}', {one.log.partition}, {found.first}, {found.behind})"
        for one in plan.logs
        for found in one.ranges
    ]
    for start in range(0, len(rows), INSERT_RANGES):
        yield ", ".join(rows[start : start + INSERT_RANGES])


def rows_left(reader: ClickHouseLeafReader, plan: PurgePlan) -> int:
    """How many rows of a plan are still as they were. Raises StoreError."""
    left = "" if plan.data_class == "trail" else " AND raw != ''"
    found: list[Any] = reader.query(
        f"SELECT count() FROM {LEDGER} WHERE (topic_id, partition, log_index) IN (SELECT topic_id, partition, "
        f"arrayJoin(range(first_index, behind)) FROM {PURGES} WHERE plan_sha256 = '{plan.sha256()}'){left}"
    )
    return int(found[0][0])
