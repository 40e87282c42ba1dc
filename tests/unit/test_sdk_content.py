"""Digests of any value, bounds of any text, and the bytes of an event built from parts."""

from __future__ import annotations

import dataclasses
import enum
import os
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from agentledger.producers.bounds import (
    LABELS_MAX,
    RUN_ID_BYTES_MAX,
    clean_body,
    clean_labels,
    clean_run_id,
    clean_text,
    clean_texts,
)
from agentledger.producers.content import describe, to_canonical
from agentledger.producers.emitter import SDK_RECORDS
from agentledger.producers.envelope import RunEnvelope, record_kind, seq_and_run_of
from agentledger.producers.event_ids import as_event_id, new_event_id, new_trace_id, span_id_of
from agentledger.producers.tracing import trace_id_of
from agentledger.schemas.codec import Codec
from agentledger.schemas.encoding import encode_text
from agentledger.schemas.events import EVENT_TYPES, ModelCallCompleted
from agentledger.schemas.hashing import canonical_json
from agentledger.schemas.identity import event_time_ms
from agentledger.schemas.registry import open_registry
from agentledger.schemas.topics import EVENT_BYTES_MAX
from tests.strategies import events_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Colour(enum.Enum):
    RED = "red"


class Order(BaseModel):
    order_id: str
    at: datetime


@dataclasses.dataclass
class Point:
    x: int
    inner: object = None


class Rude:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__

    def model_dump(self, mode: str) -> object:
        raise RuntimeError(mode)


WHEN = datetime(2026, 3, 1, 12, tzinfo=UTC)
CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [True, None, "ü"]}, '{"a":[true,null,"ü"],"b":1}'),
        ((1, 2), "[1,2]"),
        ({3, 1, 2}, "[1,2,3]"),
        ({1: "a", "b": Decimal("1.50")}, '{"1":"a","b":"1.50"}'),
        (float("nan"), '"nan"'),
        ("a\ud800b", '"a?b"'),
        (WHEN, '"2026-03-01T12:00:00+00:00"'),
        (Colour.RED, '"red"'),
        (uuid.UUID(int=5), '"00000000-0000-0000-0000-000000000005"'),
        (PurePosixPath("/a"), '"/a"'),
        (Order(order_id="A", at=WHEN), '{"at":"2026-03-01T12:00:00Z","order_id":"A"}'),
        (Point(1, {2}), '{"inner":[2],"x":1}'),
        (b"ab", '{"bytes":2,"sha256":"fb8e20fc2e4c3f248c60c39bd652f3c1347298bb977b8b4d5903b85055620603"}'),
        (Rude(), f'"<{__name__}.Rude>"'),
        (Order, f'"<{type(Order).__module__}.{type(Order).__qualname__}>"'),
    ],
)
def test_any_value_has_one_text(value: object, text: str) -> None:
    assert to_canonical(value).decode() == text


def test_cycles_and_depth_end() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    for value in (CYCLE, deep, {"a": CYCLE, "b": {1, "x"}}):
        assert to_canonical(value) == to_canonical(value)
    while isinstance(deep, list):  # taken apart step by step: freeing it whole would recurse
        deep = deep.pop()


@given(JSON)
def test_json_values_are_digested_as_the_canonical_json_says(value: Any) -> None:
    content = describe(value)
    try:
        raw = canonical_json(value)
    except (ValueError, TypeError):
        assert content.digest.startswith("sha256:")
    else:
        assert (content.size, to_canonical(value)) == (len(raw), raw)


@given(st.text(st.characters()), st.integers(8, 64))
def test_a_text_is_cut_to_its_bytes(text: str, bytes_max: int) -> None:
    cut = clean_text(text, bytes_max)
    assert len(cut.encode()) <= bytes_max
    whole = text.encode("utf-8", "replace")
    assert cut.encode() == whole if len(whole) <= bytes_max else cut.endswith("…")


def test_what_is_no_text_or_map_or_list_becomes_one() -> None:
    assert clean_text(Rude()) == "<Rude>"
    assert clean_text(None) == ""
    assert clean_labels(5) == {}  # type: ignore[arg-type]
    assert len(clean_labels({str(number): "x" * 5000 for number in range(100)})) == LABELS_MAX
    assert clean_texts(5) == []  # type: ignore[arg-type]
    assert clean_texts("one") == ["one"]


def test_long_run_ids_stay_distinct() -> None:
    one, other = clean_run_id("x" * 5_000_000), clean_run_id("x" * 5_000_001)
    assert len(one.encode()) <= RUN_ID_BYTES_MAX
    assert clean_run_id("short") == "short"
    assert one != other
    assert clean_run_id(12) == "12"


