"""One run out of the trail: its row of the view `runs` and its events, in the order in which they are read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from agentledger.schemas.errors import UsageError
from agentledger.schemas.ports import SubjectKeys
from agentledger.schemas.topics import EVENTS, topic_of
from agentledger.sinks.queries import Client, query
from agentledger.sinks.runs_view import runs_where

Row = Mapping[str, Any]

EVENTS_MAX = 20_000  # more lines than anyone reads; the longest recorded run has some hundreds
NEAR_RUNS_MAX = 5
UNNESTED = {"RunFinished", "OutcomeRecorded"}  # they speak of the whole run
DEPTH_MAX = 3  # deeper nesting would push the text out of 80 columns
# A run is found through the projection by_run_id, in parts of any size. The bloom filter would be read whole: 150 MB of
# 100 million rows. A projection that leaves so many rows of a part says too little to be read.
BY_RUN_ID = {
    "min_table_rows_to_use_projection_index": 0, "max_projection_rows_to_use_projection_index": 100_000,
    "ignore_data_skipping_indices": "by_run",
}  # fmt: skip
# What is read of one run is little: to hand it out to several threads takes longer than to read it in one.
OF_ONE_RUN = {**BY_RUN_ID, "max_threads": 1}
COLUMNS = (
    "event_id", "event_type", "tenant_id", "producer_id", "step", "parent_event_id", "occurred_at", "ledger_time",
    "log_index", "requestor", "answered_model", "requested_model", "tool", "target", "status", "attempt", "error_type",
    "error_message", "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
    "latency_ms", "reported_cost_nanousd", "rated_event_id", "cost_nanousd", "dry_run", "policy", "rule", "verdict",
    "enforced", "reason", "action", "scope", "scope_value", "metric", "limit_amount", "used_amount",
    "threshold_percent", "on_exceeded", "trigger_event_id", "trigger_event_ids", "severity", "summary", "success",
    "score", "verified_by", "result", "source", "evidence_ids", "resource", "decided_by", "requested_from", "command",
    "task", "first_missing_seq", "last_missing_seq", "arguments_digest", "count",
)  # fmt: skip
# When a run's rows were appended: nothing is read of the parts of the table that hold other times. A row that comes
# after this was asked is there when the run is asked for again. The tenant is asked for at last: as a condition on the
# rows it would be looked for in the table's own order, too, which takes longer than all else.
_SPAN = """
SELECT tenant_id, toUnixTimestamp64Micro(min(ledger_time)) AS first_us,
    toUnixTimestamp64Micro(max(ledger_time)) AS last_us
