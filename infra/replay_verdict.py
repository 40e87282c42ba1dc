"""The last word on a replay: what the parts of a stage have left over is matched, and the remainder is judged. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentledger.infra.replay_compare import (
    GRACE_US,
    NAMED_MAX,
    SCATTERED,
    Comparison,
    Difference,
    Expected,
    Rest,
    decoded,
    difference_of,
    in_time,
    is_written,
    named_fields,
)
from agentledger.schemas.codec import Codec
from agentledger.schemas.events import Event
from agentledger.sinks.replay_source import LedgerRecord
from agentledger.sinks.rows import CONFLICT


@dataclass
class Verdict:
    """What is left when all parts of a stage are through."""

    differences: list[Difference] = field(default_factory=list)
    count: int = 0
    equal: Counter[str] = field(default_factory=Counter)  # conclusions whose counterpart another part held
    not_yet: Counter[str] = field(default_factory=Counter)  # by topic: they follow from events, and are not written yet
    ahead: int = 0  # rows that follow from events which were not in the ledger yet

    def name(self, found: Difference) -> None:
        """Count a difference, and keep it if there are few."""
        self.count += 1
        if len(self.differences) < NAMED_MAX:
            self.differences.append(found)


def conclude(codec: Codec, rests: Sequence[Rest]) -> Verdict:
    """Match what the parts of one stage left over, and judge the remainder."""
    across = _across(rests)
    last = across.rest()
    verdict = Verdict(equal=across.equal)
    for found in across.differences(codec):
        verdict.name(found)
    verdict.count = across.unequal
    for rest in rests:
        verdict.count += rest.missing + rest.unexpected
        verdict.not_yet.update(rest.not_yet)
    folded_us = {partition: time_us for rest in rests for partition, time_us in rest.folded_us.items()}
    _judge(codec, last, folded_us, verdict)
    across.close()
    verdict.differences.sort(key=in_time)
    return verdict


def not_written_yet(rests: Sequence[Rest]) -> Iterator[Expected]:
    """The scattered conclusions of one stage that follow from newer events than all that is written of them."""
    across = _across(rests)
    last = across.rest()
    across.close()
    yield from (one for one in last.expected if one.topic in SCATTERED and not is_written(one, last))


def _across(rests: Sequence[Rest]) -> Comparison:
    across = Comparison()
    for rest in rests:
        for expected in rest.expected:
            across.expect(expected)
        across.know(rest)
    for rest in rests:
        for record in rest.met:
            across.meet(record)
    return across


def _judge(codec: Codec, last: Rest, folded_us: dict[int, int], verdict: Verdict) -> None:
    exact = {(record.topic, record.value): record for record in last.met if record.occurrence == CONFLICT}
    renamed = _by_number(codec, last.met)
    for expected in last.expected:
        twin = exact.pop((expected.topic, expected.value), None)
        if twin is not None:  # a run in two partitions: both contents were concluded, and both are there
            verdict.equal[twin.topic] += 1
            renamed = {key: record for key, record in renamed.items() if record is not twin}
            continue
        event = decoded(codec, expected.value)
        number = _number(event)
        record = renamed.pop(number, None) if number is not None else None
        if record is not None:
            verdict.name(difference_of(codec, record, expected))
        elif is_written(expected, last):
            verdict.name(_missing(expected, event))
        else:
            verdict.not_yet[expected.topic] += 1
    newest_us = max(folded_us.values(), default=0)
    for record in renamed.values():
        if _is_ahead(codec, record, folded_us, newest_us):
            verdict.ahead += 1
        else:
            verdict.name(difference_of(codec, record, None))


def _is_ahead(codec: Codec, record: LedgerRecord, folded_us: dict[int, int], newest_us: int) -> bool:
    """True for what follows from an event that was written after the ledger was read."""
    event = decoded(codec, record.value)
    if event is None or record.occurrence == CONFLICT:
        return False
    own_us = newest_us if record.topic in SCATTERED else folded_us.get(record.partition, 0)
    return event.occurred_at > own_us and event.occurred_at > newest_us - GRACE_US


def _by_number(codec: Codec, records: list[LedgerRecord]) -> dict[Any, LedgerRecord]:
    """Rows by producer and number, so that one whose id was changed is found by its place in the sequence."""
    found: dict[Any, LedgerRecord] = {}
    for record in records:
        event = decoded(codec, record.value)
        key = _number(event) if event is not None else None
        found[(record.topic, record.partition, record.log_index) if key is None or key in found else key] = record
    return found


def _number(event: Event | None) -> tuple[str, int] | None:
    return None if event is None else (event.producer_id, event.producer_seq)


def _missing(expected: Expected, event: Event | None) -> Difference:
    return Difference(
        "missing", expected.topic, expected.partition, None, expected.ledger_time_us, **named_fields(event),
        text=f"it follows from index {expected.log_index} of the input's partition {expected.partition}",
    )  # fmt: skip
