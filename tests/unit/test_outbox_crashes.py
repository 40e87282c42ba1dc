"""The law of the outbox, at every point where a process or a machine can die: what `emit` acknowledged is sent at least
once and in order, or its loss is announced.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentledger.producers.emitter import BLANK_ENVELOPE, Emitter
from agentledger.producers.envelope import RunEnvelope
from agentledger.producers.event_ids import new_event_id
from agentledger.producers.outbox import Outbox, OutboxSettings
from agentledger.producers.outbox.framing import EVENT, FILE_HEAD_BYTES, Frame, read_frames
from agentledger.producers.outbox.settings import FSYNC, WHEN_FULL, Fsync, WhenFull
from agentledger.schemas.codec import Codec
from agentledger.schemas.events import GapDetected, PolicyDecided
from agentledger.schemas.registry import open_registry
from agentledger.schemas.testing.record_producer import FakeRecordProducer, SentRecord
from tests.crashing_disk import CrashedError, CrashingDisk

FOLDER = Path("/outbox")
REGISTRY = open_registry()
CODEC = Codec(REGISTRY)
NOW_US = 1_800_000_000_000_000
FOREVER = 1 << 62


class Process:
    """One life of an agent's process with its outbox, without threads."""

    def __init__(self, machine: OutboxMachine) -> None:
        self.producer = FakeRecordProducer(up=False)
        outbox = Outbox(
            machine.settings, self.producer, disk=machine.disk, seconds=lambda: machine.now_s, is_threaded=False
        )
        self.outbox = outbox
        self.emitter = Emitter(
            self.producer, REGISTRY, tenant_id="acme", clock=lambda: machine.now_us, outbox=outbox,
            on_problem=lambda problem: None,
        )  # fmt: skip
        self.envelope = RunEnvelope("r")

    def emit(self, size: int) -> int | None:
        """The producer_seq of one event of about this many bytes; None where it was not taken."""
        emitter = self.emitter
        is_open = self.outbox.is_open()
        now_us = emitter.now_us()
        seq = emitter.counters.emitted
        body = PolicyDecided(**BLANK_ENVELOPE, policy="p", verdict="allow", reason="x" * size)
        taken = emitter.emit(
            emitter.kinds["PolicyDecided"], self.envelope, body, event_id=new_event_id(now_us), parent_event_id=None,
            span_id="", occurred_at=now_us,
        )  # fmt: skip
        return seq if taken and is_open else None


