"""When the shell writes states, and in which order: what follows first, then the states, then the input is done."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from faust.types import TP, ConsumerMessage

from agentledger.processors import WorkerConfig
from agentledger.processors.faust_app import ShellPlan
from agentledger.processors.run_fold import DerivedRecord, StateRecord
from agentledger.processors.shell import Shell, Take

INPUT, CHANGELOG, DERIVED = "input", "changelog", "derived"
NO_BROKER = {"bootstrap.servers": "127.0.0.1:9", "log_level": 0}


class Tally:
    """A fold that counts records; a value of `b"report"` can wait."""

    def __init__(self) -> None:
        self.count = 0

    def inputs(self) -> Mapping[str, Take]:
        return {INPUT: self.take}

    def take(self, partition: int, offset: int, timestamp_ms: int, value: bytes | None) -> list[DerivedRecord]:
        self.count += 1
        return [DerivedRecord(DERIVED, b"key", value or b"", partition)]

    def take_changed(self) -> list[StateRecord]:
        return [StateRecord(0, b"tally", b"%d" % self.count)]

    def forget(self) -> None:
        self.count = 0

    def can_wait(self, value: bytes | None) -> bool:
        return value == b"report"


class Output:
    """Notes what is sent, and when all of it had to be acknowledged."""

    def __init__(self, said: list[str]) -> None:
        self._said = said

    def send(self, topic: str, _partition: int, _key: bytes, value: bytes | None) -> None:
        self._said.append(f"{topic} {(value or b'').decode()}")

    async def settled(self) -> None:
        if self._said and self._said[-1] != "settled":
            self._said.append("settled")


class Rig:
    """A shell without a broker: what it sends, and what it acknowledges."""

    def __init__(self, folder: Path, **plan: float) -> None:
        self.said: list[str] = []
        self._offset = 0
        config = WorkerConfig(NO_BROKER, folder, 1)
        self.shell = Shell(ShellPlan("group", "table", CHANGELOG, **plan), config, lambda _: Tally())  # type: ignore[arg-type]
        self.shell._output = Output(self.said)  # type: ignore[assignment]
        self.shell._table = SimpleNamespace(put=lambda *_: None)  # type: ignore[assignment]
        self.shell._orders[INPUT].own({0: 0})

    def event(self, value: bytes) -> Any:
        """The next record of the input."""
        offset, self._offset = self._offset, self._offset + 1
        message = SimpleNamespace(topic=INPUT, partition=0, offset=offset, timestamp=0.0, value=value)
        return SimpleNamespace(message=message, ack=lambda: self.said.append(f"done {offset}"))


def test_what_follows_is_safe_before_the_state_and_that_before_the_input_is_done(tmp_path: Path) -> None:
    async def run() -> list[str]:
        rig = Rig(tmp_path)
        await rig.shell._fold_batch([rig.event(b"a"), rig.event(b"b")])
        return rig.said

    said = asyncio.run(run())
    assert said == ["derived a", "derived b", "settled", "changelog 2", "settled", "done 0", "done 1"]


def test_states_of_several_batches_are_written_once_and_nothing_is_done_before(tmp_path: Path) -> None:
    async def run() -> list[str]:
        rig = Rig(tmp_path, state_wait_s=60.0)
        await rig.shell._fold_batch([rig.event(b"a")])
        await rig.shell._fold_batch([rig.event(b"b")])
        assert rig.said == ["derived a", "settled", "derived b", "settled"]
        await rig.shell._revoked()
        return rig.said[4:]

    assert asyncio.run(run()) == ["changelog 2", "settled", "done 0", "done 1"]


def test_states_are_written_when_much_was_folded_however_little_time_has_passed(tmp_path: Path) -> None:
    async def run() -> list[str]:
        rig = Rig(tmp_path, state_wait_s=60.0, batch_bytes_max=4)
        await rig.shell._fold_batch([rig.event(b"four")])
        return rig.said

    assert asyncio.run(run())[-1] == "done 0"


def test_what_was_folded_is_written_though_nothing_more_comes(tmp_path: Path) -> None:
    async def run() -> list[str]:
        rig = Rig(tmp_path, state_wait_s=0.01)
        work = asyncio.create_task(rig.shell._work())
        event, done = rig.event(b"a"), asyncio.Event()
        event.ack = done.set
        await rig.shell._waiting.put(event)
        await done.wait()
        work.cancel()
        return rig.said

    assert asyncio.run(run()) == ["derived a", "settled", "changelog 1", "settled"]


def test_what_is_dropped_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Faust gives no partition away, and doesn't stop, before every message that it has handed out is done with."""

    async def run() -> list[int]:
        rig = Rig(tmp_path)
        consumer = rig.shell.app.consumer
        messages = [message_of(offset) for offset in (0, 7)]
        for message in messages:
            consumer.track_message(message)
        await rig.shell._fold_batch([SimpleNamespace(message=messages[1])])  # ahead of what comes next
        rig.shell._orders[INPUT].disown()
        await rig.shell._fold_batch([SimpleNamespace(message=messages[0])])  # left over
        return [message.offset for message in consumer.unacked]

    assert asyncio.run(run()) == []


def test_partitions_are_given_away_also_while_a_seek_waits(tmp_path: Path) -> None:
    """A seek in a rebalance waits for its end; the rebalance waits until what is in hand is written."""

    async def run() -> list[dict[TP, int]]:
        rig = Rig(tmp_path)
        sought: list[dict[TP, int]] = []
        has_begun = asyncio.Event()

        async def seek_wait(places: dict[TP, int]) -> None:
            sought.append(places)
            has_begun.set()
            await asyncio.Event().wait()

        rig.shell.app.consumer.seek_wait = seek_wait
        insisting = asyncio.create_task(rig.shell._insist())
        async with asyncio.timeout(10):
            await rig.shell._fold_batch([SimpleNamespace(message=message_of(7))])
            await has_begun.wait()
            await rig.shell._revoked()
        insisting.cancel()
        return sought

    assert asyncio.run(run()) == [{TP(INPUT, 0): 0}]


def message_of(offset: int) -> ConsumerMessage:
    """A message of the input's only partition, as Faust has it."""
    return ConsumerMessage(INPUT, 0, offset, 0.0, 0, [], None, b"a", None, tp=TP(INPUT, 0))


def test_what_nobody_waits_for_is_folded_with_what_somebody_does(tmp_path: Path) -> None:
    async def run() -> tuple[list[bytes], list[bytes]]:
        rig = Rig(tmp_path, gather_s=60.0)
        for value in (b"report", b"request", b"report"):
            rig.shell._waiting.put_nowait(rig.event(value))
        first = [await rig.shell._waiting.get()]
        await rig.shell._gather(first)
        urgent = [rig.event(b"request")]
        await rig.shell._gather(urgent)
        return [event.message.value for event in first], [event.message.value for event in urgent]

    assert asyncio.run(run()) == ([b"report", b"request"], [b"request"])


def test_what_nobody_waits_for_does_not_wait_for_ever(tmp_path: Path) -> None:
    async def run() -> int:
        rig = Rig(tmp_path, gather_s=0.01)
        batch = [rig.event(b"report")]
        await rig.shell._gather(batch)
        return len(batch)

    assert asyncio.run(run()) == 1
