"""One run: its steps as a waterfall, and of each step, on demand, all that its record holds."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from rich.text import Text
from starlette.responses import JSONResponse, Response

from agentledger.schemas.errors import UsageError
from agentledger.sinks.console.visits import PAGE_TIME_S_MAX, Visit
from agentledger.sinks.event_text import event_text, offset_text, tokens_text, took_text, utc
from agentledger.sinks.queries import Client
from agentledger.sinks.run_trail import Row, Trail, in_order, is_conclusion, read_trail, repeated_ids, revealed
from agentledger.sinks.timeline import CALLS, is_hidden

LINES_MAX = 2_000  # of one page: a browser lays that out at once; the rest stands on the next
VALUE_CHARS_MAX = 200_000  # of one field: above the longest outputs that were recorded
SHORT_CHARS = 400  # a longer value gets a box of its own that scrolls
KINDS = {
    "ModelCallCompleted": "model",
    "ToolCallCompleted": "tool",
    "PolicyDecided": "policy",
    "ApprovalRequested": "person",
    "ApprovalDecided": "person",
    "EvidenceRetrieved": "evidence",
    "OutcomeRecorded": "outcome",
}
_EVENT = """
SELECT * EXCEPT (raw, key, headers, batch_time, key_sha256, headers_sha256, schema_sha256, value_sha256, leaf_hash),
    lower(hex(value_sha256)) AS value_sha256, lower(hex(leaf_hash)) AS leaf_hash
FROM agentledger.ledger
WHERE tenant_id = {tenant_id:String} AND run_id = {run_id:String} AND event_id = {event_id:UUID}
    AND occurrence = 'first' LIMIT 1"""
_FOLLOWED = """
SELECT event_id, event_type, summary, rule FROM agentledger.ledger
WHERE tenant_id = {tenant_id:String} AND run_id = {run_id:String} AND policy_decision_id = {event_id:UUID}
    AND occurrence = 'first' LIMIT 20"""


class Step(NamedTuple):
    """One line of the waterfall. Its bar lies between two parts in a thousand of the run's time; None: it has none."""

    event_id: str
    kind: str
    step: str
    depth: int
    offset: str
    text: Text
    tokens: str
    took: str
    cost_nanousd: int | None
    is_reported: bool
    so_far_nanousd: int
    bar: tuple[int, int] | None
    is_repeated: bool


