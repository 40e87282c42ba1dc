"""What a replay concludes against what stands in the ledger: byte for byte, then field by field.

Conclusions are compared by event id, as a set: in the ledger they stand in another order (several source partitions)
and perhaps more than once (a worker that was killed writes them again; the writer marks those as duplicates).

- *changed*: the ledger's bytes are others than those that follow from its events.
- *missing*: it follows from the ledger's events, isn't there, and conclusions of later events are.
- *unexpected*: it is in the ledger and does not follow from its events.
- *conflict*: a second content under an id that is there already.
- *misread*: the row's typed columns, which views read, say something else than its bytes.

What follows from the newest events may not have been written when the ledger was read, and a conclusion may have been
written before the event that it follows from: both are counted, and are no difference.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain, islice
from operator import attrgetter
from typing import Any, NamedTuple

from agentledger.infra.replay_unmatched import IN_MEMORY_MAX, Unmatched
from agentledger.schemas.codec import Codec
from agentledger.schemas.errors import AgentledgerError
from agentledger.schemas.events import Event
from agentledger.schemas.topics import CONTROL, EVENTS, INTEGRITY
from agentledger.sinks.replay_source import LedgerRecord, RecordBlock
from agentledger.sinks.rows import CONFLICT, DUPLICATE, FIRST

ID_START, ID_END = 6, 42  # of the event id's text, in every value
GRACE_US = 600_000_000  # how far apart an event and its conclusion may be read where one of them is missing yet
NAMED_MAX = 1000  # differences that are decoded and named; the rest is counted
LEFT_MAX = 100_000  # rows without a counterpart that are kept to look for one elsewhere
# Keyed by neither run nor tenant: what follows from one partition stands in any.
SCATTERED = frozenset({CONTROL.name, EVENTS.name, INTEGRITY.name})


class Expected(NamedTuple):
    """A conclusion of the replay, with the place of the event that it follows from."""

    topic: str
    value: bytes
    partition: int
    log_index: int
    ledger_time_us: int
    key: bytes = b""


class FieldDifference(NamedTuple):
    """One field: what the ledger says, and what the replay says. None where there is no such event."""

    name: str
    in_ledger: Any
    replayed: Any


@dataclass(frozen=True)
class Difference:
    """One conclusion that is not in the ledger as it follows from it. `log_index` is None where it isn't there."""

    kind: str
    topic: str
    partition: int
    log_index: int | None
    ledger_time_us: int  # of the row, or of the event from which the missing one follows
    event_id: str
    event_type: str
    run_id: str
    producer_id: str = ""
    producer_seq: int | None = None
    fields: tuple[FieldDifference, ...] = ()
    text: str = ""


@dataclass
class Rest:
    """What one part of the logs leaves unmatched: another part may hold its counterpart."""

    expected: list[Expected] = field(default_factory=list)
    met: list[LedgerRecord] = field(default_factory=list)
    frontier: dict[tuple[str, int], int] = field(default_factory=dict)
    written_us: dict[int, int] = field(default_factory=dict)
    missing: int = 0  # conclusions beyond LEFT_MAX that should be there
    not_yet: Counter[str] = field(default_factory=Counter)  # such that may not be written yet, by topic
    unexpected: int = 0  # rows beyond LEFT_MAX
    folded_us: dict[int, int] = field(default_factory=dict)  # partition to the ledger time up to which it was folded