class OutboxMachine(RuleBasedStateMachine):
    """One host: a process after the other, with a broker that comes and goes."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = CrashingDisk()
        self.arrived: list[SentRecord] = []
        self.acknowledged: dict[str, list[int]] = defaultdict(list)
        self.now_s = 0.0
        self.now_us = NOW_US
        self.process: Process | None = None
        self.was_harmed = False

    @initialize(when_full=st.sampled_from(WHEN_FULL), fsync=st.sampled_from(FSYNC))
    def begin(self, when_full: str, fsync: str) -> None:
        self.settings = OutboxSettings(
            folder=FOLDER, bytes_max=1 << 20, when_full=cast("WhenFull", when_full), fsync=cast("Fsync", fsync),
            block_ms_max=0,
        )  # fmt: skip
        self.start()

    @precondition(lambda self: self.process is None)
    @rule()
    def start(self) -> None:
        """A process starts; a disk that is about to crash may not let it."""
        try:
            self.process = Process(self)
        except CrashedError:
            self.disk.restart()

    @precondition(lambda self: self.process is not None)
    @rule(count=st.sampled_from([1, 2, 5, 20, 80]), size=st.sampled_from([10, 3000, 15_000]))
    def emit(self, count: int, size: int) -> None:
        process = self.process
        assert process is not None
        try:
            for _ in range(count):
                seq = process.emit(size)
                if seq is not None:
                    self.acknowledged[process.emitter.producer_id].append(seq)
        except CrashedError:
            self.crashed()

    @precondition(lambda self: self.process is not None)
    @rule(delivered=st.integers(0, 100))
    def turn(self, delivered: int) -> None:
        """The outbox's thread runs once; the broker takes some of what it is given."""
        process = self.process
        assert process is not None
        self.now_s += 0.3
        try:
            process.outbox.turn()
            process.producer.deliver(delivered)
            process.outbox.turn()
        except CrashedError:
            self.crashed()

    @rule(steps=st.one_of(st.integers(0, 300), st.integers(0, 300_000)))
    def crash_soon(self, steps: int) -> None:
        self.disk.steps_left = steps

    @precondition(lambda self: self.process is not None)
    @rule()
    def kill(self) -> None:
        self.crashed()

    @precondition(lambda self: self.process is not None)
    @rule(data=st.data())
    def lose_power(self, data: st.DataObject) -> None:
        self.lost_process()
        self.disk.lose_power(lambda size: data.draw(st.integers(0, size)))
        self.was_harmed = True

    @precondition(lambda self: self.process is not None)
    @rule()
    def end_in_order(self) -> None:
        assert self.process is not None
        try:
            self.process.outbox.close()
        except CrashedError:
            self.crashed()
        else:
            self.lost_process()

    @rule(free_bytes=st.sampled_from([None, 0, 500, 10_000]))
    def fill_disk(self, free_bytes: int | None) -> None:
        self.disk.free_bytes = free_bytes
        self.was_harmed = self.was_harmed or free_bytes is not None

    @rule()
    def clock_is_set_back(self) -> None:
        self.now_us -= 3_600_000_000

    @precondition(lambda self: self.process is None)
    @rule(data=st.data())
    def flip_a_bit(self, data: st.DataObject) -> None:
        """Of an event in a segment that nobody uses now. (Who announces a loss on a damaged disk may lose that.)"""
        events = []
        for path, node in self.disk.nodes.items():
            if path.suffix == ".seg":
                begin = FILE_HEAD_BYTES
                for item in read_frames(bytes(node.content[begin:]), bytes.fromhex(path.stem[11:]), is_end=True):
                    if isinstance(item, Frame) and item.record.kind == EVENT:
                        events.append((node.content, begin, FILE_HEAD_BYTES + item.end))
                    begin = FILE_HEAD_BYTES + item.end
        if events:
            content, begin, end = events[data.draw(st.integers(0, len(events) - 1))]
            self.was_harmed = True
            content[data.draw(st.integers(begin, end - 1))] ^= 1 << data.draw(st.integers(0, 7))

    def crashed(self) -> None:
        self.lost_process()
        self.disk.restart()

    def lost_process(self) -> None:
        assert self.process is not None
        self.arrived += self.process.producer.records
        self.process = None

    @invariant()
    def nothing_is_over_the_bound(self) -> None:
        if self.process is not None and self.settings.when_full == "drop_oldest":
            own = self.process.outbox._own
            assert own is None or own.segments.bytes_waiting < self.settings.bytes_max + 200_000

    def teardown(self) -> None:
        if not hasattr(self, "settings"):
            return
        if self.process is not None:
            self.crashed()
        self.disk.restart()
        self.disk.free_bytes = None
        last = Process(self)
        last.producer.come_back()
        assert last.outbox.flush(20, with_orphans=True)
        last.outbox.close()
        self.arrived += last.producer.records
        self.check_nothing_is_said_to_be_lost_that_arrived()
        assert [path for path in self.disk.folders if path.parent == FOLDER and path.name[0] != "."] == []
        check_law(self.acknowledged, self.arrived)

    def check_nothing_is_said_to_be_lost_that_arrived(self) -> None:
        """As long as the machine and its disk were well."""
        if self.was_harmed:
            return
        events = [CODEC.decode(record.value) for record in self.arrived]
        found = {(event.producer_id, event.producer_seq) for event in events}
        for event in events:
            if isinstance(event, GapDetected):
                lost = range(event.first_missing_seq, event.last_missing_seq + 1)
                assert not [seq for seq in lost if (event.gap_producer_id, seq) in found]


def check_law(acknowledged: dict[str, list[int]], arrived: list[SentRecord]) -> None:
    """Each acknowledged event arrived, in order, or was announced as lost."""
    found: dict[str, list[int]] = defaultdict(list)
    lost: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for record in arrived:
        event = CODEC.decode(record.value)
        if isinstance(event, GapDetected):
            open_ended = event.reason == "not_on_disk" and event.first_missing_seq == event.last_missing_seq
            last = FOREVER if open_ended else event.last_missing_seq
            lost[event.gap_producer_id].append((event.first_missing_seq, last))
        elif event.producer_seq not in found[event.producer_id]:
            found[event.producer_id].append(event.producer_seq)
    for producer_id, seqs in acknowledged.items():
        missing = set(seqs) - set(found[producer_id])
        unannounced = {seq for seq in missing if not any(a <= seq <= b for a, b in lost[producer_id])}
        assert not unannounced, (producer_id, sorted(unannounced), lost[producer_id])
        assert found[producer_id] == sorted(found[producer_id])


OutboxMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=20, deadline=None)
TestOutbox = OutboxMachine.TestCase
