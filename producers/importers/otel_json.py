"""`otel-json`: OpenTelemetry spans as JSON, by the GenAI conventions (`gen_ai.*`) or the older OpenInference keys.

A trace is a run. Where spans wrap each other (an agent, a chain, a call), only the innermost call counts.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from agentledger.producers.importers.documents import digest_and_size, parse_json_text, read_document
from agentledger.producers.importers.records import (
    ImportOptions,
    Item,
    Rejected,
    RunBuilder,
    RunFacts,
    Unmapped,
    as_count,
    as_dict,
    as_list,
    as_text,
    cost_nanousd,
    short_text,
)
from agentledger.producers.usage import Tokens
from agentledger.schemas.errors import ImportFormatError
from agentledger.schemas.events import ModelCallCompleted, RunFinished, RunStarted, ToolCallCompleted

FAMILY = "otel-json"
GEN_AI, OPEN_INFERENCE = "gen_ai", "openinference"
MODEL, TOOL, AGENT = "model", "tool", "agent"
_GEN_AI_KINDS = {"call_llm": MODEL, "chat": MODEL, "execute_tool": TOOL, "invoke_agent": AGENT}
_OPEN_INFERENCE_KINDS = {"LLM": MODEL, "TOOL": TOOL, "AGENT": AGENT}
ARGUMENTS_CHARS_MAX = 1 << 20  # of a Python literal that stands for arguments


@dataclass(frozen=True)
class Span:
    """One span, its ids in hexadecimal and its times in microseconds."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    started_us: int
    ended_us: int | None
    status: str
    status_text: str
    attributes: dict[str, Any]
    resource: dict[str, Any]

    @property
    def convention(self) -> str:
        return OPEN_INFERENCE if "openinference.span.kind" in self.attributes else GEN_AI

    @property
    def kind(self) -> str:
        """model, tool or agent; empty for any other span."""
        if self.convention == OPEN_INFERENCE:
            return _OPEN_INFERENCE_KINDS.get(as_text(self.attributes["openinference.span.kind"]), "")
        return _GEN_AI_KINDS.get(as_text(self.attributes.get("gen_ai.operation.name")), "")

    @property
    def completed_us(self) -> int:
        return self.started_us if self.ended_us is None else self.ended_us

    @property
    def latency_ms(self) -> float | None:
        return None if self.ended_us is None else max(0, self.ended_us - self.started_us) / 1000


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
    for trace_id, spans in traces.items():
        try:
            yield from list(_Trace(spans, options).items())
        except ImportFormatError as error:
            yield Rejected(f"{origin}: trace {trace_id}", error.what)
    if document.get("final_output") is not None:
        yield Unmapped("final output of a run, which no event has a place for", example=origin)


def read_span(raw: Any) -> Span:
    """One span. Raises ImportFormatError where ids or start are missing."""
    span = as_dict(raw)
    context, parent, status = (as_dict(span.get(name)) for name in ("context", "parent", "status"))
    started, ended = as_count(span.get("start_time")), as_count(span.get("end_time"))
    trace_id, span_id = _hex_id(context.get("trace_id"), 32), _hex_id(context.get("span_id"), 16)
    if not trace_id or not span_id or started is None:
        raise ImportFormatError("a span lacks its trace id, span id or start time")
    return Span(
        name=as_text(span.get("name")),
        trace_id=trace_id,
        span_id=span_id,
        parent_id=_hex_id(parent.get("span_id"), 16),
        started_us=started // 1000,
        ended_us=None if ended is None else ended // 1000,
        status=as_text(status.get("status_code")).lower(),
        status_text=as_text(status.get("description")),
        attributes=as_dict(span.get("attributes")),
        resource=as_dict(as_dict(span.get("resource")).get("attributes")),
    )


def _hex_id(value: Any, digits: int) -> str:
    """A trace or span id in hexadecimal; empty where there is none. Ids come as numbers or as hexadecimal text."""
    if isinstance(value, str) and value:
        try:
            value = int(value.removeprefix("0x"), 16)
        except ValueError:
            return ""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 16**digits:
        return ""
    return f"{value:0{digits}x}"