class Comparison:
    """Matches conclusions with rows as both come, and keeps only what has no counterpart yet."""

    def __init__(self, in_memory_max: int = IN_MEMORY_MAX) -> None:
        self._in_memory_max = in_memory_max
        self._in_order: defaultdict[str, deque[Expected]] = defaultdict(deque)  # by topic: what rows are to say next
        self._expected = Unmatched(in_memory_max)  # what they may say at any time
        self._met = Unmatched(in_memory_max)
        self._again: dict[bytes, list[Expected]] = {}
        self._conflicts: list[LedgerRecord] = []
        self._unequal: list[tuple[LedgerRecord, Expected]] = []
        self._frontier: dict[tuple[str, int], int] = {}
        self._written_us: dict[int, int] = {}
        self.equal: Counter[str] = Counter()  # by topic
        self.expected = 0
        self.repeated = 0
        self.unequal = 0

    def expect(self, expected: Expected) -> None:
        """A conclusion of the replay, in the order of its source partition."""
        self.expected += 1
        record = None if self._met.is_empty else self._met.pop(expected.value[ID_START:ID_END])
        if record is not None:
            self._match(record, expected)
        elif expected.topic in SCATTERED:
            self._wait(expected)
        else:
            queue = self._in_order[expected.topic]
            queue.append(expected)
            if len(queue) > self._in_memory_max:
                self._leave_order(expected.topic)

    def expect_all(self, many: Sequence[Expected]) -> None:
        """Conclusions in the order of their source partition."""
        if not self._met.is_empty:
            for expected in many:
                self.expect(expected)
            return
        self.expected += len(many)
        for expected in many:
            if expected.topic in SCATTERED:
                self._wait(expected)
            else:
                self._in_order[expected.topic].append(expected)
        for topic, queue in self._in_order.items():
            if len(queue) > self._in_memory_max:
                self._leave_order(topic)

    def meet_all(self, block: RecordBlock) -> None:
        """Rows of a derived topic, in the order of their logs. Nearly all stand as they follow, one after the other."""
        queue = self._in_order[block.place.topic]
        if self._are_next(block, queue):
            return
        for row, (value, occurrence) in enumerate(zip(block.values, block.occurrences, strict=True)):
            if queue and queue[0].value == value and occurrence == FIRST:
                self._count_equal(queue.popleft(), block.times_us[row])
            else:
                self.meet(block.record(row))

    def _are_next(self, block: RecordBlock, queue: deque[Expected]) -> bool:
        """Whether all rows say what is expected next, byte for byte; then they are counted as equal."""
        size = len(block)
        if not size or len(queue) < size or block.occurrences.count(FIRST) < size:
            return False
        following = list(islice(queue, size))
        partitions = {one.partition for one in following}
        if len(partitions) > 1 or [one.value for one in following] != list(block.values):
            return False
        for _ in following:
            queue.popleft()
        self.equal[block.place.topic] += size
        furthest = max(following, key=attrgetter("log_index"))
        self._count_written(furthest, max(block.times_us))
        return True

    def meet(self, record: LedgerRecord) -> None:
        """A row of a derived topic, wherever what it follows from stands."""
        if record.occurrence == DUPLICATE:
            self.repeated += 1
            return
        if record.occurrence == CONFLICT:
            self._conflicts.append(record)
            return
        key = (record.value or b"")[ID_START:ID_END]
        expected = self._expected.pop(key)
        if expected is None and self._in_order[record.topic]:
            self._leave_order(record.topic)
            expected = self._expected.pop(key)
        if expected is not None:
            self._match(record, expected)
        elif not self._met.add(key, record):
            self._conflicts.append(record)

    def know(self, rest: Rest) -> None:
        """Take over how far another part's conclusions are written."""
        for place, index in rest.frontier.items():
            self._frontier[place] = max(index, self._frontier.get(place, -1))
        for partition, time_us in rest.written_us.items():
            self._written_us[partition] = max(time_us, self._written_us.get(partition, 0))

    def left(self) -> Iterator[Expected]:
        """The conclusions that have no counterpart."""
        for topic in list(self._in_order):
            self._leave_order(topic)
        yield from self._expected.items()
        for many in self._again.values():
            yield from many

    def rest(self) -> Rest:
        """What has no counterpart, and how much more there is than can be handed on."""
        rest = Rest(frontier=self._frontier, written_us=self._written_us)
        for expected in self.left():
            if len(rest.expected) < LEFT_MAX or expected.topic in SCATTERED:
                rest.expected.append(expected)
            elif is_written(expected, rest):
                rest.missing += 1
            else:
                rest.not_yet[expected.topic] += 1
        for record in chain(self._conflicts, self._met.items()):
            if len(rest.met) < LEFT_MAX:
                rest.met.append(record)
            else:
                rest.unexpected += 1
        return rest

    def differences(self, codec: Codec) -> list[Difference]:
        """The differences so far, named: the first NAMED_MAX; `unequal` is their count."""
        return [difference_of(codec, record, expected) for record, expected in self._unequal]

    def close(self) -> None:
        """Remove what is in files."""
        self._expected.close()
        self._met.close()

    def _leave_order(self, topic: str) -> None:
        """From here on rows of the topic find what is expected so far by its id."""
        queue = self._in_order[topic]
        while queue:
            self._wait(queue.popleft())

    def _wait(self, expected: Expected) -> None:
        key = expected.value[ID_START:ID_END]
        if not self._expected.add(key, expected):
            self._again.setdefault(key, []).append(expected)  # a run in two partitions: one event counted in each

    def _match(self, record: LedgerRecord, expected: Expected) -> None:
        if record.value == expected.value and record.topic == expected.topic:
            self._count_equal(expected, record.ledger_time_us)
            return
        self._count_written(expected, record.ledger_time_us)
        self.unequal += 1
        if len(self._unequal) < NAMED_MAX:
            self._unequal.append((record, expected))

    def _count_equal(self, expected: Expected, time_us: int) -> None:
        self.equal[expected.topic] += 1
        self._count_written(expected, time_us)

    def _count_written(self, expected: Expected, time_us: int) -> None:
        place = expected.topic, expected.partition
        if expected.log_index > self._frontier.get(place, -1):
            self._frontier[place] = expected.log_index
        if time_us > self._written_us.get(expected.partition, 0):
            self._written_us[expected.partition] = time_us


