"""What is remembered of a trace's spans, as they come in any order and in several batches.

It is what tells a call from the spans around it that repeat it. Bounded: what was forgotten can't be recognised, and
then a wrapper that arrives very late counts as a call of its own.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from agentledger.producers.json_values import as_text
from agentledger.producers.otel.calls import tool_of
from agentledger.producers.otel.names import AGENT, AGENT_NAME, MODEL, TOOL
from agentledger.producers.otel.roles import first_of, is_mcp_call, role_of
from agentledger.producers.otel.spans import Span
from agentledger.schemas.events import RunStarted

COUNTED, MERGED, NO_CALL, UNDECIDED = "counted", "merged", "no call", ""
SPANS_MAX = 200_000  # of all traces together, at some 300 bytes each: ten minutes at 300 spans a second
SPANS_PER_TRACE_MAX = 20_000  # the longest runs have a few thousand; what lies further back has ended
KINDS_MAX = 20  # of spans without an event, named one by one


@dataclass(slots=True)
class SeenSpan:
    """One span: what it hangs on, what it is, what was decided, and its event. `tool` and `agent` are names."""

    parent_id: str
    role: str = ""
    tool: str = ""
    agent: str = ""
    fate: str = UNDECIDED
    event_id: str = ""


@dataclass(slots=True)
class TraceMemory:
    """The spans of one trace, by id, and what follows from them about those that are still to come."""

    tenant_id: str
    spans: dict[str, SeenSpan] = field(default_factory=dict)
    around_models: set[str] = field(default_factory=set)  # spans that a model call lies under
    around_mcp: dict[str, set[str]] = field(default_factory=dict)  # spans that MCP calls lie under, and those' tools
    without_event: Counter[str] = field(default_factory=Counter)
    steps: dict[tuple[str, str, int], int] = field(default_factory=dict)  # of span, record and copy
    next_step: int = 1
    agent: str = ""
    agent_version: str = ""
    workflow: str = ""
    service: str = ""
    convention: str = ""
    root_id: str = ""
    has_whole_root: bool = False  # the root has no parent at all
    start_event_id: str = ""

    def hang(self, span_id: str, parent_id: str) -> SeenSpan:
        """Note where a span hangs, as soon as that is known."""
        seen = self.spans.get(span_id)
        if seen is None:
            if len(self.spans) >= SPANS_PER_TRACE_MAX:
                self._forget(next(iter(self.spans)))
            seen = self.spans[span_id] = SeenSpan(parent_id)
        return seen

    def announce(self, span: Span) -> None:
        """Note a span that has begun: where it hangs, and the agent's name, so that what happens inside can have it."""
        seen = self.hang(span.span_id, span.parent_id)
        if role_of(span) == AGENT:
            seen.agent = as_text(first_of(span.attributes, AGENT_NAME))
            self.agent = self.agent or seen.agent

    def take(self, span: Span) -> SeenSpan:
        """Note a span that has ended. What it was taken for once it stays, whatever comes under its id."""
        seen = self.hang(span.span_id, span.parent_id)
        if seen.fate != UNDECIDED:
            return seen
        seen.role = role_of(span)
        if seen.role == TOOL:
            seen.tool = tool_of(span)
        if seen.role == MODEL or span.span_id in self.around_models:
            self._mark_models(span.parent_id)
        if is_mcp_call(span):
            self._mark_mcp(span.parent_id, {seen.tool})
        elif seen.role not in {TOOL, MODEL, AGENT} and span.span_id in self.around_mcp:
            self._mark_mcp(span.parent_id, self.around_mcp[span.span_id])
        return seen

    def above(self, span_id: str) -> Iterator[tuple[str, SeenSpan]]:
        """The spans above one, nearest first, as far as they are known."""
        passed = {span_id}
        seen = self.spans.get(span_id)
        while seen is not None and seen.parent_id and seen.parent_id not in passed:
            passed.add(seen.parent_id)
            above = self.spans.get(seen.parent_id)
            if above is None:
                return
            yield seen.parent_id, above
            seen = above

    def counted_model_above(self, span_id: str) -> bool:
        """Whether a span above counts as a call of a model already."""
        return any(seen.role == MODEL and seen.fate == COUNTED for _, seen in self.above(span_id))

    def tool_above(self, span_id: str, tool: str) -> str:
        """The span above that is the same tool's call, seen from outside; empty where there is none."""
        for above_id, seen in self.above(span_id):
            if seen.role == TOOL:
                return above_id if is_same_tool(seen.tool, tool) else ""
            if seen.role in {AGENT, MODEL}:
                return ""
        return ""

    def has_mcp_call(self, span_id: str, tool: str) -> bool:
        """Whether an MCP call of this tool lies under the span."""
        return any(is_same_tool(tool, inner) for inner in self.around_mcp.get(span_id, ()))

    def step_of(self, span_id: str, record_name: str, copy: int) -> int:
        """The event's place among those of the trace: 0 is the run's start, the others count on as they are made."""
        if record_name == RunStarted.__name__:
            return 0
        place = span_id, record_name, copy
        step = self.steps.get(place)
        if step is None:
            step = self.steps[place] = self.next_step
            self.next_step += 1
            if len(self.steps) > SPANS_PER_TRACE_MAX:
                del self.steps[next(iter(self.steps))]
        return step

    def count_without_event(self, kind: str) -> None:
        """Count a span that no event stands for."""
        is_new = kind not in self.without_event
        self.without_event["other" if is_new and len(self.without_event) >= KINDS_MAX else kind] += 1

    def _mark_models(self, span_id: str) -> None:
        if len(self.around_models) > 2 * SPANS_PER_TRACE_MAX:  # with ids of spans that never came
            self.around_models.clear()
        while span_id and span_id not in self.around_models:
            self.around_models.add(span_id)
            seen = self.spans.get(span_id)
            span_id = "" if seen is None else seen.parent_id

    def _mark_mcp(self, span_id: str, tools: set[str]) -> None:
        if len(self.around_mcp) > 2 * SPANS_PER_TRACE_MAX:
            self.around_mcp.clear()
        while span_id and not tools <= self.around_mcp.get(span_id, set()):
            self.around_mcp[span_id] = self.around_mcp.get(span_id, set()) | tools
            seen = self.spans.get(span_id)
            span_id = "" if seen is None or seen.role in {TOOL, MODEL, AGENT} else seen.parent_id

    def _forget(self, span_id: str) -> None:
        del self.spans[span_id]
        self.around_models.discard(span_id)
        self.around_mcp.pop(span_id, None)