class _Trace:
    """The spans of one trace on their way to events."""

    def __init__(self, spans: list[Span], options: ImportOptions) -> None:
        self.spans = sorted(spans, key=lambda span: (span.completed_us, span.started_us, span.span_id))
        self.by_id = {span.span_id: span for span in spans}
        roots = [span for span in self.spans if span.parent_id not in self.by_id]
        self.root = min(roots or self.spans, key=lambda span: (span.started_us, span.span_id))
        self.parents_of_models = {
            ancestor for span in spans if span.kind == MODEL for ancestor in self._ancestors(span)
        }
        self.events: dict[str, str] = {}
        self.left_over: list[Unmapped] = []
        self.run = RunBuilder(self._facts(), options)

    def _facts(self) -> RunFacts:
        agent = next((span for span in self.spans if span.kind == AGENT and self._agent_name(span)), self.root)
        service = as_text(self.root.resource.get("service.name"))
        service = "" if service.startswith("unknown_service") else service
        name = self._agent_name(agent) or service or FAMILY
        old = any(span.convention == OPEN_INFERENCE for span in self.spans)
        return RunFacts(
            family=FAMILY,
            natural_id=self.root.trace_id,
            agent_id=name,
            agent_version=as_text(agent.attributes.get("any_agent.version")),
            workflow=service or name,
            trace_id=self.root.trace_id,
            labels={"convention": OPEN_INFERENCE if old else GEN_AI},
        )

    def _agent_name(self, span: Span) -> str:
        if span.convention == OPEN_INFERENCE:
            return span.name if self.by_id.get(span.parent_id) is self.root or span is self.root else ""
        return as_text(span.attributes.get("gen_ai.agent.name"))

    def _ancestors(self, span: Span) -> Iterator[str]:
        seen = {span.span_id}
        while (span_id := span.parent_id) in self.by_id and span_id not in seen:
            seen.add(span_id)
            yield span_id
            span = self.by_id[span_id]

    def items(self) -> Iterator[Item]:
        start = self.run.add(RunStarted, self.root.started_us, span_id=self.root.span_id, source=self.run.source)
        self.events[self.root.span_id] = start.event_id
        makers: dict[str, Callable[[Span], str]] = {MODEL: self._model_call, TOOL: self._tool_call}
        for span in self.spans:
            maker = makers.get(span.kind)
            if maker is None or (span.kind == MODEL and span.span_id in self.parents_of_models):
                if span is not self.root:
                    kind = as_text(span.attributes.get("openinference.span.kind")) or span.kind or span.name
                    self.left_over.append(Unmapped(f"wrapper span {kind}", example=f"{span.name} of {self.run.run_id}"))
                continue
            self.events[span.span_id] = maker(span)
            if span.ended_us is None:
                self.left_over.append(Unmapped("span without end, taken without latency", example=self.run.run_id))
        self._end()
        yield self.run.finish()
        yield from self.left_over

    def _parent(self, span: Span) -> str | None:
        """The event of the nearest span above; those that end later have none yet, so the run's start stands in."""
        above = (self.events[span_id] for span_id in self._ancestors(span) if span_id in self.events)
        return next(above, self.events[self.root.span_id])

    def _model_call(self, span: Span) -> str:
        facts = _gen_ai_model(span) if span.convention == GEN_AI else _open_inference_model(span)
        if facts["reported_cost_nanousd"] is None:
            self.left_over.append(Unmapped("model call without a cost", example=self.run.run_id))
        failed = span.status == "error"
        return self.run.add(
            ModelCallCompleted,
            span.completed_us,
            span_id=span.span_id,
            parent_event_id=self._parent(span),
            requestor="assistant",
            latency_ms=span.latency_ms,
            status="error" if failed else "ok",
            error_type=as_text(span.attributes.get("error.type")) or ("span_error" if failed else ""),
            error_message=short_text(span.status_text) if failed else "",
            **facts,
        ).event_id

    def _tool_call(self, span: Span) -> str:
        facts = _gen_ai_tool(span) if span.convention == GEN_AI else _open_inference_tool(span)
        failed = span.status == "error"
        return self.run.add(
            ToolCallCompleted,
            span.completed_us,
            span_id=span.span_id,
            parent_event_id=self._parent(span),
            requestor="assistant",
            latency_ms=span.latency_ms,
            status="error" if failed else "ok",
            error_type=as_text(span.attributes.get("error.type")) or ("span_error" if failed else ""),
            error_message=short_text(span.status_text) if failed else "",
            **facts,
        ).event_id

    def _end(self) -> None:
        root = self.root
        if root.ended_us is None:
            self.left_over.append(Unmapped("run whose root span has no end", example=self.run.run_id))
            return
        failed = root.status == "error"
        self.run.add(
            RunFinished,
            root.ended_us,
            span_id=root.span_id,
            parent_event_id=self.events[root.span_id],
            status="failed" if failed else "succeeded",
            reason=f"span status {root.status or 'unset'}",
            duration_ms=max(0, root.ended_us - root.started_us) // 1000,
            error_message=short_text(root.status_text) if failed else "",
        )


