"""Laws of every importer: whatever JSON comes, it yields events that encode, or says what is wrong; always the same."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentledger.producers.importers import (
    ImportedRun,
    ImportOptions,
    chat,
    mini_swe,
    otel_json,
    run_log,
    tau2,
    tau2_events,
)
from agentledger.producers.json_values import parse_json
from agentledger.schemas import Codec, open_registry
from agentledger.schemas.errors import ImportFormatError

OPTIONS = ImportOptions(source="s", outcome="reward", run_id=("id",), task="task", cost="cost")
CODEC = Codec(open_registry())
STAMP = "2026-05-31T12:00:03"
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 1}}
CALL = {"id": "c", "name": "t", "arguments": {"a": 1}, "requestor": "assistant"}
MESSAGES: list[Any] = [
    {"role": "user", "content": "x", "usage": USAGE, "cost": 1, "timestamp": STAMP},
    {"role": "assistant", "content": "y", "usage": USAGE, "cost": 1, "timestamp": STAMP, "tool_calls": [CALL]}
    | {"errors": ["cost: 0.1. Error: no"], "raw_data": {"usage": USAGE, "choices": [{"finish_reason": "stop"}]}},
    {"role": "tool", "id": "c", "content": "Error: z", "error": True, "timestamp": STAMP},
]
TAU2 = {
    "info": {
        "agent_info": {"implementation": "a", "llm": "b/c"},
        "environment_info": {"domain_name": "d", "policy": "p", "tool_defs": [1]},
    },
    "simulations": [
        {"id": "s-1", "task_id": "t", "trial": 1, "seed": 2, "start_time": STAMP, "end_time": STAMP}
        | {"termination_reason": "user_stop", "agent_cost": 1, "reward_info": {"reward": 1}, "messages": MESSAGES}
    ],
}
SWE = {
    "instance_id": "i",
    "info": {
        "exit_status": "Submitted",
        "model_stats": {"instance_cost": 1},
        "config": {"agent": {"step_limit": 1, "cost_limit": 1}, "model": {"model_name": "@g/m"}},
    },
    "messages": [
        {"role": "assistant", "content": "```bash\nls\n```"}
        | {"extra": {"cost": 1, "response": {"created": 1_700_000_000, "usage": USAGE, "provider": "G"}}},
        {"role": "user", "content": "<returncode>1</returncode>"},
    ],
}
SPAN = {
    "name": "n",
    "context": {"trace_id": 1, "span_id": 2},
    "parent": {"span_id": 1},
    "start_time": 1_700_000_000_000_000_000,
    "end_time": 1_700_000_000_000_000_001,
    "status": {"status_code": "ok"},
    "resource": {"attributes": {"service.name": "s"}},
    "attributes": {"gen_ai.operation.name": "call_llm", "gen_ai.usage.input_cost": 1, "gen_ai.usage.input_tokens": 3},
}
TOOL_SPAN = SPAN | {
    "context": {"trace_id": 1, "span_id": 3},
    "attributes": {"openinference.span.kind": "TOOL", "input.value": "{'a': 1}", "tool.name": "t"},
}
CHAT = {"id": 1, "task": "t", "reward": 1, "cost": 1, "messages": MESSAGES}
EVENT = {"event_id": "e", "timestamp": STAMP, "parent_event_id": "e"}
LIVE: list[Any] = [
    EVENT | {"event_type": "orchestrator_run_start", "payload": {"runtime_trace": {"simulation_id": "s-1"}}},
    EVENT | {"event_type": "tool_dispatch_start"},
    EVENT
    | {"event_type": "tool_dispatch_end"}
    | {
        "payload": {
            "runtime_trace": {"response": {"raw": {"id": "c"}}, "state_hash_before": "1", "state_hash_after": "2"}
        }
    },
]
LOG: list[Any] = [
    {"run_id": "r", "step": 1, "type": "model_call", "model": "m", "tokens_in": 1, "tokens_out": 2, "latency_ms": 3},
    {"run_id": "r", "step": 2, "type": "tool_call", "tool": "t", "input": {"a": 1}, "error": "e", "cost_usd": 1},
    {"run_id": "r", "step": 3, "type": "validator", "rule": "v", "result": "pass"},
    {"run_id": "r", "final": "success", "cost_usd": 1, "total_latency_ms": 5},
]


def as_lines(records: Any) -> list[tuple[int, bytes]]:
    return [(number, json.dumps(record, default=float).encode()) for number, record in enumerate(records, 1)]


Parse = Callable[[Any], Iterator[Any]]
CASES: dict[str, tuple[Any, Parse]] = {
    "tau2": (TAU2, lambda d: tau2.parse(d, OPTIONS, "x")),
    "mini-swe": (SWE, lambda d: mini_swe.parse(d, {"resolved": True, "tests_status": {}}, OPTIONS, "x")),
    "otel-json": ({"spans": [SPAN, TOOL_SPAN]}, lambda d: otel_json.parse(d, OPTIONS, "x")),
    "chat": (CHAT, lambda d: chat.parse(d, OPTIONS, "x")),
    "run-log": ({"lines": LOG}, lambda d: run_log.parse(as_lines(d["lines"]), OPTIONS, "x")),
    "tau2-events": (
        {"results": TAU2, "log": LIVE},
        lambda d: tau2_events.parse(d["results"], (as_lines(d["log"]), "l"), ([], "o"), OPTIONS, "x"),
    ),
}
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**63, -(2**63) - 1, 2**200, 10**30, 0, -1]),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.sampled_from([Decimal("1E400"), Decimal("-1E-400"), Decimal("9" * 40)]),
    st.text(max_size=8),
    st.sampled_from(["\ud800", "x" * 5000, "9999-12-31T23:59:59-23:00", "```bash\n\n```", "{'a': 1", "-"]),
    st.just([]),
    st.just({}),
    st.just([[None, 1, "x", {}]]),
    st.just({"a": {"b": Decimal("0.5")}}),
)


def places_of(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document, as keys from the top; not the top itself."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in entries:
        yield (*at, key)
        yield from places_of(item, (*at, key))


def put(document: Any, place: tuple[Any, ...], value: Any) -> None:
    for key in place[:-1]:
        document = document[key]
    document[place[-1]] = value


def runs_from(parse: Parse, document: Any) -> list[ImportedRun] | None:
    try:
        return [item for item in parse(document) if isinstance(item, ImportedRun)]
    except ImportFormatError:
        return None


@pytest.mark.parametrize("name", CASES)
def test_the_untouched_document_is_a_run_that_encodes(name: str) -> None:
    document, parse = CASES[name]
    runs = runs_from(parse, document)
    assert runs is not None
    assert len(runs) == 1
    assert [CODEC.decode_strictly(CODEC.encode(event)) for event in runs[0].events] == list(runs[0].events)


@pytest.mark.parametrize("name", CASES)
@given(draw=st.data())
def test_whatever_stands_anywhere_the_events_encode_or_the_fault_is_named(name: str, draw: st.DataObject) -> None:
    document, parse = CASES[name]
    document = copy.deepcopy(document)
    kept = [place for place in places_of(document) if place not in {("lines",), ("results",), ("log",)}]
    put(document, draw.draw(st.sampled_from(kept)), draw.draw(ODD))
    runs = runs_from(parse, document)
    assert runs_from(parse, copy.deepcopy(document)) == runs
    for run in runs or []:
        events = [CODEC.decode_strictly(CODEC.encode(event)) for event in run.events]
        assert len({event.event_id for event in events}) == len(events)
        assert {event.run_id for event in events} == {run.run_id}
        for producer in {event.producer_id for event in events}:
            numbers = [event.producer_seq for event in events if event.producer_id == producer]
            assert numbers == sorted(set(numbers))


@given(st.lists(st.integers(0, 10**12).map(lambda n: Decimal(n) / 10**9), max_size=8))
def test_money_adds_up_to_the_nano_dollar(costs: list[Decimal]) -> None:
    messages = [{"role": "assistant", "content": "x", "usage": {"prompt_tokens": 0}, "cost": cost} for cost in costs]
    text = json.dumps({"messages": [{"role": "user"}, *messages]}, default=str)
    for cost in costs:
        text = text.replace(f'"cost": "{cost}"', f'"cost": {cost}')
    runs = [item for item in chat.parse(parse_json(text), ImportOptions(), "x") if isinstance(item, ImportedRun)]
    reported = sum(getattr(event, "reported_cost_nanousd", None) or 0 for event in runs[0].events)
    assert reported == int(sum(costs) * 10**9)
