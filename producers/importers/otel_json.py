"""`otel-json`: OpenTelemetry spans as JSON, by any convention that `producers.otel` understands.

A trace is a run. Where spans wrap each other (an agent, a chain, a call), only the innermost call counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentledger.producers.importers.documents import read_document
from agentledger.producers.importers.records import ImportOptions, Item, Rejected, RunBuilder, RunFacts, Unmapped
from agentledger.producers.json_values import as_count, as_dict, as_list, as_text
from agentledger.producers.otel import Reading, Span, SpanEvent, TraceMemory, hex_id, read_spans, service_of
from agentledger.schemas.errors import ImportFormatError
from agentledger.schemas.events import RunStarted

FAMILY = "otel-json"


def read(path: Path, options: ImportOptions) -> Iterator[Item]:
    """The traces of one file. Raises ImportFormatError."""
    return parse(read_document(path), options, str(path))


def parse(document: Any, options: ImportOptions, origin: str) -> Iterator[Item]:
    """The traces of one document `{"spans": […]}`. Raises ImportFormatError where it isn't one."""
    if not isinstance(document, dict) or not isinstance(document.get("spans"), list):
        raise ImportFormatError("not a span document: it has no list `spans`", where=origin)
    traces: dict[str, list[Span]] = {}
    for index, raw in enumerate(document["spans"]):
        try:
            span = read_span(raw)
        except ImportFormatError as error:
            yield Rejected(f"{origin}: spans[{index}]", error.what)
            continue
        traces.setdefault(span.trace_id, []).append(span)
    if not traces:
        yield Unmapped("document without spans", example=origin)
    for spans in traces.values():
        yield from _run_of(spans, options, origin)
    if document.get("final_output") is not None:
        yield Unmapped("final output of a run, which no event has a place for", example=origin)


def read_span(raw: Any) -> Span:
    """One span. Raises ImportFormatError where ids or start are missing."""
    span = as_dict(raw)
    context, parent, status = (as_dict(span.get(name)) for name in ("context", "parent", "status"))
    started, ended = as_count(span.get("start_time")), as_count(span.get("end_time"))
    trace_id, span_id = hex_id(context.get("trace_id"), 32), hex_id(context.get("span_id"), 16)
    if not trace_id or not span_id or started is None:
        raise ImportFormatError("a span lacks its trace id, span id or start time")
    return Span(
        name=as_text(span.get("name")),
        trace_id=trace_id,
        span_id=span_id,
        parent_id=hex_id(parent.get("span_id"), 16),
        started_us=started // 1000,
        ended_us=None if ended is None else ended // 1000,
        status=as_text(status.get("status_code")).lower(),
        status_text=as_text(status.get("description")),
        attributes=as_dict(span.get("attributes")),
        resource=as_dict(as_dict(span.get("resource")).get("attributes")),
        kind=as_text(span.get("kind")).lower(),
        events=tuple(
            SpanEvent(as_text(as_dict(event).get("name")), as_dict(as_dict(event).get("attributes")))
            for event in as_list(span.get("events"))
        ),
    )


def _run_of(spans: list[Span], options: ImportOptions, origin: str) -> Iterator[Item]:
    """The run of one trace, all of whose spans are here; its topmost span is the root, even if its parent is not."""
    known = {span.span_id for span in spans}
    topmost = [span for span in spans if span.parent_id not in known]
    root = min(topmost or spans, key=lambda span: (span.started_us, span.span_id))
    trace = TraceMemory(options.tenant_id)
    reading = read_spans(spans, trace, root)
    agent = trace.agent or service_of(root) or FAMILY
    facts = RunFacts(
        family=FAMILY,
        natural_id=root.trace_id,
        agent_id=agent,
        agent_version=trace.agent_version,
        workflow=trace.workflow or agent,
        trace_id=root.trace_id,
        labels={"convention": trace.convention},
    )
    run = RunBuilder(facts, options)
    _add_events(run, reading, options)
    if reading.bad:
        yield Rejected(f"{origin}: trace {root.trace_id}", reading.bad[0].reason)
        return
    yield run.finish()
    for note in reading.notes:
        yield Unmapped(note.kind, example=f"{note.span_name} of {run.run_id}")


def _add_events(run: RunBuilder, reading: Reading, options: ImportOptions) -> None:
    for draft in reading.drafts:
        fields = {**draft.fields, "source": run.source} if draft.kind is RunStarted else draft.fields
        run.add(
            draft.kind,
            draft.occurred_at_us,
            event_id=draft.event_id,
            agent_id=draft.agent_id,
            labels=draft.labels,
            span_id=draft.span.span_id,
            parent_event_id=draft.parent_event_id,
            **fields,
        )
