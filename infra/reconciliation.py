"""Reconciliation, all the time: compares what is in the ledger and raises an alert for the first nano-dollar of drift.

It reads ClickHouse and not the topics: there holds, charges and sums meet, of all partitions, as they were written and
not as a fold believes that it wrote them. So what it finds is also what a fold, the writer or a view did wrong.

One alert per tenant and check: raised with the first drift, updated at 10, 100, 1000 …, resolved when none is left.
What is open is read from the ledger too, so a restart raises nothing twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Producer

from agentledger.infra.budget_commands import all_declared
from agentledger.infra.reconcile_metrics import ReconcileMetrics
from agentledger.processors.budget_windows import SLIDING_BUCKETS, bucket_us, window_of
from agentledger.processors.budgets import amount_text
from agentledger.schemas import Codec
from agentledger.schemas.errors import AgentledgerError, BrokerError, ConfigurationError
from agentledger.schemas.events import AlertRaised, AlertResolved, AlertUpdated, BudgetDeclared, Event
from agentledger.schemas.identity import content_id
from agentledger.schemas.ready import say_ready
from agentledger.schemas.topics import ALERTS
from agentledger.sinks.queries import query
from agentledger.sinks.reconcile import AccountWindow, CheckResult, reconcile

RULE = "reconciliation_drift"
SETTLE_S = 30  # what is younger may be in the ledger in part: topics are written one after the other
PASS_S = 15.0
RANGE_S = 3600  # of calls and runs, in each pass: every call is compared some 240 times before it is left behind
DELIVERY_S_MAX = 10.0
FAILURES_MAX = 20  # passes in a row that fail, some five minutes: after that the supervisor should know

Connect = Callable[[], Any]
log = logging.getLogger(__name__)

_OPEN = """
SELECT tenant_id, toString(alert_id) AS alert, argMax(event_type, at) AS last,
    countIf(event_type = 'AlertRaised') AS raised, argMaxIf(count, at, event_type != 'AlertResolved') AS said,
    max(producer_seq) AS seq
