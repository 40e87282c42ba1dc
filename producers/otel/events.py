"""Spans that arrive over the network to events: one run per trace, the same span the same event however often it comes.

OTLP numbers nothing, so nobody counts these events: what an exporter dropped can't be told from what never was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentledger.producers.bounds import clean_run_id
from agentledger.producers.content import digest_words
from agentledger.producers.json_values import as_text, short_text
from agentledger.producers.otel import names
from agentledger.producers.otel.memory import Memory, TraceMemory
from agentledger.producers.otel.reading import BadSpan, Draft, read_spans, service_of
from agentledger.producers.otel.roles import first_of, role_of
from agentledger.producers.otel.spans import Span
from agentledger.schemas.events import Event, RunStarted
from agentledger.schemas.identity import UNCOUNTED

SOURCE = "otlp"
FIELD_CHARS_MAX = 1000  # names and digests are far shorter; content never goes into an event
UNNAMED_AGENT = "opentelemetry"


@dataclass
class SpanEvents:
    """What some spans gave: the events, how many spans have one, and the spans that were refused."""

    events: list[Event] = field(default_factory=list)
    told: int = 0
    bad: list[BadSpan] = field(default_factory=list)


class SpanReader:
    """Makes events of spans, of all tenants and traces; remembers as much of them as it needs. Safe for threads.

    Of the texts of errors size and digest are kept; with `keep_error_texts` their first 300 characters.
    """

    def __init__(self, memory: Memory | None = None, *, keep_error_texts: bool = False) -> None:
        self._memory = Memory() if memory is None else memory
        self._words: Callable[[str], str] = short_text if keep_error_texts else digest_words
        self._lock = threading.Lock()

    def read(self, tenant_id: str, spans: Iterable[Span]) -> SpanEvents:
        """The events of these spans, trace by trace, each run's in order."""
        by_trace: dict[str, list[Span]] = {}
        for span in spans:
            by_trace.setdefault(span.trace_id, []).append(span)
        found = SpanEvents()
        with self._lock:
            for trace_id, batch in by_trace.items():
                trace = self._memory.trace(tenant_id, trace_id)
                before = len(trace.spans)
                reading = read_spans(batch, trace, root_of(batch, trace), words=self._words)
                self._memory.grow(len(trace.spans) - before)
                found.events += [_event(draft, trace) for draft in reading.drafts]
                found.told += len({(draft.span.span_id, draft.span.copy) for draft in reading.drafts})
                found.bad += reading.bad
        return found


def root_of(spans: Sequence[Span], trace: TraceMemory) -> Span | None:
    """The span that the run begins and ends with, if it is among these.

    It is the one without a parent, the first of several; until that has come, an agent's whose caller is of another
    process.
    """
    if trace.root_id:
        known = next((span for span in spans if span.span_id == trace.root_id), None)
        if known is not None or trace.has_whole_root:
            return known
    found = next((span for span in spans if not span.parent_id), None)
    trace.has_whole_root = found is not None
    if found is None and not trace.root_id:
        found = next((span for span in spans if span.parent_is_remote and role_of(span) == names.AGENT), None)
    if found is not None:
        trace.root_id = found.span_id
    return found


def run_id_of(span: Span) -> str:
    """The run that a span belongs to: as its attribute or its resource says, else its trace."""
    named = as_text(first_of(span.attributes, names.RUN_ID)) or as_text(first_of(span.resource, names.RUN_ID))
    return clean_run_id(named or span.trace_id)


def _event(draft: Draft, trace: TraceMemory) -> Event:
    span = draft.span
    agent_id = draft.agent_id or trace.service or UNNAMED_AGENT
    labels = {"convention": trace.convention, **draft.labels}
    fields = {name: _bounded(value) for name, value in draft.fields.items()}
    if draft.kind is RunStarted:
        fields["source"] = SOURCE
    return draft.kind(
        event_id=draft.event_id,
        tenant_id=trace.tenant_id,
        producer_id=short_text(f"{SOURCE}:{service_of(span) or UNNAMED_AGENT}", FIELD_CHARS_MAX),
        producer_seq=UNCOUNTED,
        run_id=run_id_of(span),
        step=draft.step,
        parent_event_id=draft.parent_event_id,
        trace_id=span.trace_id,
        span_id=span.span_id,
        agent_id=short_text(agent_id, FIELD_CHARS_MAX),
        agent_version=short_text(trace.agent_version, FIELD_CHARS_MAX),
        workflow=short_text(trace.workflow or agent_id, FIELD_CHARS_MAX),
        environment=short_text(as_text(first_of(span.resource, names.ENVIRONMENT)), FIELD_CHARS_MAX),
        occurred_at=draft.occurred_at_us,
        labels={name: short_text(value) for name, value in labels.items()},
        **fields,
    )


def _bounded(value: Any) -> Any:
    return short_text(value, FIELD_CHARS_MAX) if isinstance(value, str) and len(value) > FIELD_CHARS_MAX else value
