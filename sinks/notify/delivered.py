"""That a channel was told, or could not be, is an event of the ledger."""

from __future__ import annotations

from agentledger.schemas import content_id
from agentledger.schemas.events import AlertDelivered
from agentledger.sinks.notify.incidents import Delivery, Incident, Outcome, Status


def delivered_event(
    incident: Incident, delivery: Delivery, attempt: int, outcome: Outcome, status: Status, *, kind: str,
    producer_id: str, producer_seq: int, now_us: int,
) -> AlertDelivered:  # fmt: skip
    """The event of one attempt."""
    return AlertDelivered(
        event_id=content_id(now_us, "AlertDelivered", delivery.delivery_id, str(attempt), status),
        tenant_id=incident.shown.tenant_id,
        producer_id=producer_id,
        producer_seq=producer_seq,
        run_id="",  # what was done about a run is nothing that its agent did
        workflow=incident.shown.workflow,
        occurred_at=now_us,
        channel=delivery.channel,
        kind=kind,
        action=delivery.action,
        status=status,
        dedup_key=incident.dedup_key,
        covered_alert_ids=list(incident.sample),
        covered_alerts=incident.alerts,
        attempt=attempt,
        http_status=outcome.http_status,
        error_type="too_late" if status == "given_up" and outcome.fault in {"busy", "unreachable"} else outcome.fault,
    )
