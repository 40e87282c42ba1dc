"""The typed events. Written from `avro/*.avsc` by `make events`: edit those, not this.

Times are microseconds since 1970 (UTC), money is nano-dollars, ids are canonical lower-case text. What each field means
stands in its schema; `agentledger schemas show NAME` prints it. Events are plain records: treat them as read-only.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Event:
    """The envelope: first in every record."""

    event_id: str
    tenant_id: str
    producer_id: str
    producer_seq: int
    run_id: str
    step: int = 0
    parent_event_id: str | None = None
    trace_id: str = ""
    span_id: str = ""
    agent_id: str = ""
    agent_version: str = ""
    workflow: str = ""
    environment: str = ""
    actor: str = ""
    occurred_at: int
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class AlertAcknowledged(Event):
    """A person has taken an alert on."""

    alert_id: str
    dedup_key: str = ""
    acknowledged_by: str = ""
    reason: str = ""
    via: str = ""


@dataclass(slots=True, kw_only=True)
class AlertDelivered(Event):
    """What became of one attempt to tell a channel of alerts."""

    channel: str = ""
    kind: str = ""
    action: str = ""
    status: str = ""
    dedup_key: str = ""
    covered_alert_ids: list[str] = field(default_factory=list)
    covered_alerts: int = 0
    attempt: int = 1
    http_status: int | None = None
    error_type: str = ""


@dataclass(slots=True, kw_only=True)
class AlertRaised(Event):
    """Something needs a person's attention."""

    alert_id: str
    rule: str = ""
    severity: str = ""
    summary: str = ""
    scope: str = ""
    scope_value: str = ""
    runbook_url: str = ""
    trigger_event_ids: list[str] = field(default_factory=list)
    rule_version: str = ""
    count: int = 1
    observed: float | None = None
    expected: float | None = None
    window_start: int | None = None
    window_end: int | None = None


@dataclass(slots=True, kw_only=True)
class AlertResolved(Event):
    """The condition of an alert no longer holds."""

    alert_id: str
    rule: str = ""
    reason: str = ""
    resolved_by: str = ""


@dataclass(slots=True, kw_only=True)
class AlertUpdated(Event):
    """The condition of a raised alert goes on and has grown."""

    alert_id: str
    rule: str = ""
    severity: str = ""
    summary: str = ""
    count: int = 0
    observed: float | None = None
    expected: float | None = None
    trigger_event_ids: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class ApprovalDecided(Event):
    """A person decided on a proposed change."""

    approval_id: str = ""
    verdict: str = ""
    decided_by: str = ""
    reason: str = ""
    human_ms: int | None = None


@dataclass(slots=True, kw_only=True)
class ApprovalRequested(Event):
    """A person was asked to approve a change."""

    approval_id: str = ""
    action: str = ""
    target: str = ""
    change_digest: str = ""
    change_redacted: str | None = None
    risk_tier: str = ""
    requested_from: str = ""
    expires_at: int | None = None


@dataclass(slots=True, kw_only=True)
class BudgetDeclared(Event):
    """A budget was declared, changed or ended: one limit on one metric. The last by ledger order counts."""

    budget_id: str = ""
    budget_version: int = 0
    scope: str = ""
    scope_value: str = ""
    metric: str = ""
    limit_amount: int = 0
    window: str = ""
    window_ms: int | None = None
    time_zone: str = ""
    thresholds_percent: list[str] = field(default_factory=list)
    on_exceeded: str = ""
    enforcement: str = ""
    when_unreachable: str = ""
    retired: bool = False
    declared_by: str = ""
    reason: str = ""


@dataclass(slots=True, kw_only=True)
class BudgetExceeded(Event):
    """Usage went over the limit of a budget."""

    budget_id: str = ""
    scope: str = ""
    scope_value: str = ""
    metric: str = ""
    limit_amount: int = 0
    used_amount: int = 0
    window_start: int | None = None
    window_end: int | None = None
    trigger_event_id: str | None = None
    on_exceeded: str = ""


