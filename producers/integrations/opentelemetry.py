"""A span processor for the OpenTelemetry SDK: agents that are traced already are recorded in three lines.

from agentledger.producers import Ledger
from agentledger.producers.integrations.opentelemetry import LedgerSpanProcessor
tracer_provider.add_span_processor(LedgerSpanProcessor(Ledger(agent_id="support-bot")))

A run begins and ends with the topmost span of this process. It watches and can't refuse a call: budgets and halts need
the SDK's own calls.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from agentledger.producers.bounds import clean_run_id
from agentledger.producers.emitter import BLANK_ENVELOPE
from agentledger.producers.envelope import RunEnvelope
from agentledger.producers.otel import (
    Draft,
    Part,
    Span,
    SpanEvent,
    TraceMemory,
    read_spans,
    run_id_of,
    run_started,
)
from agentledger.producers.recorder import Ledger
from agentledger.schemas.errors import MissingLibraryError
from agentledger.schemas.events import RunStarted

try:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
    from opentelemetry.sdk.trace import Span as SdkSpan
except ImportError as error:
    raise MissingLibraryError("opentelemetry-sdk", "opentelemetry") from error

OPEN_SPANS_MAX = 100_000  # spans that never end must not fill the memory: those begun first are let go
ENDED_RUNS_MAX = 1_000  # runs kept for spans that begin after their root has ended
_SpanKey = tuple[int, int]


@dataclass(slots=True)
class _LocalRun:
    """One run of this process: the spans under one topmost span."""

    run_id: str
    parent_run_id: str
    root_id: str
    trace: TraceMemory


class LedgerSpanProcessor(SpanProcessor):
    """Records the runs, model calls and tool calls that a TracerProvider's spans tell of. Never raises, never waits.

    A trace that begins here is a run with the trace's id. What another process called is a run of its own, whose parent
    is the trace's. Spans that sampling leaves out are not recorded. Of content, and of errors' words, which may quote
    it, is kept what the ledger's rules say: by default digest and size. `ledger`: by default one by the
    environment's settings, closed at shutdown.
    """

    def __init__(self, ledger: Ledger | None = None) -> None:
        self.ledger = ledger or Ledger()
        self._owns_ledger = ledger is None
        self._lock = threading.RLock()
        self._open: OrderedDict[_SpanKey, _LocalRun] = OrderedDict()
        self._by_trace: OrderedDict[int, _LocalRun] = OrderedDict()

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None:
        """A span begins: if it is the topmost one of this process, a run does."""
        try:
            with self._lock:
                self._begin(span)
        except Exception as error:  # noqa: BLE001 - a program must not fail because it is watched
            self.ledger.tell("span_not_read", repr(error))

    def on_end(self, span: ReadableSpan) -> None:
        """A span has ended: what it tells of is recorded."""
        try:
            with self._lock:
                self._end(span)
        except Exception as error:  # noqa: BLE001 - as above
            self.ledger.tell("span_not_read", repr(error))

    def shutdown(self) -> None:
        """Deliver what was recorded, within the ledger's bound."""
        if self._owns_ledger:
            self.ledger.close()
        else:
            self.ledger.flush()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until all was delivered; whether it was."""
        return self.ledger.flush(timeout_millis / 1000) == 0

    def _begin(self, sdk_span: SdkSpan) -> None:
        context, parent = sdk_span.get_span_context(), sdk_span.parent
        if context is None:
            return
        key = context.trace_id, context.span_id
        run = None
        if parent is not None and not parent.is_remote:
            run = self._open.get((context.trace_id, parent.span_id)) or self._by_trace.get(context.trace_id)
        if run is not None:
            run.trace.announce(span_of(sdk_span))
        else:
            run = self._begin_run(span_of(sdk_span))
        self._open[key] = self._by_trace[context.trace_id] = run
        self._by_trace.move_to_end(context.trace_id)
        if len(self._open) > OPEN_SPANS_MAX:
            self._open.popitem(last=False)
        if len(self._by_trace) > ENDED_RUNS_MAX:
            self._by_trace.popitem(last=False)

    def _begin_run(self, root: Span) -> _LocalRun:
        run_id, parent_run_id = run_id_of(root), ""
        if root.parent_id and run_id == root.trace_id:
            run_id, parent_run_id = f"{root.trace_id}-{root.span_id}", root.trace_id
        trace = TraceMemory(self.ledger.tenant_id, agent=self.ledger.agent_id)
        run = _LocalRun(clean_run_id(run_id), parent_run_id, root.span_id, trace)
        self._emit(run, [run_started(root, trace)])
        return run

    def _end(self, sdk_span: ReadableSpan) -> None:
        context = sdk_span.get_span_context()
        run = None if context is None else self._open.pop((context.trace_id, context.span_id), None)
        if run is None:
            return
        span = span_of(sdk_span)
        root = span if span.span_id == run.root_id else None
        reading = read_spans(
            [span], run.trace, root, start_is_told=True, describe=self._described, words=self.ledger.content.words
        )
        self._emit(run, reading.drafts)
        for bad in reading.bad:
            self.ledger.tell("span_not_read", f"{bad.span.name}: {bad.reason}")

    def _emit(self, run: _LocalRun, drafts: Iterable[Draft]) -> None:
        emitter = self.ledger.emitter
        for draft in drafts:
            fields = dict(draft.fields)
            if draft.kind is RunStarted:
                fields |= {"source": self.ledger.source, "parent_run_id": run.parent_run_id}
            envelope = self._envelope(run, draft, str(fields.pop("actor", "")))
            emitter.emit(
                emitter.kinds[draft.kind.__name__],
                envelope,
                draft.kind(**BLANK_ENVELOPE, **fields),
                event_id=draft.event_id,
                parent_event_id=draft.parent_event_id,
                span_id=draft.span.span_id,
                occurred_at=draft.occurred_at_us,
            )

    def _described(self, part: Part, value: Any, tool: str) -> dict[str, Any]:
        """What is kept of content, as the ledger's rules say; of a model's messages, digest and size."""
        content = self.ledger.content.describe(value, part, tool=tool, actor=self.ledger.actor)
        fields = {f"{part}_digest": content.digest, f"{part}_bytes": content.size}
        if part in {"arguments", "result"} and content.kept is not None:
            fields[f"{part}_redacted"] = content.kept
        return fields

    def _envelope(self, run: _LocalRun, draft: Draft, actor: str) -> RunEnvelope:
        ledger, trace = self.ledger, run.trace
        agent_id = draft.agent_id or trace.service
        envelope = RunEnvelope(
            run.run_id,
            trace_id=draft.span.trace_id,
            agent_id=agent_id,
            agent_version=ledger.agent_version or trace.agent_version,
            workflow=trace.workflow or agent_id,
            environment=ledger.environment,
            actor=actor or ledger.actor,
            labels=ledger.content.labels({**ledger.labels, "convention": trace.convention, **draft.labels}),
        )
        envelope.next_step = draft.step
        return envelope


def span_of(sdk_span: ReadableSpan) -> Span:
    """The SDK's span, open or ended, as a span of ours."""
    context, parent = sdk_span.get_span_context(), sdk_span.parent
    return Span(
        name=sdk_span.name,
        trace_id=f"{context.trace_id:032x}" if context is not None else "",
        span_id=f"{context.span_id:016x}" if context is not None else "",
        parent_id=f"{parent.span_id:016x}" if parent is not None else "",
        started_us=(sdk_span.start_time or 0) // 1000,
        ended_us=None if sdk_span.end_time is None else sdk_span.end_time // 1000,
        status=sdk_span.status.status_code.name.lower(),
        status_text=sdk_span.status.description or "",
        attributes=_values(sdk_span.attributes),
        resource=_values(sdk_span.resource.attributes),
        kind=sdk_span.kind.name.lower(),
        parent_is_remote=parent is not None and parent.is_remote,
        events=tuple(SpanEvent(event.name, _values(event.attributes)) for event in sdk_span.events),
    )


def _values(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: _value(value) for name, value in (attributes or {}).items()}


def _value(value: Any) -> Any:
    """An attribute as JSON has it; numbers with fractions as decimals, as their shortest digits say them."""
    if isinstance(value, float):
        return Decimal(repr(value)) if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return [_value(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): _value(item) for name, item in value.items()}
    return value if isinstance(value, str | int) else str(value)