def in_time(one: Difference) -> tuple[int, str, int, int]:
    """The order in which differences are named."""
    return one.ledger_time_us, one.topic, one.partition, one.log_index if one.log_index is not None else -1


def is_written(expected: Expected, last: Rest) -> bool:
    """True where conclusions of later events of the same source partition are there: they are written in order."""
    if expected.log_index < last.frontier.get((expected.topic, expected.partition), -1):
        return True
    return expected.ledger_time_us + GRACE_US < last.written_us.get(expected.partition, 0)


def decoded(codec: Codec, value: bytes | None) -> Event | None:
    """The event in these bytes; None where they can't be read."""
    try:
        return codec.decode(value)
    except AgentledgerError:
        return None


def difference_of(codec: Codec, record: LedgerRecord, expected: Expected | None) -> Difference:
    """What a row is, where it isn't what is expected; None: nothing is."""
    stored = decoded(codec, record.value)
    replayed = decoded(codec, expected.value) if expected else None
    kind = "changed" if expected else "conflict" if record.occurrence == CONFLICT else "unexpected"
    text = "" if stored else "the row's bytes can't be read"
    if expected and record.topic != expected.topic:
        text = f"it belongs to {expected.topic}"
    return Difference(
        kind, record.topic, record.partition, record.log_index, record.ledger_time_us,
        **named_fields(replayed or stored),
        fields=field_differences(stored, replayed) if expected and stored else (), text=text,
    )  # fmt: skip


def misread(codec: Codec, record: LedgerRecord, text: str) -> Difference:
    """A row whose columns don't say what its bytes say."""
    named = named_fields(decoded(codec, record.value))
    return Difference(
        "misread", record.topic, record.partition, record.log_index, record.ledger_time_us, **named, text=text
    )


def named_fields(event: Event | None) -> dict[str, Any]:
    """How a difference names its event."""
    if event is None:
        return {"event_id": "", "event_type": "", "run_id": ""}
    return {
        "event_id": event.event_id,
        "event_type": type(event).__name__,
        "run_id": event.run_id,
        "producer_id": event.producer_id,
        "producer_seq": event.producer_seq,
    }


def field_differences(stored: Event | None, replayed: Event | None) -> tuple[FieldDifference, ...]:
    """The fields in which two events differ, in the order of the record; the record's name first where that does."""
    found = []
    if stored is not None and replayed is not None and type(stored) is not type(replayed):
        found.append(FieldDifference("event_type", type(stored).__name__, type(replayed).__name__))
    names = list(dict.fromkeys(entry.name for event in (stored, replayed) if event for entry in fields(event)))
    for name in names:
        left, right = getattr(stored, name, None), getattr(replayed, name, None)
        if left != right:
            found.append(FieldDifference(name, left, right))
    return tuple(found)