@dataclass(slots=True, kw_only=True)
class BudgetHeld(Event):
    """A part of a budget was reserved before a call."""

    budget_id: str = ""
    scope: str = ""
    scope_value: str = ""
    hold_id: str = ""
    metric: str = ""
    amount: int = 0
    held_amount: int = 0
    used_amount: int = 0
    expires_at: int | None = None


@dataclass(slots=True, kw_only=True)
class BudgetReleased(Event):
    """A hold was given back unused."""

    budget_id: str = ""
    scope: str = ""
    scope_value: str = ""
    hold_id: str = ""
    metric: str = ""
    amount: int = 0
    held_amount: int = 0
    used_amount: int = 0
    reason: str = ""


@dataclass(slots=True, kw_only=True)
class BudgetSettled(Event):
    """A hold was replaced by what the call really used."""

    budget_id: str = ""
    scope: str = ""
    scope_value: str = ""
    hold_id: str = ""
    metric: str = ""
    amount: int = 0
    held_amount: int = 0
    used_amount: int = 0


@dataclass(slots=True, kw_only=True)
class BudgetThresholdCrossed(Event):
    """Usage reached a soft threshold of a budget."""

    budget_id: str = ""
    scope: str = ""
    scope_value: str = ""
    metric: str = ""
    limit_amount: int = 0
    used_amount: int = 0
    window_start: int | None = None
    window_end: int | None = None
    trigger_event_id: str | None = None
    threshold_percent: int = 0


@dataclass(slots=True, kw_only=True)
class CheckpointSigned(Event):
    """The signer signed the heads of the logs."""

    origin: str = ""
    tree_size: int = 0
    root_hash: str = ""
    checkpoint: str = ""
    key_id: str = ""


@dataclass(slots=True, kw_only=True)
class ConflictDetected(Event):
    """The same event id came with other content; both are kept, the first counts."""

    conflicting_event_id: str
    first_body_sha256: str = ""
    other_body_sha256: str = ""
    place: str = ""


@dataclass(slots=True, kw_only=True)
class ControlIssued(Event):
    """A command to running agents."""

    command: str = ""
    scope: str = ""
    scope_value: str = ""
    reason: str = ""
    issued_by: str = ""
    expires_at: int | None = None
    on_exceeded: str = ""


@dataclass(slots=True, kw_only=True)
class CostRated(Event):
    """A charge: what one call cost by a named version of a price book."""

    rated_event_id: str
    kind: str = ""
    provider: str = ""
    model: str = ""
    priced: bool = False
    cost_nanousd: int | None = None
    input_cost_nanousd: int | None = None
    output_cost_nanousd: int | None = None
    reported_cost_nanousd: int | None = None
    price_source: str = ""
    price_version: str = ""
    unpriced_reason: str = ""
    cache_read_cost_nanousd: int | None = None
    cache_write_cost_nanousd: int | None = None
    reasoning_cost_nanousd: int | None = None
    service_tier: str = ""


@dataclass(slots=True, kw_only=True)
class EvidenceRetrieved(Event):
    """Sources were read that a later step may rest on."""

    source: str = ""
    query_digest: str = ""
    evidence_ids: list[str] = field(default_factory=list)
    latency_ms: float | None = None


@dataclass(slots=True, kw_only=True)
class GapDetected(Event):
    """Events of a producer are missing from the ledger."""

    gap_producer_id: str = ""
    first_missing_seq: int = 0
    last_missing_seq: int = 0
    reason: str = ""
    detected_by: str = ""


@dataclass(slots=True, kw_only=True)
class HoldDecided(Event):
    """A request for a hold was decided: granted on every scope, or refused on all."""

    hold_id: str = ""
    verdict: str = ""
    reason: str = ""
    budget_id: str = ""
    scope: str = ""
    scope_value: str = ""
    metric: str = ""
    limit_amount: int = 0
    held_amount: int = 0
    used_amount: int = 0
    on_exceeded: str = ""
    expires_at: int | None = None


@dataclass(slots=True, kw_only=True)
class HoldReported(Event):
    """A client reports what becomes of a hold: settled at what was used, released, or renewed during a call."""

    hold_id: str = ""
    action: str = ""
    actual_cost_nanousd: int = 0
    actual_tokens: int = 0
    actual_model_calls: int = 0
    actual_tool_calls: int = 0
    call_event_id: str | None = None
    reason: str = ""
    tool_failures: int = 0