FROM agentledger.ledger WHERE run_id = {run_id:String}
GROUP BY tenant_id HAVING countIf({tenant_id:String} = '' OR tenant_id = {tenant_id:String}) > 0 LIMIT 2"""
_IN_SPAN = (
    "tenant_id = {tenant_id:String} AND run_id = {run_id:String}"
    " AND ledger_time >= fromUnixTimestamp64Micro({first_us:Int64}, 'UTC')"
    " AND ledger_time <= fromUnixTimestamp64Micro({last_us:Int64}, 'UTC')"
)
_EVENTS = (
    f"SELECT {', '.join(COLUMNS)} FROM agentledger.ledger WHERE {_IN_SPAN}"
    f" AND occurrence = 'first' AND event_type != ''"
    f" ORDER BY ledger_time, log_index LIMIT {EVENTS_MAX + 1}"
)
_FIND = "SELECT tenant_id, run_id FROM agentledger.runs WHERE"
_LATEST_FIRST = f"ORDER BY first_ledger_time DESC, run_id LIMIT {NEAR_RUNS_MAX}"


@dataclass(frozen=True)
class Trail:
    """One run: its row of the view `runs`, its events (columns of the ledger), and whether some were left out."""

    run: Row
    events: list[dict[str, Any]]
    cut: bool = False


def read_trail(client: Client, run_id: str, tenant_id: str | None = None) -> Trail:
    """The run with this id, or the only one whose id begins so. Raises UsageError where there is none or several."""
    trail = _with_id(client, run_id, tenant_id or "")
    if trail is None:
        tenant, found = _find(client, run_id, tenant_id)
        trail = _with_id(client, found, tenant)
    if trail is None:
        raise UsageError(f"the run {run_id} was taken away while it was read", next_step="ask again")
    return trail


def _with_id(client: Client, run_id: str, tenant_id: str) -> Trail | None:
    """The run of exactly this id, of one tenant or of any; None where there is none, or several tenants have one."""
    wanted = {"run_id": run_id, "tenant_id": tenant_id}
    spans = query(client, _SPAN, parameters=wanted, settings=OF_ONE_RUN).records()
    if len(spans) != 1:
        return None
    ask = partial(query, client, parameters={**wanted, **spans[0]}, settings=OF_ONE_RUN)
    with ThreadPoolExecutor(1, "trail") as other:  # at the same time
        asked = other.submit(ask, _EVENTS)
        runs = ask(f"{runs_where(_IN_SPAN)} LIMIT 1").records()
        events = asked.result().records()
    return Trail(runs[0], events[:EVENTS_MAX], cut=len(events) > EVENTS_MAX) if runs else None


def revealed(trail: Trail, keys: SubjectKeys) -> Trail:
    """The trail with sealed personal fields opened: those of erased subjects say so, those without a key store stay
    sealed."""

    def opened(row: Row) -> dict[str, Any]:
        return {name: _revealed(value, keys) if isinstance(value, str) else value for name, value in row.items()}

    return Trail(opened(trail.run), [opened(row) for row in trail.events], trail.cut)


def _revealed(text: str, keys: SubjectKeys) -> str:
    if "{sealed:" not in text:
        return text
    # Imported here: a trail without personal fields needs no cryptography.
    from agentledger.schemas.personal import reveal  # noqa: PLC0415

    return reveal(text, keys.key_of)


def _find(client: Client, run_id: str, tenant_id: str | None) -> tuple[str, str]:
    """The tenant and the full id of the run that is meant."""
    exact = _runs(client, "run_id = {run_id:String}", run_id, tenant_id)
    near = exact or _runs(client, "startsWith(run_id, {run_id:String})", run_id, tenant_id)
    if len(near) == 1:
        return near[0]
    if exact:
        tenants = ", ".join(sorted(tenant for tenant, _ in exact))
        raise UsageError(f"several tenants have a run {run_id}", next_step=f"name one with --tenant: {tenants}")
    if near:
        ids = ", ".join(found for _, found in near)
        raise UsageError(f"several runs begin with {run_id}", next_step=f"give more of the id, such as {ids}")
    latest = ", ".join(found for _, found in _runs(client, "true", run_id, tenant_id))
    raise UsageError(
        f"no run has the id {run_id}", next_step=f"the latest are {latest}" if latest else "no run is recorded yet"
    )


def _runs(client: Client, condition: str, run_id: str, tenant_id: str | None) -> list[tuple[str, str]]:
    """Tenant and id of the latest runs under a condition of ours, at most NEAR_RUNS_MAX."""
    tenant = " AND tenant_id = {tenant_id:String}" if tenant_id else ""
    parameters = {"run_id": run_id, "tenant_id": tenant_id or ""}
    found = query(
        client, f"{_FIND} {condition}{tenant} {_LATEST_FIRST}", parameters=parameters, settings=BY_RUN_ID
    ).rows
    return [(str(row[0]), str(row[1])) for row in found]


def is_conclusion(row: Row) -> bool:
    """True for what a processor, the writer or the signer concluded, false for what an agent recorded."""
    if row["event_type"] in {"ApprovalDecided", "ApprovalRequested"}:  # of a budget: see `derived_topic_of`
        return str(row["producer_id"]).startswith(("holds:", "scopes:"))
    return row["event_type"] == "ConflictDetected" or topic_of(row["event_type"]) is not EVENTS


def in_order(events: Sequence[Row]) -> list[tuple[Row, int]]:
    """Events as they are read, each with its depth: 0, or one more than what it follows from.

    The order is the ledger's, but the events of one producer fill their places in the order of its steps, as a retried
    delivery may have brought them late. Conclusions stand right after the event that they follow from.
    """
    known = {str(row["event_id"]) for row in events}
    followers: dict[str, list[Row]] = defaultdict(list)
    facts = []
    for row in events:
        trigger = _trigger(row) if is_conclusion(row) else ""
        if trigger in known and trigger != str(row["event_id"]):
            followers[trigger].append(row)
        else:
            facts.append(row)
    depths: dict[str, int] = {}
    placed: list[tuple[Row, int]] = []
    for fact in _by_step(facts):
        above = depths.get(str(fact["parent_event_id"]), -1) if fact["event_type"] not in UNNESTED else -1
        waiting = [(fact, above + 1)]
        while waiting:  # not by recursion: a chain of conclusions may be long
            row, depth = waiting.pop()
            event_id = str(row["event_id"])
            depths[event_id] = min(depth, DEPTH_MAX)
            placed.append((row, depths[event_id]))
            below = depth + (row["event_type"] != "CostRated")  # a charge is part of its call's line
            waiting.extend((follower, below) for follower in reversed(followers.pop(event_id, [])))
    placed.extend((row, 0) for rows in followers.values() for row in rows)  # those that follow from each other
    return placed


def _by_step(events: list[Row]) -> list[Row]:
    """Each producer's places stay its places; within them its steps count."""
    mine: dict[str, list[Row]] = defaultdict(list)
    for row in events:
        mine[row["producer_id"]].append(row)
    # An outcome comes when it comes: its step says nothing.
    ordered = {
        producer: iter(sorted(rows, key=lambda row: (row["event_type"] == "OutcomeRecorded", row["step"])))
        for producer, rows in mine.items()
    }
    return [next(ordered[row["producer_id"]]) for row in events]


def _trigger(row: Row) -> str:
    """What a conclusion follows from: the event it names, or the last of those it names; empty where it names none."""
    if row["event_type"] == "CostRated":
        return str(row["rated_event_id"])
    last = row["trigger_event_ids"][-1] if row["trigger_event_ids"] else None
    return str(row["trigger_event_id"] or last or row["parent_event_id"] or "")


def repeated_ids(events: Iterable[Row]) -> set[str]:
    """Ids of the tool calls that an earlier one equals in tool, arguments and requestor."""
    seen: set[tuple[str, str, str]] = set()
    repeated = set()
    for row in events:
        if row["event_type"] == "ToolCallCompleted" and row["arguments_digest"]:
            call = (row["tool"], row["arguments_digest"], row["requestor"] or "assistant")
            if call in seen:
                repeated.add(str(row["event_id"]))
            seen.add(call)
    return repeated
