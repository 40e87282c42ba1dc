"""Spans of one trace to what happened: which are calls, which only repeat them, and when the run began and ended.

A call is told by its innermost span: spans around a model call that carry its tokens again (an agent, a chain, a
framework's own span) and the tool span around an MCP call give no event. The run begins and ends with the root span.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from agentledger.producers.content import digest_words
from agentledger.producers.json_values import as_text
from agentledger.producers.otel import names
from agentledger.producers.otel.calls import (
    Describe,
    describe_by_digest,
    error_message,
    error_type,
    failed,
    labels_of,
    model_call_fields,
    tool_call_fields,
)
from agentledger.producers.otel.memory import COUNTED, MERGED, NO_CALL, UNDECIDED, SeenSpan, TraceMemory
from agentledger.producers.otel.names import AGENT, MODEL, TOOL
from agentledger.producers.otel.roles import convention_of, first_of, is_mcp_call, without_copies
from agentledger.producers.otel.spans import Span
from agentledger.schemas import content_id
from agentledger.schemas.errors import ImportFormatError
from agentledger.schemas.events import Event, ModelCallCompleted, RunFinished, RunStarted, ToolCallCompleted

LABEL_WITHOUT_EVENT = "spans_without_event"
_FIELDS: dict[str, tuple[type[Event], Callable[[Span, Describe], dict[str, Any]]]] = {
    MODEL: (ModelCallCompleted, model_call_fields),
    TOOL: (ToolCallCompleted, tool_call_fields),
}


class Draft(NamedTuple):
    """An event on its way to an envelope. `agent_id` is empty where no span names an agent.

    It follows from the event of the nearest span above, or from the run's start: as far as those are known by then.
    """

    kind: type[Event]
    span: Span
    event_id: str
    parent_event_id: str | None
    occurred_at_us: int
    step: int
    agent_id: str
    fields: Mapping[str, Any]
    labels: Mapping[str, str]


class Note(NamedTuple):
    """Something that no event says, and the name of the span where it was seen."""

    kind: str
    span_name: str


class BadSpan(NamedTuple):
    """A span that can't become an event, and why."""

    span: Span
    reason: str


@dataclass
class Reading:
    """What some spans of a trace say, in order: the run's start, calls as they ended, the run's end."""

    drafts: list[Draft] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    bad: list[BadSpan] = field(default_factory=list)


def run_started(root: Span, trace: TraceMemory) -> Draft:
    """The start of the run, told while its root span is still open."""
    trace.take(root)
    _name_agents([root], trace, root)
    return _draft(RunStarted, root, trace, root.started_us, {})


def read_spans(
    spans: Sequence[Span],
    trace: TraceMemory,
    root: Span | None,
    *,
    start_is_told: bool = False,
    describe: Describe = describe_by_digest,
    words: Callable[[str], str] = digest_words,
) -> Reading:
    """What these spans say, given what is remembered of their trace, which is changed. `root` is one of them, or None.
    `describe` says what is kept of content, `words` what of the text of an error, which may quote content or a key.

    The same spans again give the same: what was decided of a span once stays so.
    """
    ordered = sorted(without_copies(spans), key=lambda span: (span.completed_us, span.started_us, span.span_id))
    seen = {span.span_id: trace.take(span) for span in ordered}
    _name_agents(ordered, trace, root)
    reading = Reading()
    if root is not None and not start_is_told:
        reading.drafts.append(_draft(RunStarted, root, trace, root.started_us, {}))
    outer = _decide(ordered, seen, trace, root)
    for span in ordered:
        mine = seen[span.span_id]
        if mine.fate == COUNTED:
            _read_call(_Told(span, mine, outer.get(span.span_id)), trace, reading, describe)
        elif span is not root:
            kind = as_text(span.attributes.get("openinference.span.kind")) or mine.role or span.name
            reading.notes.append(Note(f"wrapper span {kind}", span.name))
    if root is not None and root.ended_us is not None:
        reading.drafts.append(_draft(RunFinished, root, trace, root.ended_us, _run_end(root), labels=_left_out(trace)))
    elif root is not None:
        reading.notes.append(Note("run whose root span has no end", root.name))
    reading.drafts = [_told_in(words, draft) for draft in reading.drafts]
    return reading


def _told_in(words: Callable[[str], str], draft: Draft) -> Draft:
    """The draft with what may be said of the text of its error."""
    said = draft.fields.get("error_message")
    return draft._replace(fields={**draft.fields, "error_message": words(said)}) if said else draft


def _decide(
    spans: Sequence[Span], seen: Mapping[str, SeenSpan], trace: TraceMemory, root: Span | None
) -> dict[str, Span]:
    """Set the fate of each span that has none yet; the outer span of each MCP call, where that came along."""
    by_id = {span.span_id: span for span in spans}
    outer: dict[str, Span] = {}
    for span in sorted(spans, key=lambda span: not is_mcp_call(span)):  # MCP calls first: they decide on those around
        mine = seen[span.span_id]
        if is_mcp_call(span):
            above_id = trace.tool_above(span.span_id, mine.tool)
            if mine.fate == UNDECIDED:
                told = above_id and trace.spans[above_id].fate == COUNTED
                mine.fate = MERGED if told else COUNTED
            if above_id in by_id and mine.fate == COUNTED:
                outer[span.span_id] = by_id[above_id]
        elif mine.fate == UNDECIDED:
            mine.fate = _fate(span, mine, trace)
            if mine.fate != COUNTED and span is not root:
                trace.count_without_event(mine.role or span.kind or "span")
    return outer