class Memory:
    """The traces that spans came of, those unheard of for longest forgotten first."""

    def __init__(self, spans_max: int = SPANS_MAX) -> None:
        self._spans_max = spans_max
        self._spans = 0
        self._traces: OrderedDict[tuple[str, str], TraceMemory] = OrderedDict()

    def trace(self, tenant_id: str, trace_id: str) -> TraceMemory:
        """What is remembered of a trace, which is heard of now."""
        key = tenant_id, trace_id
        trace = self._traces.get(key)
        if trace is None:
            trace = self._traces[key] = TraceMemory(tenant_id)
        self._traces.move_to_end(key)
        return trace

    def __len__(self) -> int:
        return len(self._traces)

    def grow(self, spans: int) -> None:
        """A trace has so many spans more: forget the oldest traces until the spans of all fit; the latest stays."""
        self._spans += spans
        while self._spans > self._spans_max and len(self._traces) > 1:
            _, trace = self._traces.popitem(last=False)
            self._spans -= len(trace.spans)


def is_same_tool(name: str, other: str) -> bool:
    """Whether two names are the same tool's: frameworks put the server's name before that of an MCP tool."""
    short, long = sorted((name, other), key=len)
    return bool(short) and long.endswith(short) and (long == short or not long[-len(short) - 1].isalnum())
