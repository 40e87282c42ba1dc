"""What can be said of a run besides its calls: decisions, checks, evidence, approvals, changes and outcomes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from agentledger.producers.bounds import clean_float, clean_texts
from agentledger.producers.calls import Call, ToolCall, enclosing
from agentledger.producers.content import Content
from agentledger.producers.emitter import BLANK_ENVELOPE
from agentledger.producers.envelope import RunEnvelope
from agentledger.producers.event_ids import as_event_id, new_event_id
from agentledger.schemas import events
from agentledger.schemas.errors import MoneyError
from agentledger.schemas.money import usd_to_nanousd

if TYPE_CHECKING:
    from decimal import Decimal

    from agentledger.producers.recorder import Ledger
    from agentledger.producers.redaction import Part
    from agentledger.producers.runs import Run


class RunFacts:
    """Emits facts about one run, whether it is under way or long over. Nothing here raises."""

    def __init__(self, ledger: Ledger, envelope: RunEnvelope) -> None:
        self.ledger = ledger
        self.envelope = envelope
        self.run_id = envelope.run_id
        self.event_id: str | None = None  # of RunStarted, once the run has begun here
        self.span_id = ""
        self.scopes: tuple[tuple[str, str], ...] = ()  # (scope, value) of each budget that its calls fall under
        self.halted_by: tuple[tuple[str, str], ...] = ()  # (scope, value) of each halt that would stop it

    def content(self, value: object, part: Part, name: str) -> Content:
        """Digest and size of a value, and its content as far as redaction lets it through; `name`: of what is called,
        or of the action."""
        return self.ledger.content.describe(value, part, tool=name, actor=self.envelope.actor)

    def digested(self, value: object) -> Content:
        """Digest and size of a value."""
        return self.ledger.content.digest(value, actor=self.envelope.actor)

    def policy_decision(
        self, *, policy: str, verdict: str, rule: str = "", enforced: str = "", engine: str = "",
        policy_version: str = "", risk_tier: str = "", reason: str = "", action: str = "", target: str = "",
        input: object = None, latency_ms: float | None = None,  # noqa: A002 - the record's word
    ) -> str:  # fmt: skip
        """A policy engine decided; the decision's event id, for the `policy_decision_id` of what it is about."""
        digest = "" if input is None else self.digested(input).digest
        return self.add(
            events.PolicyDecided(
                **BLANK_ENVELOPE, engine=engine, policy=policy, policy_version=policy_version, rule=rule,
                verdict=verdict, enforced=enforced, risk_tier=risk_tier, reason=reason, action=action, target=target,
                input_digest=digest, latency_ms=latency_ms,
            )
        )  # fmt: skip

    def validation(
        self, *, rule: str, result: str, reason: str = "", validated_event_id: str | None = None,
        latency_ms: float | None = None,
    ) -> str:  # fmt: skip
        """A check of an answer or a change ended: pass, fail or error; its event id."""
        return self.add(
            events.ValidationCompleted(
                **BLANK_ENVELOPE, rule=rule, result=result, reason=reason, latency_ms=latency_ms,
                validated_event_id=self._event_ref("validated_event_id", validated_event_id),
            )
        )  # fmt: skip

    def evidence(
        self, *, source: str, evidence_ids: Iterable[str] = (), query: object = None, latency_ms: float | None = None
    ) -> str:
        """Sources were read that a later step may rest on; its event id. The query is kept as its digest."""
        return self.add(
            events.EvidenceRetrieved(
                **BLANK_ENVELOPE, source=source, query_digest="" if query is None else self.digested(query).digest,
                evidence_ids=clean_texts(evidence_ids), latency_ms=latency_ms,
            )
        )  # fmt: skip

    def approval_requested(
        self, *, approval_id: str, action: str, target: str = "", change: object = None, risk_tier: str = "",
        requested_from: str = "", expires_at: int | None = None,
    ) -> str:  # fmt: skip
        """A person was asked to approve a change; its event id. `expires_at` is in microseconds since 1970."""
        content = None if change is None else self.content(change, "change", action)
        return self.add(
            events.ApprovalRequested(
                **BLANK_ENVELOPE, approval_id=approval_id, action=action, target=target, risk_tier=risk_tier,
                change_digest=content.digest if content else "", change_redacted=content.kept if content else None,
                requested_from=requested_from, expires_at=expires_at,
            )
        )  # fmt: skip

    def approval_decided(
        self, *, approval_id: str, verdict: str, decided_by: str = "", reason: str = "", human_ms: int | None = None
    ) -> str:
        """A person decided: approved, rejected or expired; its event id.

        `human_ms` is the time that it took the person: part of the run's cost where the price file has a rate.
        """
        return self.add(
            events.ApprovalDecided(
                **BLANK_ENVELOPE, approval_id=approval_id, verdict=verdict, decided_by=decided_by, reason=reason,
                human_ms=human_ms,
            )
        )  # fmt: skip

    def state_changed(
        self, *, resource: str, before: object = None, after: object = None, before_ref: str = "", after_ref: str = "",
        reversible: str = "unknown", undo: str = "", undoes_event_id: str | None = None,
        tool_call_event_id: str | None = None,
    ) -> str:  # fmt: skip
        """Something outside the agent was changed; its event id. Before and after are kept as digests.

        Inside a tool call that call made the change, unless `tool_call_event_id` names another.
        """
        innermost = enclosing.get()
        if tool_call_event_id is None and isinstance(innermost, ToolCall) and innermost.run is self:
            tool_call_event_id = innermost.event_id
        return self.add(
            events.StateChanged(
                **BLANK_ENVELOPE, resource=resource, before_ref=before_ref, after_ref=after_ref,
                before_digest="" if before is None else self.digested(before).digest,
                after_digest="" if after is None else self.digested(after).digest,
                reversible=reversible, undo=undo,
                undoes_event_id=self._event_ref("undoes_event_id", undoes_event_id),
                tool_call_event_id=self._event_ref("tool_call_event_id", tool_call_event_id),
            )
        )  # fmt: skip

    def outcome(
        self, *, success: bool | None, verified_by: str = "", value_usd: Decimal | float | str | None = None,
        score: float | None = None, reason: str = "", replaces_event_id: str | None = None,
    ) -> str:  # fmt: skip
        """What really came of the run, as somebody has checked it; its event id."""
        value_nanousd = None
        if value_usd is not None:
            try:
                value_nanousd = usd_to_nanousd(value_usd)
            except MoneyError as error:
                self.ledger.tell("invalid_value", str(error))
        return self.add(
            events.OutcomeRecorded(
                **BLANK_ENVELOPE, success=None if success is None else bool(success), score=clean_float(score),
                value_nanousd=value_nanousd, verified_by=verified_by, reason=reason,
                replaces_event_id=self._event_ref("replaces_event_id", replaces_event_id),
            )
        )  # fmt: skip

    def add(self, body: events.Event) -> str:
        """Emit an event of this run whose envelope is still blank, now; its event id. Never raises."""
        now_us = self.ledger.clock()
        event_id = new_event_id(now_us)
        innermost = enclosing.get()
        inside = innermost if innermost is not None and self._is_mine(innermost) else self
        self._emit(body, event_id, inside.event_id, inside.span_id, now_us)
        return event_id

    def _is_mine(self, innermost: Run | Call) -> bool:
        return innermost is self or (isinstance(innermost, Call) and innermost.run is self)

    def _emit(
        self, body: events.Event, event_id: str, parent_event_id: str | None, span_id: str, occurred_at: int
    ) -> None:
        emitter = self.ledger.emitter
        kind = emitter.kinds[type(body).__name__]
        emitter.emit(kind, self.envelope, body, event_id, parent_event_id, span_id, occurred_at)

    def _event_ref(self, name: str, value: object) -> str | None:
        """An event id that the caller hands back; one that is none is told about and left out."""
        if value is None:
            return None
        event_id = as_event_id(value)
        if event_id is None:
            self.ledger.tell("invalid_event_id", f"{name}={value!r} is not an event id")
        return event_id