@pytest.mark.parametrize("name", SDK_RECORDS)
def test_no_event_of_the_sdk_reaches_the_brokers_limit(name: str) -> None:
    huge = "😀" * 300_000
    fields = EVENT_TYPES[name].__dataclass_fields__
    values: dict[str, Any] = {}
    for field, info in fields.items():
        kind = str(info.type)
        values[field] = huge if "str" in kind and "list" not in kind and "dict" not in kind else 2**62
        if "list" in kind:
            values[field] = [huge] * 2000
        if "dict" in kind:
            values[field] = {f"{number}{huge}": huge for number in range(100)}
    body = EVENT_TYPES[name](**values)
    clean_body(name, body)
    envelope = RunEnvelope(huge, agent_id=huge, agent_version=huge, workflow=huge, environment=huge, actor=huge,
                           trace_id="0" * 32, labels=values["labels"])  # fmt: skip
    kind_of = record_kind(name, open_registry())
    identity = encode_text(clean_text(huge, 512)) * 2
    value = kind_of.encode(
        body, identity, 2**62, envelope, 2**62, new_event_id(1), new_event_id(2), "0" * 16, 2**62
    )  # fmt: skip
    assert len(value) < EVENT_BYTES_MAX * 0.75


# Where the encoder changes its way: the ends of what its tables and its shortcuts take.
COUNTS = st.sampled_from([0, 63, 64, 4095, 4096, 8191, 8192, 2**27 - 1, 2**27, 2**62 - 1, 2**62]) | st.integers(
    0, 2**62
)


@given(st.sampled_from(SDK_RECORDS).flatmap(events_of), COUNTS, COUNTS, st.sampled_from([None, "", "0" * 15 + "7"]))
def test_an_event_built_from_parts_is_what_the_codec_writes(
    event: Any, seq: int, step: int, span_id: str | None
) -> None:
    registry = open_registry()
    codec = Codec(registry)
    envelope = RunEnvelope(event.run_id, trace_id="ab" * 16, agent_id=event.agent_id, agent_version=event.agent_version,
                           workflow=event.workflow, environment=event.environment, actor=event.actor,
                           labels=event.labels)  # fmt: skip
    event_id = new_event_id(abs(event.occurred_at))
    identity = encode_text(event.tenant_id) + encode_text(event.producer_id)
    parent = event_id if span_id else None
    event.event_id, event.producer_seq, event.step, event.parent_event_id = event_id, seq, step, parent
    event.trace_id, event.span_id = envelope.trace_id, span_id_of(event_id) if span_id is None else span_id
    kind = record_kind(type(event).__name__, registry)
    value = kind.encode(event, identity, seq, envelope, step, event_id, parent, span_id, event.occurred_at)
    assert value == codec.encode(event)
    if seq < 2**62:  # nobody counts further
        assert seq_and_run_of(value, len(identity)) == (seq, envelope.run_id)


@given(events_of("ModelCallCompleted") | events_of("ToolCallCompleted"))
def test_cleaning_leaves_a_good_event_as_it_is(event: Any) -> None:
    before = dataclasses.replace(event)
    clean_body(type(event).__name__, event)
    for name in before.__dataclass_fields__:
        old, new = getattr(before, name), getattr(event, name)
        if isinstance(old, float) and old - old != 0:
            assert new is None
        else:
            assert new == old


def test_an_unknown_number_stays_unknown() -> None:
    event = ModelCallCompleted(
        event_id="", tenant_id="", producer_id="", producer_seq=0, run_id="", occurred_at=0,
        input_tokens="many", output_tokens=2**70, latency_ms="fast", attempt="x",  # type: ignore[arg-type]
    )  # fmt: skip
    clean_body("ModelCallCompleted", event)
    assert (event.input_tokens, event.output_tokens, event.latency_ms, event.attempt) == (None, None, None, 0)


@given(st.integers(0, 2**47 * 1000))
def test_event_ids_are_version_7_of_their_time(now_us: int) -> None:
    ids = [new_event_id(now_us) for _ in range(5)]
    assert len(set(ids)) == 5
    for event_id in ids:
        parsed = uuid.UUID(event_id)
        assert (str(parsed), parsed.version, parsed.variant) == (event_id, 7, uuid.RFC_4122)
        assert event_time_ms(event_id) == now_us // 1000
        assert re.fullmatch("[0-9a-f]{16}", span_id_of(event_id))
        assert span_id_of(event_id) != "0" * 16


def in_child(action: Callable[[], str]) -> str:
    """What the action gives in a forked child."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, action().encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        return answer.read()


def test_a_forked_child_makes_other_ids() -> None:
    new_event_id(5)
    assert in_child(lambda: new_event_id(5) + new_trace_id()) != new_event_id(5) + new_trace_id()


@pytest.mark.parametrize(
    ("given_trace", "trace_id"),
    [
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("4BF92F3577B34DA6A3CE929D0E0E4736", "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", ""),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_trace_ids(given_trace: str, trace_id: str) -> None:
    assert trace_id_of(given_trace) == trace_id


def test_event_ids_that_come_back() -> None:
    event_id = new_event_id(7)
    assert as_event_id(event_id.upper()) == event_id
    assert as_event_id("order-7") is None
    assert as_event_id(None) is None