def _gen_ai_model(span: Span) -> dict[str, Any]:
    read = span.attributes.get
    model = as_text(read("gen_ai.request.model"))
    facts = {
        "provider": as_text(read("gen_ai.provider.name") or read("gen_ai.system")) or _prefix(model),
        "requested_model": model,
        "answered_model": as_text(read("gen_ai.response.model")),
        "response_id": as_text(read("gen_ai.response.id")),
        "finish_reason": as_text(next(iter(as_list(read("gen_ai.response.finish_reasons"))), "")),
        "reported_cost_nanousd": _sum_cost(read("gen_ai.usage.input_cost"), read("gen_ai.usage.output_cost")),
    }
    cached = as_count(read("gen_ai.usage.cache_read.input_tokens"))
    tokens = _contained(
        as_count(read("gen_ai.usage.input_tokens")), cached, as_count(read("gen_ai.usage.output_tokens")), None
    )
    return facts | tokens | _digests("input", read("gen_ai.input.messages")) | _digests("output", read("gen_ai.output"))


def _open_inference_model(span: Span) -> dict[str, Any]:
    read = span.attributes.get
    model = as_text(read("llm.model_name"))
    facts = {
        "provider": as_text(read("llm.provider") or read("llm.system")) or _prefix(model),
        "requested_model": model,
        "reported_cost_nanousd": _sum_cost(read("cost_prompt"), read("cost_completion")),
    }
    tokens = _contained(
        as_count(read("llm.token_count.prompt")),
        as_count(read("llm.token_count.prompt_details.cache_read")),
        as_count(read("llm.token_count.completion")),
        as_count(read("llm.token_count.completion_details.reasoning")),
    )
    return facts | tokens | _digests("input", read("input.value")) | _digests("output", read("output.value"))


def _gen_ai_tool(span: Span) -> dict[str, Any]:
    read = span.attributes.get
    facts = {"tool": as_text(read("gen_ai.tool.name")), "call_id": as_text(read("gen_ai.tool.call.id"))}
    arguments = read("gen_ai.tool.args", read("gen_ai.tool.call.arguments"))
    return facts | _digests("arguments", arguments) | _digests("result", read("gen_ai.output"))


def _open_inference_tool(span: Span) -> dict[str, Any]:
    read = span.attributes.get
    arguments = parse_json_text(as_text(read("input.value"))) if read("input.value") else None
    if isinstance(arguments, str) and arguments.startswith("{") and len(arguments) <= ARGUMENTS_CHARS_MAX:
        arguments = _python_literal(arguments)  # LangChain's tracer wrote the dict as Python prints it
    facts = {"tool": as_text(read("tool.name")) or span.name}
    return facts | _digests("arguments", arguments) | _digests("result", read("output.value"))


def _python_literal(text: str) -> Any:
    try:
        value = ast.literal_eval(text)
        return value if isinstance(value, dict) else text
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _digests(what: str, value: Any) -> dict[str, Any]:
    """Digest and size of what a string of JSON stands for."""
    if value is None:
        return {}
    digest, size = digest_and_size(parse_json_text(value) if isinstance(value, str) else value)
    return {f"{what}_digest": digest, f"{what}_bytes": size}


def _contained(prompt: int | None, cached: int | None, completion: int | None, reasoning: int | None) -> Tokens:
    return Tokens(
        input_tokens=None if prompt is None else prompt - min(cached or 0, prompt),
        cache_read_tokens=cached,
        cache_write_tokens=None,
        output_tokens=None if completion is None else completion - min(reasoning or 0, completion),
        reasoning_tokens=reasoning,
    )


def _sum_cost(*parts: Any) -> int | None:
    """The sum of the parts that are there, rounded once; None where none is."""
    present = [part for part in parts if isinstance(part, int | Decimal) and not isinstance(part, bool)]
    return cost_nanousd(sum(present, Decimal(0))) if present else None


def _prefix(model: str) -> str:
    return model.partition("/")[0] if "/" in model else ""
