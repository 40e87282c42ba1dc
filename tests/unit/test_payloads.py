"""Payloads leave beside their events, in chunks that make the same text again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentledger.producers import Ledger
from agentledger.producers.bounds import CHUNK_BYTES_MAX, PAYLOAD_BYTES_MAX
from agentledger.producers.payloads import chunks_of, cut
from agentledger.schemas.events import GapDetected, ModelCallCompleted, PayloadChunk, RunStarted, ToolCallCompleted
from agentledger.schemas.hashing import canonical_json, digest_bytes
from agentledger.schemas.testing.record_producer import FakeRecordProducer
from agentledger.schemas.topics import EVENT_BYTES_MAX, PAYLOADS
from agentledger.sinks.tables import typed_columns

EVENT_ID = "0198f2c4-7d3a-7f00-8000-1234567890ab"


@given(st.text(), st.integers(4, 40))
def test_the_pieces_are_texts_and_make_the_whole(text: str, bytes_max: int) -> None:
    pieces = list(cut(text.encode(), bytes_max))
    assert "".join(piece.decode() for piece in pieces) == text
    assert all(0 < len(piece) <= bytes_max for piece in pieces)


def test_every_chunk_says_what_it_is_a_piece_of() -> None:
    text = canonical_json("é" * CHUNK_BYTES_MAX)
    chunks = list(chunks_of(EVENT_ID, "result", text))
    assert [(chunk.chunk, chunk.chunks) for chunk in chunks] == [(number, 3) for number in range(3)]
    assert {chunk.payload_digest for chunk in chunks} == {digest_bytes(text)}
    assert len(list(chunks_of(EVENT_ID, "result", b""))) == 1


def of(ledger: Ledger, kind: type) -> list[Any]:
    return [event for event in ledger.events if type(event) is kind]


def test_content_goes_beside_the_event_which_keeps_its_digest() -> None:
    with Ledger.for_testing(keep_content=True, payloads=True, labels={"team": "x"}) as ledger, ledger.run("w") as run:
        with run.model_call(model="m", input=[{"role": "user", "content": "hi"}]) as model:
            model.output("hello")
        with run.tool_call("t", arguments={"a": "x" * 700_000}) as tool:
            tool.result([1])
    model_call, tool_call = of(ledger, ModelCallCompleted)[0], of(ledger, ToolCallCompleted)[0]
    chunks = of(ledger, PayloadChunk)
    assert tool_call.arguments_redacted is None
    assert sorted(tool_call.payload_digests) == ["arguments", "result"]
    assert tool_call.payload_digests["arguments"] == tool_call.arguments_digest  # all was kept
    assert sorted(model_call.payload_digests) == ["input", "output"]
    texts: dict[tuple[str, str], str] = {}
    for chunk in chunks:
        key = chunk.payload_event_id, chunk.part
        texts[key] = texts.get(key, "") + chunk.content
    assert texts[model_call.event_id, "output"] == '"hello"'
    for event in (model_call, tool_call):
        for part, digest in event.payload_digests.items():
            assert digest_bytes(texts[event.event_id, part].encode()) == digest
    assert {chunk.labels["team"] for chunk in chunks} == {"x"}
    records = ledger._producer.records  # type: ignore[attr-defined]
    sent = [record for record in records if record.topic == PAYLOADS.name]
    assert {record.key.decode() for record in sent} == {model_call.event_id, tool_call.event_id}
    assert max(len(record.value) for record in records) < EVENT_BYTES_MAX


def test_without_being_asked_nothing_goes_beside_the_event() -> None:
    with Ledger.for_testing(payloads=True) as ledger, ledger.run() as run, run.tool_call("t", arguments=[1]) as call:
        call.result("secret")
    assert of(ledger, PayloadChunk) == []
    assert of(ledger, ToolCallCompleted)[0].payload_digests == {}


def test_an_approval_keeps_what_is_to_be_approved_in_the_event() -> None:
    with Ledger.for_testing(keep_content=True, payloads=True) as ledger, ledger.run() as run:
        run.approval_requested(approval_id="1", action="refund", change={"amount": 5})
    (asked,) = [event for event in ledger.events if type(event).__name__ == "ApprovalRequested"]
    assert asked.change_redacted == '{"amount":5}'


def test_what_is_larger_than_a_payload_may_be_is_told_about() -> None:
    told: list[str] = []
    with (
        Ledger.for_testing(keep_content=True, payloads=True, on_emit_problem=lambda p: told.append(p.reason)) as ledger,
        ledger.run() as run,
        run.tool_call("t", arguments="x" * PAYLOAD_BYTES_MAX) as call,
    ):
        call.result([1])
    assert told == ["payload_too_large"]
    assert {chunk.part for chunk in of(ledger, PayloadChunk)} == {"result"}
    assert list(of(ledger, ToolCallCompleted)[0].payload_digests) == ["result"]


def test_payloads_are_numbered_by_themselves() -> None:
    with Ledger.for_testing(keep_content=True, payloads=True) as ledger, ledger.run() as run:
        with run.tool_call("t", arguments=[1]):
            pass
        with run.tool_call("t", arguments=[2]):
            pass
    assert [chunk.producer_seq for chunk in of(ledger, PayloadChunk)] == [0, 1]
    numbers = [event.producer_seq for event in ledger.events if not isinstance(event, PayloadChunk)]
    assert numbers == list(range(len(numbers)))


def test_payloads_are_no_column_of_the_trail() -> None:
    assert "content" not in typed_columns()
    assert "payload_digests" in typed_columns()


@pytest.mark.parametrize("value", ["on", "ON"])
def test_the_environment_asks_for_payloads(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("AGENTLEDGER_PAYLOADS", value)
    with Ledger.for_testing(keep_content=True) as ledger, ledger.run() as run, run.tool_call("t", arguments=[1]):
        pass
    assert len(of(ledger, PayloadChunk)) == 1


class FullForPayloads(FakeRecordProducer):
    """Takes events and no payloads."""

    def send(self, topic: str, *rest: Any) -> bool:
        return topic != PAYLOADS.name and super().send(topic, *rest)


def test_a_payload_that_finds_no_room_is_announced_and_its_event_stays() -> None:
    with Ledger.for_testing(producer=FullForPayloads(), keep_content=True, payloads=True) as ledger:
        with ledger.run() as run, run.tool_call("t", arguments=[1]):
            pass
        assert ledger.payloads is not None
        ledger.payloads.emitter.flush(0)
        gaps = of(ledger, GapDetected)
    assert [gap.gap_producer_id.endswith(":payloads") for gap in gaps] == [True]
    assert len(of(ledger, RunStarted)) == len(of(ledger, ToolCallCompleted)) == 1