@dataclass(slots=True, kw_only=True)
class HoldRequested(Event):
    """A client asks to reserve a part of every budget that a call falls under, all or none."""

    hold_id: str = ""
    ask_cost_nanousd: int = 0
    ask_tokens: int = 0
    ask_model_calls: int = 0
    ask_tool_calls: int = 0
    ttl_ms: int = 0


@dataclass(slots=True, kw_only=True)
class ModelCallCompleted(Event):
    """One call of a model ended, well or not. Token counts are disjoint: their sum is what was billed."""

    provider: str = ""
    requested_model: str = ""
    answered_model: str = ""
    requestor: str = ""
    service_tier: str = ""
    input_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    latency_ms: float | None = None
    time_to_first_token_ms: float | None = None
    attempt: int = 1
    status: str = ""
    error_type: str = ""
    error_message: str = ""
    finish_reason: str = ""
    reported_cost_nanousd: int | None = None
    response_id: str = ""
    input_digest: str = ""
    input_bytes: int | None = None
    output_digest: str = ""
    output_bytes: int | None = None
    payload_digests: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class OutcomeCosted(Event):
    """The full cost of a run joined with its outcome; stated again, with a higher revision, when either changes."""

    outcome_event_id: str | None = None
    success: bool | None = None
    run_status: str = ""
    revision: int = 1
    cost_nanousd: int | None = None
    reported_cost_nanousd: int | None = None
    model_calls: int = 0
    unpriced_model_calls: int = 0
    tool_calls: int = 0
    tool_errors: int = 0
    model_cost_nanousd: int | None = None
    tool_cost_nanousd: int | None = None
    human_cost_nanousd: int | None = None
    wasted_cost_nanousd: int | None = None
    retry_cost_nanousd: int | None = None
    human_ms: int | None = None
    parent_run_id: str = ""
    prompt_version: str = ""
    policy_version: str = ""


@dataclass(slots=True, kw_only=True)
class OutcomeRecorded(Event):
    """What really came of a run; may come days later and may replace an earlier record."""

    success: bool | None = None
    score: float | None = None
    value_nanousd: int | None = None
    verified_by: str = ""
    reason: str = ""
    replaces_event_id: str | None = None


@dataclass(slots=True, kw_only=True)
class PayloadChunk(Event):
    """A piece of the content of a call, kept for a short time beside the trail, as far as redaction let it through."""

    payload_event_id: str
    part: str = ""
    payload_digest: str = ""
    payload_bytes: int = 0
    chunk: int = 0
    chunks: int = 1
    content: str = ""


@dataclass(slots=True, kw_only=True)
class PolicyDecided(Event):
    """A policy engine decided on something the agent wanted to do."""

    engine: str = ""
    policy: str = ""
    policy_version: str = ""
    rule: str = ""
    verdict: str = ""
    enforced: str = ""
    risk_tier: str = ""
    reason: str = ""
    action: str = ""
    target: str = ""
    input_digest: str = ""
    latency_ms: float | None = None


@dataclass(slots=True, kw_only=True)
class RetentionRecorded(Event):
    """How long something is kept was decided or held, or something was purged or erased."""

    kind: str = ""
    data_class: str = ""
    days: int | None = None
    reason: str = ""
    issued_by: str = ""
    statement: str = ""


@dataclass(slots=True, kw_only=True)
class RunBudgetDeclared(Event):
    """A declared limit counts for each run of its scope from here on: said on each partition of the runs' events."""

    budget_id: str = ""
    budget_version: int = 0
    scope: str = ""
    scope_value: str = ""
    metric: str = ""
    limit_amount: int = 0
    thresholds_percent: list[str] = field(default_factory=list)
    on_exceeded: str = ""
    retired: bool = False
    declared_by: str = ""
    reason: str = ""


@dataclass(slots=True, kw_only=True)
class RunFinished(Event):
    """A run ended."""

    status: str = ""
    reason: str = ""
    duration_ms: int | None = None
    reported_cost_nanousd: int | None = None
    error_type: str = ""
    error_message: str = ""


