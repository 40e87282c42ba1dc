"""`agentledger verify`: whether the ledger still is what was signed, and whether its columns say what its bytes say.

What is trusted: this program, the public keys and the checkpoints that the caller holds. What is not: the stored rows.
Leaves are worked out here from the stored bytes, roots from the leaves, and both are held against the signed heads.
Three things are left to the server, which a changed row can't forge but a changed server could: that it shows these
programs and everybody else the same rows; that its own Avro writer shows what the typed columns hold; and the two
questions about the whole table (`occurrence`, rows outside of every flush), which are asked in SQL.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentledger.schemas.errors import UsageError
from agentledger.schemas.heads import Head, LogId
from agentledger.schemas.notes import VerifierKey
from agentledger.schemas.ports import SchemaRegistry
from agentledger.sinks.chain import Chain, Problem, read_chain, read_held_checkpoint
from agentledger.sinks.cosignatures import check_witnesses
from agentledger.sinks.leaves import ClickHouseLeafReader, StoredLog
from agentledger.sinks.tables import BATCHES, LEDGER
from agentledger.sinks.tombstones import Tombstones, read_tombstones
from agentledger.sinks.verify_columns import Filled, filled_columns
from agentledger.sinks.verify_logs import LogVerifier, Progress
from agentledger.sinks.verify_rows import RowChecker

UNFINISHED_S_MAX = 15.0  # how long a flush may be on its way before its rows count as inserted by somebody else
SQL_PROBLEMS_MAX = 20


@dataclass(frozen=True)
class VerifyRequest:
    """What to check row by row. Of all else, the leaf hashes and the trees are checked. Times are microseconds."""

    checkpoints_dir: Path
    keys: Sequence[VerifierKey]
    from_us: int | None = None
    to_us: int | None = None
    run_id: str = ""
    since_checkpoint: Path | None = None
    approvers: Sequence[VerifierKey] = ()  # whose signatures a tombstone needs
    witnesses: Sequence[VerifierKey] = ()  # of whom `witnesses_min` must have signed the last checkpoint, or nearly
    witnesses_min: int = 0


@dataclass
class VerifyReport:
    """What was checked and what was found."""

    problems: list[Problem] = field(default_factory=list)
    logs: int = 0
    rows: int = 0
    rows_checked: int = 0
    heads_checked: int = 0
    checkpoints: int = 0
    last_signed_at_us: int = 0
    server_verdicts: int = 0  # rows of records that only the server found unreadable: its word is taken for that
    unsigned_rows: int = 0
    purged_rows: int = 0  # gone, with a tombstone
    witnessed_size: int = 0  # of the last checkpoint that enough witnesses signed

    def as_json(self) -> dict[str, Any]:
        """The report as plain values."""
        problems = [problem._asdict() for problem in self.problems]
        return {
            "verified": not problems,
            **{k: v for k, v in vars(self).items() if k != "problems"},
            "problems": problems,
        }


class Verification:
    """One verification of one ledger."""

    def __init__(self, reader: ClickHouseLeafReader, registry: SchemaRegistry, request: VerifyRequest) -> None:
        self._reader = reader
        self._registry = registry
        self._request = request
        self._filled: Filled = {}
        self._tombstones = Tombstones()
        self.report = VerifyReport()

    def run(self, start: Callable[[int], None], progress: Progress) -> VerifyReport:
        """Check all. `start` is told how many rows there are, `progress` how many are done."""
        request, report = self._request, self.report
        chain, problems = read_chain(request.checkpoints_dir, request.keys)
        report.problems += problems
        self._tombstones, problems = read_tombstones(request.checkpoints_dir, request.approvers)
        report.problems += problems
        held = 0
        if request.since_checkpoint is not None:
            held, problems = read_held_checkpoint(request.since_checkpoint, request.keys, chain)
            report.problems += problems
        if request.witnesses:
            report.witnessed_size, problems = check_witnesses(
                request.checkpoints_dir, chain, request.witnesses, request.witnesses_min
            )
            report.problems += problems
        report.checkpoints = len(chain.bundles)
        report.last_signed_at_us = chain.state.at_us
        stored = self._reader.logs()
        self._check_flushes()
        logs = sorted({*stored, *chain.heads}, key=lambda log: (self._topic(log, stored, chain), log))
        report.logs = len(logs)
        report.rows = sum(found.size for found in stored.values())
        start(report.rows)
        before = chain.heads_at(held)
        self._filled = filled_columns(self._reader)
        for log in logs:
            self._check_log(log, stored.get(log), chain, before.get(log), progress)
        if not report.rows_checked and request.since_checkpoint is None and self._is_selection():
            raise UsageError("nothing to check: no row of the ledger is in this range", next_step="look at events")
        self._check_topics(stored, chain)
        self._check_occurrences()
        self._check_outside()
        return report

    def _check_log(
        self, log: LogId, stored: StoredLog | None, chain: Chain, before: Head | None, progress: Progress
    ) -> None:
        size = stored.size if stored is not None else 0
        has_stubs = self._tombstones.has_payloads(log)
        checker = RowChecker(self._reader, self._registry, log, self._filled, has_stubs=has_stubs)
        verifier = LogVerifier(
            f"{self._topic(log, {} if stored is None else {log: stored}, chain)}/{log.partition}",
            size,
            chain.heads.get(log, []),
            check=checker.check,
            read_leaves=lambda first, behind: self._reader.leaves(log, first, behind, with_purged=False),
            is_wanted=self._wanted(log, before),
            progress=progress,
            purged=self._tombstones.nodes(log),
        )
        found = verifier.verify()
        self.report.problems += found.problems
        self.report.rows_checked += found.rows_checked
        self.report.heads_checked += found.heads_checked
        self.report.server_verdicts += found.server_verdicts
        self.report.unsigned_rows += found.unsigned
        self.report.purged_rows += found.purged

    def _is_selection(self) -> bool:
        request = self._request
        return bool(request.run_id) or request.from_us is not None or request.to_us is not None

    def _wanted(self, log: LogId, before: Head | None) -> Callable[[int, int], bool]:
        """Which parts of this log are checked row by row."""
        request = self._request
        if request.since_checkpoint is not None:
            signed = before.size if before is not None else 0
            return lambda _first, behind: behind > signed
        if not self._is_selection():
            return lambda _first, _behind: True
        conditions, parameters = ["topic_id = {topic_id:UUID}", "partition = {partition:UInt32}"], {}
        if request.run_id:
            conditions.append("run_id = {run_id:String}")
        if request.from_us is not None:
            conditions.append("ledger_time >= fromUnixTimestamp64Micro({from_us:Int64}, 'UTC')")
        if request.to_us is not None:
            conditions.append("ledger_time < fromUnixTimestamp64Micro({to_us:Int64}, 'UTC')")
        parameters = {"topic_id": log.topic_id, "partition": log.partition, "run_id": request.run_id,
                      "from_us": request.from_us or 0, "to_us": request.to_us or 0}  # fmt: skip
        [(count, first_index, last_index)] = self._reader.query(
            f"SELECT count(), min(log_index), max(log_index) FROM {LEDGER} WHERE {' AND '.join(conditions)}", parameters
        )
        if not count:
            return lambda _first, _behind: False
        return lambda first, behind: first <= last_index and behind > first_index

    def _check_flushes(self) -> None:
        """What `ledger_batches` says must be one flush behind the other, from index 0 on."""
        rows = self._reader.query(
            "SELECT topic, partition, first_index, expected, rows, last_index FROM (SELECT topic, topic_id, partition, "
            "first_index, last_index, rows, lagInFrame(last_index + 1, 1, 0) OVER (PARTITION BY topic_id, partition "
            "ORDER BY last_index, first_index ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS expected "
            f"FROM {BATCHES}) WHERE first_index != expected OR rows != last_index + 1 - first_index "
            f"ORDER BY topic, partition, first_index LIMIT {SQL_PROBLEMS_MAX}"
        )
        for topic, partition, first, expected, count, last in rows:
            text = (
                f"ledger_batches says {count} rows from index {first} to {last}, expected the flush from {expected} on"
            )
            self._add("flush", f"{topic}/{partition}", first, text)

    def _check_topics(self, stored: dict[LogId, StoredLog], chain: Chain) -> None:
        """A topic with a second id was deleted and made again; the signer signs that only if a person says so."""
        for log, found in sorted(stored.items()):
            known = chain.state.topics.get(found.topic)
            is_signed = any(head.topic == found.topic for head in chain.heads.get(log, []))
            if known is not None and known != log.topic_id and not is_signed:
                text = f"the topic has the id {log.topic_id}, expected {known}: it was deleted and made again"
                self._add("topic", f"{found.topic}/{log.partition}", None, text)
        rows = self._reader.query(
            f"SELECT toString(topic_id), partition, topic, min(log_index) FROM {LEDGER} "
            "GROUP BY topic_id, partition, topic ORDER BY 1, 2, 3"
        )
        for topic_id, partition, topic, index in rows:
            here = stored.get(LogId(topic_id, partition))
            if here is not None and here.topic != topic:
                self._add(
                    "column", f"{here.topic}/{partition}", index, f"column topic is {topic!r}, expected {here.topic!r}"
                )

    def _check_occurrences(self) -> None:
        """Of an event id's readable rows exactly one is `first`, none of its log is before it, and the same bytes are
        duplicates, others conflicts."""
        rows = self._reader.query(
            "SELECT toString(event_id), argMin((topic, partition, log_index), occurrence != 'first') AS place, "
            "countIf(occurrence = 'first') AS firsts, "
            "countIf(occurrence = 'duplicate' AND value_sha256 != first_sha) AS others, "
            "countIf(occurrence = 'conflict' AND value_sha256 = first_sha) AS same, "
            "countIf((topic_id, partition) = (first_place.1, first_place.2) AND log_index < first_place.3) AS earlier "
            "FROM (SELECT event_id, topic, topic_id, partition, log_index, occurrence, value_sha256, "
            "anyIf(value_sha256, occurrence = 'first') OVER (PARTITION BY event_id) AS first_sha, "
            "anyIf((topic_id, partition, log_index), occurrence = 'first') OVER (PARTITION BY event_id) AS first_place "
            f"FROM {LEDGER} WHERE event_type != '' AND event_id IN (SELECT event_id FROM {LEDGER} "
            "WHERE event_type != '' GROUP BY event_id HAVING countIf(occurrence = 'first') != 1 OR count() > 1)) "
            "GROUP BY event_id HAVING firsts != 1 OR others OR same OR earlier "
            f"ORDER BY event_id LIMIT {SQL_PROBLEMS_MAX}"
        )
        for event_id, (topic, partition, index), firsts, others, same, earlier in rows:
            text = f"event {event_id} has {firsts} rows marked first, expected 1"
            if firsts == 1 and earlier:
                text = f"event {event_id} is marked first here, and {earlier} of its rows are before this one"
            elif firsts == 1:
                wrong = others + same
                text = f"event {event_id} has {wrong} rows whose occurrence is not what their bytes say"
            self._add("occurrence", f"{topic}/{partition}", index, text)

    def _check_outside(self) -> None:
        """Rows that no flush holds: on their way for a moment, or put there by somebody else."""
        outside: dict[tuple[str, str, int], int] = {}
        deadline = time.monotonic() + UNFINISHED_S_MAX
        while True:
            rows = self._reader.query(
                f"SELECT toString(l.topic_id), any(l.topic), l.partition, min(l.log_index), count() FROM {LEDGER} AS l "
                "LEFT JOIN (SELECT topic_id, partition, max(last_index) + 1 AS size "
                f"FROM {BATCHES} GROUP BY topic_id, partition) AS b "
                "ON l.topic_id = b.topic_id AND l.partition = b.partition WHERE l.log_index >= b.size "
                "GROUP BY l.topic_id, l.partition ORDER BY 2, 3"
            )
            now = {(topic_id, topic, partition): index for topic_id, topic, partition, index, _ in rows}
            outside = now if not outside else {key: index for key, index in now.items() if outside.get(key) == index}
            if not outside or time.monotonic() > deadline:
                break
            time.sleep(1)
        for (_, topic, partition), index in outside.items():
            self._add(
                "inserted", f"{topic}/{partition}", index, "this row is in no flush of the writer, expected none here"
            )

    def _topic(self, log: LogId, stored: dict[LogId, StoredLog], chain: Chain) -> str:
        heads = chain.heads.get(log)
        return heads[0].topic if heads else stored[log].topic

    def _add(self, kind: str, where: str, index: int | None, text: str) -> None:
        self.report.problems.append(Problem(kind, where, index, text))


def check_range(from_us: int | None, to_us: int | None) -> None:
    """Raise UsageError where a range ends before it begins."""
    if from_us is not None and to_us is not None and from_us >= to_us:
        raise UsageError("--from must be earlier than --to")