def _fate(span: Span, mine: SeenSpan, trace: TraceMemory) -> str:
    if mine.role == MODEL:
        repeats = span.span_id in trace.around_models or trace.counted_model_above(span.span_id)
        return MERGED if repeats else COUNTED
    if mine.role == TOOL:
        return MERGED if trace.has_mcp_call(span.span_id, mine.tool) else COUNTED
    return NO_CALL


class _Told(NamedTuple):
    """A span that counts as a call, and the one around it that tells of the same call."""

    span: Span
    mine: SeenSpan
    outer: Span | None


def _read_call(told: _Told, trace: TraceMemory, reading: Reading, describe: Describe) -> None:
    """Add the event of a call."""
    span, mine, outer = told
    kind, read = _FIELDS[mine.role]
    try:
        fields, labels = read(span, describe), labels_of(span)
        if outer is not None:
            fields, labels = _joined(fields, read(outer, describe)), labels_of(outer) | labels
    except ImportFormatError as error:
        mine.fate = NO_CALL
        reading.bad.append(BadSpan(span, error.what))
        return
    reading.drafts.append(_draft(kind, span, trace, span.completed_us, fields, labels=labels))
    if mine.role == MODEL and fields["reported_cost_nanousd"] is None:
        reading.notes.append(Note("model call without a cost", span.name))
    if span.ended_us is None:
        reading.notes.append(Note("span without end, taken without latency", span.name))


def _joined(inner: dict[str, Any], outer: dict[str, Any]) -> dict[str, Any]:
    """One call told twice: as its inner span says, the gaps filled from the outer one; failed where either is."""
    joined = {**outer, **{name: value for name, value in inner.items() if value not in {None, ""}}}
    worse = outer if inner["status"] == "ok" else inner
    return joined | {name: worse[name] for name in ("status", "error_type", "error_message")}


def _draft(
    kind: type[Event],
    span: Span,
    trace: TraceMemory,
    at_us: int,
    fields: Mapping[str, Any],
    *,
    labels: Mapping[str, str] | None = None,
) -> Draft:
    copy = [str(span.copy)] if span.copy else []
    event_id = content_id(at_us, "span", trace.tenant_id, span.trace_id, span.span_id, kind.__name__, *copy)
    above = [seen for _, seen in trace.above(span.span_id)]
    parent = next((seen.event_id for seen in above if seen.event_id), "") or trace.start_event_id
    if kind is RunStarted:
        trace.start_event_id, parent = event_id, ""
    elif kind is RunFinished:
        parent = trace.start_event_id
    else:
        trace.spans[span.span_id].event_id = event_id
    own = as_text(first_of(span.attributes, names.AGENT_NAME))
    actor = as_text(first_of(span.attributes, names.ACTOR))
    return Draft(
        kind=kind,
        span=span,
        event_id=event_id,
        parent_event_id=parent or None,
        occurred_at_us=at_us,
        step=trace.step_of(span.span_id, kind.__name__, span.copy),
        agent_id=own or next((seen.agent for seen in above if seen.agent), "") or trace.agent,
        fields={**fields, "actor": actor} if actor else fields,
        labels=labels or {},
    )


def _name_agents(spans: Sequence[Span], trace: TraceMemory, root: Span | None) -> None:
    """Who acts in this trace, and in which workflow, as far as these spans say more than was known."""
    for span in spans:
        mine = trace.spans[span.span_id]
        convention = convention_of(span)
        if not trace.convention or (trace.convention == names.GEN_AI and convention != names.GEN_AI):
            trace.convention = convention
        if mine.role == AGENT:
            mine.agent = as_text(first_of(span.attributes, names.AGENT_NAME))
            if not trace.agent:
                trace.agent = mine.agent or _named_by_span(span, root)
                trace.agent_version = as_text(first_of(span.attributes, names.AGENT_VERSION))
    service = next((name for span in spans if (name := service_of(span))), "")
    if root is not None and not trace.agent:
        trace.agent = as_text(first_of(root.attributes, names.AGENT_NAME)) or _named_by_span(root, root)
    if not trace.workflow:
        named = (as_text(first_of(span.attributes, names.WORKFLOW)) for span in spans)
        trace.workflow = next(filter(None, named), "") or service
    trace.service = trace.service or service


def _named_by_span(span: Span, root: Span | None) -> str:
    """OpenInference calls the span of an agent by the agent's name; those further down are steps of it."""
    if convention_of(span) != names.OPEN_INFERENCE or root is None:
        return ""
    return span.name if span is root or span.parent_id == root.span_id else ""


def service_of(span: Span) -> str:
    """The service the span is from; empty where nobody gave it a name."""
    service = as_text(span.resource.get(names.SERVICE))
    return "" if service.startswith(names.UNKNOWN_SERVICE) else service


def _run_end(root: Span) -> dict[str, Any]:
    wrong = failed(root)
    return {
        "status": "failed" if wrong else "succeeded",
        "reason": f"span status {root.status}",
        "duration_ms": max(0, root.completed_us - root.started_us) // 1000,
        "error_type": error_type(root) if wrong else "",
        "error_message": error_message(root) if wrong else "",
    }


def _left_out(trace: TraceMemory) -> dict[str, str]:
    """The label that says how many spans of which kind gave no event."""
    counts = ", ".join(f"{kind} {count}" for kind, count in sorted(trace.without_event.items()))
    return {LABEL_WITHOUT_EVENT: counts} if counts else {}