@dataclass(slots=True, kw_only=True)
class RunStarted(Event):
    """A run began: what was attempted, with which declared budget and which versions."""

    source: str = ""
    task: str = ""
    parent_run_id: str = ""
    budget_cost_nanousd: int | None = None
    budget_tokens: int | None = None
    budget_model_calls: int | None = None
    budget_tool_calls: int | None = None
    budget_wall_clock_ms: int | None = None
    on_budget_exceeded: str = ""
    prompt_version: str = ""
    policy_version: str = ""
    toolset_version: str = ""
    thresholds_percent: list[str] = field(default_factory=list)
    budget_tool_retries: int | None = None


@dataclass(slots=True, kw_only=True)
class StateChanged(Event):
    """Something outside the agent was changed."""

    resource: str = ""
    before_digest: str = ""
    after_digest: str = ""
    before_ref: str = ""
    after_ref: str = ""
    reversible: str = ""
    undo: str = ""
    undoes_event_id: str | None = None
    tool_call_event_id: str | None = None


@dataclass(slots=True, kw_only=True)
class Ticked(Event):
    """Time passed on a partition: what is decided from silence is decided here, and replays the same."""

    interval_ms: int = 0


@dataclass(slots=True, kw_only=True)
class ToolCallCompleted(Event):
    """One call of a tool ended, well or not."""

    tool: str = ""
    tool_version: str = ""
    requestor: str = ""
    call_id: str = ""
    arguments_digest: str = ""
    arguments_bytes: int | None = None
    arguments_redacted: str | None = None
    result_digest: str = ""
    result_bytes: int | None = None
    result_redacted: str | None = None
    effect: str = ""
    target: str = ""
    idempotency_key: str = ""
    dry_run: bool = False
    attempt: int = 1
    status: str = ""
    error_type: str = ""
    error_message: str = ""
    latency_ms: float | None = None
    policy_decision_id: str | None = None
    evidence_ids: list[str] = field(default_factory=list)
    reported_cost_nanousd: int | None = None
    payload_digests: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class ValidationCompleted(Event):
    """A check of an answer or a change ended."""

    rule: str = ""
    result: str = ""
    reason: str = ""
    validated_event_id: str | None = None
    latency_ms: float | None = None


EVENT_TYPES: dict[str, type[Event]] = {
    "AlertAcknowledged": AlertAcknowledged,
    "AlertDelivered": AlertDelivered,
    "AlertRaised": AlertRaised,
    "AlertResolved": AlertResolved,
    "AlertUpdated": AlertUpdated,
    "ApprovalDecided": ApprovalDecided,
    "ApprovalRequested": ApprovalRequested,
    "BudgetDeclared": BudgetDeclared,
    "BudgetExceeded": BudgetExceeded,
    "BudgetHeld": BudgetHeld,
    "BudgetReleased": BudgetReleased,
    "BudgetSettled": BudgetSettled,
    "BudgetThresholdCrossed": BudgetThresholdCrossed,
    "CheckpointSigned": CheckpointSigned,
    "ConflictDetected": ConflictDetected,
    "ControlIssued": ControlIssued,
    "CostRated": CostRated,
    "EvidenceRetrieved": EvidenceRetrieved,
    "GapDetected": GapDetected,
    "HoldDecided": HoldDecided,
    "HoldReported": HoldReported,
    "HoldRequested": HoldRequested,
    "ModelCallCompleted": ModelCallCompleted,
    "OutcomeCosted": OutcomeCosted,
    "OutcomeRecorded": OutcomeRecorded,
    "PayloadChunk": PayloadChunk,
    "PolicyDecided": PolicyDecided,
    "RetentionRecorded": RetentionRecorded,
    "RunBudgetDeclared": RunBudgetDeclared,
    "RunFinished": RunFinished,
    "RunStarted": RunStarted,
    "StateChanged": StateChanged,
    "Ticked": Ticked,
    "ToolCallCompleted": ToolCallCompleted,
    "ValidationCompleted": ValidationCompleted,
}
