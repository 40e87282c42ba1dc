"""Events that nobody counted (producer_seq -1): no loss is claimed of them, and none is taken for a repetition."""

from __future__ import annotations

from agentledger.processors.partial_records import decode_partial
from agentledger.processors.partials import Partials
from agentledger.processors.run_state import SeenEvents
from agentledger.schemas.events import ValidationCompleted
from agentledger.schemas.identity import UNCOUNTED, uuid7

RECENT = 4


def tails(count: int) -> list[str]:
    """Distinct ends of event ids."""
    return [f"{number:04x}-{number:012x}" for number in range(count)]


def test_every_uncounted_event_of_a_long_run_is_counted_once() -> None:
    seen = SeenEvents(RECENT)
    for tail in tails(10 * RECENT):
        assert seen.add(tail, "gateway:bot", UNCOUNTED)
        assert not seen.add(tail, "gateway:bot", UNCOUNTED)
    assert seen.dump()[0][0] == {}


def test_numbers_of_the_same_producer_still_tell_repetitions() -> None:
    seen = SeenEvents(RECENT)
    for number, tail in enumerate(tails(10 * RECENT)):
        seen.add(tail, "ts-1", number)
    assert not seen.add("ffff-000000000001", "ts-1", 0)
    assert seen.add("ffff-000000000002", "ts-1", UNCOUNTED)


def test_stage_two_hears_of_no_number() -> None:
    partials = Partials(1)
    partials.load(0, None)
    partials.pass_time(0, 1_000_000)
    for offset, seq in enumerate((UNCOUNTED, 0)):
        event = ValidationCompleted(
            event_id=uuid7(1_000_000),
            tenant_id="acme",
            producer_id=f"p{seq}",
            producer_seq=seq,
            run_id="r",
            occurred_at=1,
        )
        partials.count(0, offset, event, "group")
    partials.pass_time(0, 2_000_000)
    [told] = [decode_partial(record.value) for record in partials.take_closed() if record.key == b"acme"]
    assert (told.events, list(told.seqs)) == (2, ["p0"])
