"""The topics: what travels where, under which key, and how long the broker keeps it."""

from __future__ import annotations

from dataclasses import dataclass

DAY_MS = 86_400_000
EVENT_BYTES_MAX = 1_000_000  # under the broker's default message.max.bytes (1,048,588), with room for batch and headers


@dataclass(frozen=True)
class Topic:
    """One topic. `in_ledger`: the writer keeps it in the trail. `key` says what keeps its order."""

    name: str
    key: str
    in_ledger: bool
    compacted: bool = False
    retention_ms: int = 7 * DAY_MS  # the trail is in ClickHouse; a week is for catching up after an outage
    bytes_max: int = 1_048_588
    compression: str = "producer"  # as the broker keeps it: by default as it came


EVENTS = Topic("agentledger.events.v1", key="run_id", in_ledger=True)
SPEND = Topic("agentledger.spend.v1", key="run_id", in_ledger=True)
BUDGETS = Topic("agentledger.budgets.v1", key="run_id; tenant_id for what was decided on holds", in_ledger=True)
ALERTS = Topic("agentledger.alerts.v1", key="run_id", in_ledger=True)
# What decides on holds reads this topic itself, with a client that knows neither lz4 nor zstd; whatever other clients
# send, the broker keeps it plain.
HOLDS = Topic("agentledger.holds.v1", key="tenant_id", in_ledger=True, compression="uncompressed")
CONTROL = Topic("agentledger.control.v1", key="scope", in_ledger=True, compacted=True)
INTEGRITY = Topic("agentledger.integrity.v1", key="producer_id", in_ledger=True)
PARTIALS = Topic("agentledger.partials.v1", key="tenant_id", in_ledger=False, retention_ms=DAY_MS)
# Content that somebody asked to keep: no part of the trail, and gone after a short time.
PAYLOADS = Topic("agentledger.payloads.v1", key="event_id", in_ledger=False, retention_ms=3 * DAY_MS)
PACKED = Topic("agentledger.packed.v1", key="source partition", in_ledger=False, retention_ms=DAY_MS)
DEAD_LETTERS = Topic("agentledger.deadletters.v1", key="source position", in_ledger=False, retention_ms=90 * DAY_MS)

ALL_TOPICS = (EVENTS, SPEND, BUDGETS, ALERTS, HOLDS, CONTROL, INTEGRITY, PARTIALS, PACKED, PAYLOADS, DEAD_LETTERS)
LEDGER_TOPICS = tuple(topic for topic in ALL_TOPICS if topic.in_ledger)

_DERIVED = {
    "CostRated": SPEND,
    "OutcomeCosted": SPEND,
    "BudgetDeclared": HOLDS,
    "HoldRequested": HOLDS,
    "HoldReported": HOLDS,
    "HoldDecided": BUDGETS,
    "BudgetHeld": BUDGETS,
    "BudgetSettled": BUDGETS,
    "BudgetReleased": BUDGETS,
    "BudgetThresholdCrossed": BUDGETS,
    "BudgetExceeded": BUDGETS,
    "AlertRaised": ALERTS,
    "AlertUpdated": ALERTS,
    "AlertResolved": ALERTS,
    "AlertAcknowledged": ALERTS,
    "AlertDelivered": INTEGRITY,
    "ControlIssued": CONTROL,
    "CheckpointSigned": INTEGRITY,
    "GapDetected": INTEGRITY,
    "PayloadChunk": PAYLOADS,
    "RetentionRecorded": INTEGRITY,
}


def derived_topic_of(record_name: str) -> Topic:
    """Where processors send such records: as `topic_of`, but what they say of approvals is about budgets.

    Among a run's events it would count as something that the agent did.
    """
    return BUDGETS if record_name in {"ApprovalDecided", "ApprovalRequested"} else topic_of(record_name)


def topic_of(record_name: str) -> Topic:
    """Where records of this name go: facts to `events`, conclusions to the topic of their kind."""
    return _DERIVED.get(record_name, EVENTS)