def show_run(visit: Visit) -> Response:
    """The page /run?id=RUN: a unique beginning of the id is enough."""
    trail = _trail(visit)
    steps = steps_of(trail)
    number = min(max(_int(visit.text("page")), 0), len(steps) // LINES_MAX)
    run_id = str(trail.run["run_id"])
    return visit.page(
        "run.html", run=trail.run, steps=steps[number * LINES_MAX : (number + 1) * LINES_MAX], number=number,
        pages=-(-len(steps) // LINES_MAX), total=len(steps), is_cut=trail.cut, kinds=_kinds(steps),
        sql=f"SELECT * FROM agentledger.events WHERE tenant_id = {_quoted(visit.visitor.tenant_id)}"
        f" AND run_id = {_quoted(run_id)} ORDER BY ledger_time, log_index",
    )  # fmt: skip


def show_run_json(visit: Visit) -> Response:
    """The same as JSON: the run, and its events with what each says."""
    trail = _trail(visit)
    events = [{name: value for name, value in row.items() if value not in (None, "", [], {})} for row in trail.events]
    body = {"run": dict(trail.run), "events": events, "is_cut": trail.cut}
    return _Json(body, headers={"Content-Disposition": "inline"})


def show_event(visit: Visit) -> Response:
    """A part of the page: all that one record of a run holds."""
    run_id = visit.text("run")
    try:
        event_id = str(uuid.UUID(visit.text("id")))
    except ValueError:
        raise UsageError("this is no event's id", next_step="open the event from its run") from None
    with visit.recorded("event", run_id=run_id, event_id=event_id) as client:
        found = visit.rows_from(client, _EVENT, run_id=run_id, event_id=event_id)
    if not found:
        raise UsageError("this run has no such event", next_step="it may be another tenant's, or purged")
    row = found[0]
    evidence = ("topic", "partition", "offset", "log_index", "ledger_time", "value_sha256", "leaf_hash", "schema_id")
    left_out = {*evidence, "topic_id", "event_id", "event_type", "occurrence", "poison_reason", "tenant_id", "run_id"}
    fields = {name: _shown(value) for name, value in row.items() if name not in left_out and _is_said(value)}
    followed = visit.rows(_FOLLOWED, run_id=run_id, event_id=event_id) if row["event_type"] == "PolicyDecided" else []
    return visit.page(
        "event.html", row=row, fields=fields, evidence={name: row[name] for name in evidence}, followed=followed,
        short_chars=SHORT_CHARS,
    )  # fmt: skip


def steps_of(trail: Trail) -> list[Step]:
    """The lines of a run, in the order in which they are read."""
    charges = {
        str(row["rated_event_id"]): row["cost_nanousd"] for row in trail.events if row["event_type"] == "CostRated"
    }
    placed = [(row, depth) for row, depth in in_order(trail.events) if not is_hidden(row)]
    repeated = repeated_ids(row for row, _ in placed)
    span = _span(trail)
    so_far, steps = 0, []
    for row, depth in placed:
        event_id = str(row["event_id"])
        charge = charges.get(event_id)
        so_far += charge or 0
        is_repeated = event_id in repeated
        steps.append(
            _step(row, depth, run=trail.run, span=span, charge=charge, so_far_nanousd=so_far, is_repeated=is_repeated)
        )
    return steps


def _step(
    row: Row,
    depth: int,
    *,
    run: Row,
    span: tuple[Any, float],
    charge: int | None,
    so_far_nanousd: int,
    is_repeated: bool,
) -> Step:
    concluded = is_conclusion(row)
    is_call = row["event_type"] in CALLS
    return Step(
        event_id=str(row["event_id"]),
        kind="concluded" if concluded else KINDS.get(row["event_type"], "other"),
        step="" if concluded or row["event_type"] == "OutcomeRecorded" else str(row["step"]),
        depth=depth,
        offset="" if concluded else offset_text(row["occurred_at"], run["started_at"]),
        text=event_text(row),
        tokens=tokens_text(row) if row["event_type"] == "ModelCallCompleted" else "",
        took=took_text(row["latency_ms"]),
        cost_nanousd=charge if charge is not None else row["reported_cost_nanousd"] if is_call else None,
        is_reported=charge is None and is_call and row["reported_cost_nanousd"] is not None,
        so_far_nanousd=so_far_nanousd,
        bar=None if concluded else _bar(row, span),
        is_repeated=is_repeated,
    )


def _span(trail: Trail) -> tuple[Any, float]:
    """When the run began, and how long what it tells of lasted, seconds."""
    moments = [utc(row["occurred_at"]) for row in trail.events if not is_conclusion(row)
               and row["event_type"] != "OutcomeRecorded"]  # fmt: skip
    start = min([utc(trail.run["started_at"]), *moments])
    return start, max((max(moments, default=start) - start).total_seconds(), 1e-6)


def _bar(row: Row, span: tuple[Any, float]) -> tuple[int, int]:
    """Where the step lies in the run's time, thousandths: its end is when it was recorded, its length what it took."""
    start, seconds = span
    end = utc(row["occurred_at"])
    began = end - timedelta(milliseconds=min(row["latency_ms"] or 0.0, 1e12))
    first, last = ((moment - start).total_seconds() * 1000 / seconds for moment in (began, end))
    left = min(max(round(first), 0), 996)
    return left, max(min(round(last), 1000) - left, 4)


def _kinds(steps: list[Step]) -> list[tuple[str, int]]:
    counted: dict[str, int] = {}
    for step in steps:
        counted[step.kind] = counted.get(step.kind, 0) + 1
    return sorted(counted.items())


def _trail(visit: Visit) -> Trail:
    run_id = visit.text("id")
    if not run_id:
        raise UsageError("no run was asked for", next_step="choose one from Runs")
    with visit.recorded("run", run_id=run_id) as client:
        trail = read_trail(_PageClient(client), run_id, visit.visitor.tenant_id)
    return revealed(trail, visit.ports.subject_keys) if visit.ports.subject_keys is not None else trail


class _PageClient:
    """A client whose queries end when a page would be given up."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def query(self, query: str, *, parameters: dict[str, Any] | None, settings: dict[str, Any]) -> Any:
        """Run a query, for as long as a page may take."""
        bounded = {**settings, "max_execution_time": PAGE_TIME_S_MAX}
        return self._client.query(query, parameters=parameters, settings=bounded)


class _Json(JSONResponse):
    """JSON with times and ids as text."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return json.dumps(content, default=str, ensure_ascii=False).encode()


def _is_said(value: Any) -> bool:
    return value not in (None, "", [], {}, ()) and not (isinstance(value, int) and value == 0)


def _shown(value: Any) -> str:
    """A field's value as text, JSON laid out, cut at a length that a browser bears."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False, indent=2)
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            text = json.dumps(json.loads(value), ensure_ascii=False, indent=2)
        except ValueError:
            text = value
    if not isinstance(value, str | list | dict | Mapping):
        text = str(value)
    left = len(text) - VALUE_CHARS_MAX
    return text if left <= 0 else f"{text[:VALUE_CHARS_MAX]}… ({left:,} characters more)"


def _quoted(text: str) -> str:
    """A literal for the SQL that a reader copies: ours travels as parameters."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _int(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0