FROM (
    SELECT tenant_id, alert_id, event_type, count, producer_seq, (ledger_time, log_index) AS at
    FROM agentledger.ledger
    WHERE event_type IN ('AlertRaised', 'AlertUpdated', 'AlertResolved') AND occurrence = 'first'
        AND rule = {rule:String}
)
GROUP BY tenant_id, alert"""


@dataclass(frozen=True)
class OpenAlert:
    """What the ledger says of one alert: its last record, how often it was raised, and the count said last."""

    last: str
    raised: int
    count: int

    @property
    def is_open(self) -> bool:
        """Whether it was raised and not resolved since."""
        return self.last != "AlertResolved"


def run_passes(
    connect: Connect, kafka: Mapping[str, Any], stop: threading.Event, codec: Codec,
    metrics: ReconcileMetrics | None = None,
) -> None:  # fmt: skip
    """Compare and alert until `stop`. A pass that fails is tried again with the next; FAILURES_MAX in a row end it."""
    metrics = metrics or ReconcileMetrics()
    client, failures, is_said = None, 0, False
    while not stop.is_set():
        try:
            client = client or connect()
            results = one_pass(client, codec, now_us=time.time_ns() // 1000, range_s=RANGE_S)
            events = alerts_due(results, *alerts_said(client))
            publish(kafka, codec, events)
            failures = 0
            metrics.note_pass(results)
            for event in events:
                log.warning("%s: %s", type(event).__name__, getattr(event, "summary", RULE))
        except AgentledgerError as error:
            client, failures = None, failures + 1
            metrics.count_failure()
            log.warning("could not compare (%d in a row): %s", failures, error)
            if failures >= FAILURES_MAX:
                raise
        if not is_said and not failures:
            say_ready()
            is_said = True
        stop.wait(PASS_S)


def one_pass(
    client: Any, codec: Codec, *, now_us: int, range_s: int, checks: Sequence[str] | None = None
) -> list[CheckResult]:
    """Compare what was said in the last `range_s` seconds. Raises StoreError."""
    to_us = now_us - SETTLE_S * 1_000_000
    named = {} if checks is None else {"checks": checks}
    windows = account_windows(all_declared(client, codec), to_us)
    return reconcile(client, from_us=to_us - range_s * 1_000_000, to_us=to_us, windows=windows, **named)


def account_windows(declared: Iterable[tuple[int, BudgetDeclared]], now_us: int) -> list[AccountWindow]:
    """What counts now of each held limit; `declared` are (ledger time in microseconds, event) in ledger order."""
    last: dict[tuple[str, str, str], BudgetDeclared] = {}
    shaped_us: dict[tuple[str, str, str], int] = {}
    for at_us, event in declared:
        key = event.tenant_id, event.budget_id, event.metric
        known = last.get(key)
        if known is not None and _shape(known) != _shape(event):
            shaped_us[key] = at_us  # its accounts began anew
        last[key] = event
    found = []
    for key, event in sorted(last.items()):
        if event.enforcement != "hold":
            continue
        try:
            start_us, _ = window_of(event.window, now_us, time_zone=event.time_zone, window_ms=event.window_ms)
        except ConfigurationError:
            continue
        began_us = shaped_us.get(key, 0)
        slides = (bucket_us(event.window_ms), SLIDING_BUCKETS) if event.window_ms else (1, 0)
        found.append(AccountWindow(*key, max(start_us or 0, began_us), began_us, *slides, event.window == "run"))
    return found


def _shape(event: BudgetDeclared) -> tuple[Any, ...]:
    return event.window, event.window_ms, event.time_zone


def alerts_said(client: Any) -> tuple[dict[str, OpenAlert], dict[str, int]]:
    """Every alert of this rule by its id, and per tenant the next number of our producer. Raises StoreError."""
    alerts: dict[str, OpenAlert] = {}
    next_seqs: dict[str, int] = {}
    for tenant_id, alert_id, last, raised, count, seq in query(client, _OPEN, parameters={"rule": RULE}).rows:
        alerts[alert_id] = OpenAlert(last, int(raised), int(count))
        next_seqs[tenant_id] = max(next_seqs.get(tenant_id, 0), int(seq) + 1)
    return alerts, next_seqs


def alerts_due(
    results: Iterable[CheckResult], said: Mapping[str, OpenAlert], next_seqs: Mapping[str, int]
) -> list[Event]:
    """What has to be said, given what was said before. Pure."""
    seqs = dict(next_seqs)
    due: list[Event] = []
    for result in results:
        alert_id = content_id(0, RULE, result.tenant_id, result.check)
        known = said.get(alert_id)
        is_open = known is not None and known.is_open
        raised = known.raised if known is not None else 0
        envelope: dict[str, Any] = {
            "tenant_id": result.tenant_id,
            "producer_id": f"reconcile:{result.tenant_id}",
            "producer_seq": seqs.get(result.tenant_id, 0),
            "run_id": f"reconcile:{result.check}",
            "alert_id": alert_id,
            "rule": RULE,
        }
        event: Event | None = None
        if result.drifts and not is_open:
            event = AlertRaised(
                **envelope, **_ids(result, alert_id, "raised", raised + 1), **_said(result), scope="tenant",
                scope_value=result.tenant_id, runbook_url="infra/docs/BUDGETS.md#drift",
            )  # fmt: skip
        elif result.drifts and known is not None and len(str(result.drifts)) > len(str(known.count)):
            event = AlertUpdated(**envelope, **_ids(result, alert_id, "updated", result.drifts), **_said(result))
        elif not result.drifts and is_open:
            ids = _ids(result, alert_id, "resolved", raised)
            reason = "the sums agree" if result.check.endswith("adds_up") else "nothing said lately differs"
            event = AlertResolved(**envelope, **ids, reason=reason, resolved_by=RULE)
        if event is not None:
            seqs[result.tenant_id] = event.producer_seq + 1
            due.append(event)
    return due


def _ids(result: CheckResult, alert_id: str, what: str, number: int) -> dict[str, Any]:
    """The same alert, said for the same reason, has the same id whoever says it."""
    at_us = result.last_us
    return {"event_id": content_id(at_us, RULE, alert_id, what, str(number)), "occurred_at": at_us}


def _said(result: CheckResult) -> dict[str, Any]:
    first = result.examples[0]
    apart = result.found - result.expected
    unit = "nano-dollars" if "charged" in result.check else "units"
    summary = (
        f"{result.check}: {result.drifts} of {result.compared:,} differ, {apart:+,} {unit} in all; "
        f"{first.subject[:200]}: {first.found:,} where {first.expected:,} is expected"
    )
    return {
        "severity": "critical",
        "summary": summary,
        "count": result.drifts,
        "observed": float(result.found),
        "expected": float(result.expected),
        "trigger_event_ids": [event_id for drift in result.examples for event_id in drift.event_ids],
    }


def publish(kafka: Mapping[str, Any], codec: Codec, events: Sequence[Event]) -> None:
    """Send alerts and wait until the broker has them. Raises BrokerError."""
    if not events:
        return
    producer = Producer({"acks": "all", "enable.idempotence": True, "log_level": 0, **kafka})
    failures: list[str] = []
    for event in events:
        producer.produce(
            ALERTS.name,
            codec.encode(event),
            event.tenant_id.encode(),
            on_delivery=lambda error, _: failures.append(error.str()) if error is not None else None,
        )
    if producer.flush(DELIVERY_S_MAX) or failures:
        raise BrokerError(f"an alert was not sent: {failures[0] if failures else 'no answer from the broker'}")


def total_text(result: CheckResult) -> tuple[str, str]:
    """Expected and found of a check, for people."""
    metric = "cost_nanousd" if "charged" in result.check else ""
    if metric:
        return amount_text(metric, result.expected), amount_text(metric, result.found)
    return f"{result.expected:,}", f"{result.found:,}"
