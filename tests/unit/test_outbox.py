"""The outbox on a real disk: what is kept, sent, given up and announced, by whom, and when there is one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer

from agentledger.infra.cli.outbox import outbox
from agentledger.producers import EmitProblem, Ledger, OutboxSettings
from agentledger.producers.outbox import Outbox
from agentledger.producers.outbox.disk import RealFile
from agentledger.producers.outbox.framing import FILE_HEAD_BYTES, file_head
from agentledger.producers.outbox.settings import outbox_from_env, to_outbox
from agentledger.producers.outbox.survey import survey, waiting_records
from agentledger.schemas.codec import Codec
from agentledger.schemas.errors import ConfigurationError, UsageError
from agentledger.schemas.events import GapDetected
from agentledger.schemas.registry import open_registry
from agentledger.schemas.testing.record_producer import FakeRecordProducer
from agentledger.schemas.topics import EVENTS, INTEGRITY
from tests.kafka_broker import events_on

CODEC = Codec(open_registry())
MIB = 1 << 20


def wait_until(is_so: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.005)


def open_ledger(folder: Path, producer: FakeRecordProducer, **settings: Any) -> Ledger:
    outbox = OutboxSettings(folder=folder, **settings)
    return Ledger(producer=producer, outbox=outbox, flush_wait_ms_max=0, on_emit_problem=lambda problem: None)


def decide(ledger: Ledger, count: int, size: int = 10) -> None:
    """A run of `count` events: its start, decisions of this many bytes, its end."""
    with ledger.run("w", run_id="r") as run:
        for _ in range(count - 2):
            run.policy_decision(policy="p", verdict="allow", reason="x" * size)


def seqs(producer: FakeRecordProducer) -> list[int]:
    return [CODEC.decode(record.value).producer_seq for record in producer.records if record.topic == EVENTS.name]


def gaps(producer: FakeRecordProducer) -> list[tuple[int, int, str]]:
    found = [CODEC.decode(record.value) for record in producer.records if record.topic == INTEGRITY.name]
    return [(gap.first_missing_seq, gap.last_missing_seq, gap.reason) for gap in found if isinstance(gap, GapDetected)]


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.seg"))


def send_what_was_left(folder: Path, **settings: Any) -> FakeRecordProducer:
    """Another process comes; what it sends."""
    producer = FakeRecordProducer()
    ledger = open_ledger(folder, producer, **settings)
    assert ledger._outbox is not None
    assert ledger._outbox.flush(20, with_orphans=True)
    ledger.close()
    assert [path for path in folder.iterdir() if path.is_dir()] == []
    return producer


def test_events_wait_on_disk_arrive_in_order_and_leave_nothing(tmp_path: Path) -> None:
    producer = FakeRecordProducer(up=False)
    ledger = open_ledger(tmp_path, producer)
    decide(ledger, 500)
    assert ledger.counters.waiting == 500
    (report,) = survey(tmp_path)
    assert (report.events, report.announcements, report.damaged, report.is_in_use) == (500, 0, 0, True)
    producer.come_back()
    assert ledger.flush(20) == 0
    assert seqs(producer) == list(range(500))
    assert ledger.counters.delivered == 500
    ledger.close()
    assert list(tmp_path.iterdir()) == []


def test_what_a_closed_ledger_left_is_sent_by_the_next(tmp_path: Path) -> None:
    problems: list[EmitProblem] = []
    ledger = Ledger(
        producer=FakeRecordProducer(up=False), outbox=tmp_path, flush_wait_ms_max=0, on_emit_problem=problems.append
    )
    decide(ledger, 30)
    ledger.close()
    ledger.close()
    decide(ledger, 2)  # too late, and counted
    assert ledger.counters.waiting == 30 + 2 - sum(ledger.counters.dropped.values())
    assert str(tmp_path) in problems[0].what
    producer = send_what_was_left(tmp_path)
    assert (seqs(producer), gaps(producer)) == (list(range(30)), [])


def test_what_was_acknowledged_is_not_sent_again(tmp_path: Path) -> None:
    producer = FakeRecordProducer(up=False)
    ledger = open_ledger(tmp_path, producer)
    decide(ledger, 100)
    wait_until(lambda: producer.waiting() == 100)
    producer.deliver(60)
    wait_until(lambda: ledger.counters.delivered == 60)
    ledger.close()
    assert seqs(send_what_was_left(tmp_path)) == list(range(60, 100))


def test_a_full_outbox_gives_up_its_oldest_segments_and_says_so(tmp_path: Path) -> None:
    producer = FakeRecordProducer(up=False, records_max=10)
    ledger = open_ledger(tmp_path, producer, bytes_max=MIB)
    decide(ledger, 1000, size=4000)
    assert sum(path.stat().st_size for path in segments(tmp_path)) < MIB + 100_000
    producer.come_back()
    assert ledger.flush(20) == 0
    arrived, lost = seqs(producer), gaps(producer)
    assert arrived == sorted(arrived)
    assert arrived[-1] == 999
    assert {reason for *_, reason in lost} == {"outbox_full"}
    missing = [seq for first, last, _ in lost for seq in range(first, last + 1)]
    assert sorted(arrived + missing) == list(range(1000))
    counters = ledger.counters
    assert (counters.dropped, counters.waiting) == ({"outbox_full": len(missing)}, 0)
    ledger.close()


def test_segments_that_are_dropped_while_they_are_synced_stop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = RealFile.sync

    def slowly(file: RealFile) -> None:
        time.sleep(0.005)
        sync(file)

    monkeypatch.setattr(RealFile, "sync", slowly)
    producer = FakeRecordProducer(up=False, records_max=10)
    ledger = open_ledger(tmp_path, producer, bytes_max=MIB, fsync="interval", fsync_interval_ms=1)
    decide(ledger, 1000, size=4000)
    producer.come_back()
    assert ledger.flush(20) == 0
    missing = [seq for first, last, _ in gaps(producer) for seq in range(first, last + 1)]
    assert sorted(seqs(producer) + missing) == list(range(1000))
    ledger.close()


def test_an_error_that_nobody_thought_of_does_not_end_the_sending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn, left = Outbox.turn, [RuntimeError("nobody thought of this")]

    def failing_once(outbox: Outbox) -> None:
        if left:
            raise left.pop()
        turn(outbox)

    monkeypatch.setattr(Outbox, "turn", failing_once)
    producer, told = FakeRecordProducer(), list[EmitProblem]()
    ledger = Ledger(
        producer=producer, outbox=OutboxSettings(folder=tmp_path), flush_wait_ms_max=0, on_emit_problem=told.append
    )
    decide(ledger, 20)
    assert ledger.flush(20) == 0
    assert seqs(producer) == list(range(20))
    assert any("nobody thought" in problem.what for problem in told)
    ledger.close()


def test_an_outbox_that_blocks_waits_for_room_and_gives_up_the_new_event_at_its_deadline(tmp_path: Path) -> None:
    producer = FakeRecordProducer(up=False)
    ledger = open_ledger(tmp_path, producer, bytes_max=MIB, when_full="block", block_ms_max=20)
    decide(ledger, 300, size=4000)
    dropped = ledger.counters.dropped["outbox_full"]
    assert 30 < dropped < 100
    producer.come_back()
    assert ledger.flush(20) == 0
    assert seqs(producer) == list(range(300 - dropped))
    assert gaps(producer) == [(300 - dropped, 299, "outbox_full")]
    ledger.close()


@pytest.mark.parametrize("place", ["marker", "length", "sequence number", "body"])
def test_a_flipped_bit_costs_one_event_which_is_announced(tmp_path: Path, place: str) -> None:
    ledger = open_ledger(tmp_path, FakeRecordProducer(up=False))
    decide(ledger, 20)
    ledger.close()
    (segment,) = segments(tmp_path)
    content = bytearray(segment.read_bytes())
    marker = bytes.fromhex(segment.stem.partition("-")[2])
    begin = FILE_HEAD_BYTES
    for _ in range(7):
        begin = content.index(marker, begin + 1)
    content[begin + {"marker": 3, "length": 10, "sequence number": 13, "body": 150}[place]] ^= 4
    segment.write_bytes(content)
    producer = send_what_was_left(tmp_path)
    assert seqs(producer) == [seq for seq in range(20) if seq != 7]
    assert gaps(producer) == [(7, 7, "damaged")]


def test_a_torn_write_at_the_end_costs_nothing_else(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, FakeRecordProducer(up=False))
    decide(ledger, 20)
    ledger.close()
    (segment,) = segments(tmp_path)
    segment.write_bytes(segment.read_bytes()[:-30])
    producer = send_what_was_left(tmp_path)
    assert (seqs(producer), gaps(producer)) == (list(range(19)), [])


def test_a_damaged_head_of_a_segment_and_a_damaged_owner_cost_nothing(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, FakeRecordProducer(up=False))
    decide(ledger, 20)
    ledger.close()
    (segment,) = segments(tmp_path)
    segment.write_bytes(b"\x00" * FILE_HEAD_BYTES + segment.read_bytes()[FILE_HEAD_BYTES:])
    (segment.parent / "owner.json").write_bytes(b"?")
    assert seqs(send_what_was_left(tmp_path)) == list(range(20))


def test_a_segment_of_a_newer_format_is_left_alone_and_told_about(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, FakeRecordProducer(up=False))
    decide(ledger, 20)
    ledger.close()
    (segment,) = segments(tmp_path)
    head = bytearray(file_head(b"12345678"))
    head[4] = 9
    from zlib import crc32

    head[-4:] = crc32(head[:-4]).to_bytes(4, "little")
    before = bytes(head) + segment.read_bytes()[FILE_HEAD_BYTES:]
    segment.write_bytes(before)
    problems: list[EmitProblem] = []
    producer = FakeRecordProducer()
    ledger = Ledger(producer=producer, outbox=tmp_path, on_emit_problem=problems.append)
    wait_until(lambda: problems)
    ledger.close()
    assert "outbox format 9" in problems[0].what
    assert (producer.records, segment.read_bytes()) == ([], before)


def test_a_record_that_no_broker_takes_is_announced_and_the_rest_sent(tmp_path: Path) -> None:
    producer = FakeRecordProducer(up=False)
    ledger = open_ledger(tmp_path, producer)
    decide(ledger, 10)
    wait_until(lambda: producer.waiting() == 10)
    producer.deliver(3)
    producer.refuse("MSG_SIZE_TOO_LARGE: no")
    producer.deliver(1)
    producer.refuse(None)
    producer.come_back()
    assert ledger.flush(20) == 0
    assert seqs(producer) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert gaps(producer) == [(3, 3, "too_large")]
    assert ledger.counters.failed + sum(ledger.counters.dropped.values()) == 1
    ledger.close()


def test_what_a_broker_refuses_for_now_is_sent_again(tmp_path: Path) -> None:
    producer = FakeRecordProducer()
    producer.refuse("TOPIC_AUTHORIZATION_FAILED: no")
    ledger = open_ledger(tmp_path, producer)
    decide(ledger, 10)
    time.sleep(0.1)
    assert ledger.counters.waiting == 10
    producer.refuse(None)
    assert ledger.flush(20) == 0
    assert (seqs(producer), gaps(producer)) == (list(range(10)), [])
    ledger.close()


def test_threads_share_an_outbox(tmp_path: Path) -> None:
    producer = FakeRecordProducer()
    ledger = open_ledger(tmp_path, producer, bytes_max=64 * MIB)
    threads = [threading.Thread(target=decide, args=(ledger, 500)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.flush(20) == 0
    assert sorted(seqs(producer)) == list(range(4000))
    assert gaps(producer) == []
    ledger.close()


def test_a_forked_child_has_an_outbox_of_its_own_and_the_parents_lock_stays(tmp_path: Path) -> None:
    producer = FakeRecordProducer(up=False)
    ledger = open_ledger(tmp_path, producer)
    decide(ledger, 5)
    child = os.fork()
    if child == 0:
        decide(ledger, 3)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    reports = {report.events: report for report in survey(tmp_path)}
    assert (reports[5].is_in_use, reports[3].is_in_use) == (True, False)
    assert reports[3].producer_id != reports[5].producer_id
    ledger.close()
    assert sorted(seqs(send_what_was_left(tmp_path))) == [0, 0, 1, 1, 2, 2, 3, 4]


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGTERM)", "os._exit(1)", "sys.exit(1)", "1 / 0"])
def test_however_a_process_ends_its_events_are_sent(tmp_path: Path, end: str) -> None:
    program = f"""
import os, signal, sys
from agentledger.producers import Ledger
ledger = Ledger(bootstrap_servers="127.0.0.1:1", control="off", outbox=sys.argv[1], flush_wait_ms_max=0)
run = ledger.run("w").__enter__()
run.policy_decision(policy="p", verdict="allow")
{end}
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, timeout=60, check=False)
    assert seqs(send_what_was_left(tmp_path)) == [0, 1]


# As in a notebook: cells one by one into a process with a running event loop, one that makes the ledger run twice.
CELLS = """
import sys
from agentledger.producers import Ledger
ledger = Ledger(bootstrap_servers="127.0.0.1:1", control="off", outbox={folder!r})
with ledger.run("cell") as run: run.policy_decision(policy="p", verdict="allow")

ledger = Ledger(bootstrap_servers="127.0.0.1:1", control="off", outbox={folder!r})
async def cell():
    async with ledger.run("cell") as run: run.policy_decision(policy="p", verdict="allow")

await cell()
run = ledger.run("over several cells").begin()
run.policy_decision(policy="p", verdict="deny")
1 / 0
run.end()
"""


def test_cells_of_a_notebook_that_are_run_again_lose_nothing(tmp_path: Path) -> None:
    cells = CELLS.format(folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "asyncio"], input=cells, capture_output=True, timeout=60, check=True, text=True
    )
    assert done.stderr.count("Traceback") == 1, done.stderr  # the cell that fails by itself
    assert sorted(seqs(send_what_was_left(tmp_path))) == [0, 0, 1, 1, 2, 2, 3, 4, 5]


def test_an_orphan_that_is_larger_than_the_bound_is_cut_to_it(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, FakeRecordProducer(up=False, records_max=10), bytes_max=8 * MIB)
    decide(ledger, 1500, size=4000)
    ledger.close()
    away = FakeRecordProducer(up=False, records_max=10)
    heir = open_ledger(tmp_path, away, bytes_max=MIB)
    wait_until(lambda: sum(report.bytes_on_disk for report in survey(tmp_path)) < 2 * MIB)
    away.come_back()
    assert heir._outbox is not None
    assert heir._outbox.flush(20, with_orphans=True)
    heir.close()
    arrived = seqs(away)
    missing = {seq for first, last, _ in gaps(away) for seq in range(first, last + 1)}
    assert arrived == sorted(arrived)
    assert set(arrived) | missing == set(range(1500))


def test_whoever_looks_sees_what_waits(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, FakeRecordProducer(up=False))
    decide(ledger, 4)
    (report,) = survey(tmp_path)
    found = list(waiting_records(tmp_path / report.name))
    assert [CODEC.decode(record.value).producer_seq for record in found if record is not None] == [0, 1, 2, 3]
    assert report.oldest_event_id == CODEC.decode(found[0].value).event_id if found[0] else False
    ledger.close()


def test_when_there_is_an_outbox(tmp_path: Path) -> None:
    assert outbox_from_env("", {}) is None
    assert outbox_from_env("staging", {}) is None
    in_production = outbox_from_env("Production", {"AGENTLEDGER_DATA_DIR": str(tmp_path)})
    assert in_production is not None
    assert in_production.folder == tmp_path / "outbox"
    assert outbox_from_env("production", {"AGENTLEDGER_OUTBOX_DIR": "off"}) is None
    named = {
        "AGENTLEDGER_OUTBOX_DIR": str(tmp_path), "AGENTLEDGER_OUTBOX_BYTES_MAX": "2000000",
        "AGENTLEDGER_OUTBOX_WHEN_FULL": "block", "AGENTLEDGER_OUTBOX_FSYNC": "always",
    }  # fmt: skip
    assert outbox_from_env("", named) == OutboxSettings(
        folder=tmp_path, bytes_max=2_000_000, when_full="block", fsync="always"
    )
    with pytest.raises(ConfigurationError, match="no whole number"):
        outbox_from_env("", {**named, "AGENTLEDGER_OUTBOX_BYTES_MAX": "2 MB"})
    with pytest.raises(ConfigurationError, match="bytes_max=5"):
        outbox_from_env("", {**named, "AGENTLEDGER_OUTBOX_BYTES_MAX": "5"})
    with pytest.raises(UsageError, match="drop_oldest or block"):
        to_outbox({"folder": tmp_path, "when_full": "drop_newest"})
    with pytest.raises(UsageError, match="is no outbox"):
        to_outbox({"dir": tmp_path})
    assert to_outbox("off") is None


def test_a_folder_that_cannot_be_used_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"the outbox can't be made.*name another folder"):
        Ledger(producer=FakeRecordProducer(), outbox=tmp_path / "file")


@pytest.fixture
def cluster() -> Iterator[str]:
    """librdkafka's own broker in memory; its address."""
    host = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    brokers = host.list_topics(timeout=10).brokers.values()
    yield ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    host.flush(0)


# An invocation for each line that comes in; whether it flushes at its end is what the line says.
INVOCATIONS = """
import sys
from agentledger.producers import Ledger
ledger = Ledger(bootstrap_servers=sys.argv[1], control="off", outbox=sys.argv[2])
for line in sys.stdin:
    with ledger.run("invocation", run_id="r") as run:
        run.policy_decision(policy="p", verdict="allow")
    print(ledger.flush(20) if line.strip() == "flush" else "left", flush=True)
"""


def test_a_process_that_is_frozen_between_invocations_loses_nothing(tmp_path: Path, cluster: str) -> None:
    command = [sys.executable, "-c", INVOCATIONS, cluster, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for wanted, said in (("flush", "0"), ("leave", "left"), ("flush", "0"), ("leave", "left")):
            process.stdin.write(f"{wanted}\n")
            process.stdin.flush()
            assert process.stdout.readline().strip() == said
            process.send_signal(signal.SIGSTOP)
            assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
            sent = [event.producer_seq for event in events_on(cluster, EVENTS.name)]
            if wanted == "flush":
                assert sent == list(range(len(sent)))  # what was flushed is there while the process stands still
                assert len(sent) >= 3
            process.send_signal(signal.SIGCONT)
        process.stdin.close()
        assert process.wait(60) == 0
    assert [event.producer_seq for event in events_on(cluster, EVENTS.name)] == list(range(12))
    assert survey(tmp_path) == []


def test_the_command_line_shows_what_waits_and_sends_what_dead_processes_left(
    tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTLEDGER_KAFKA_BOOTSTRAP_SERVERS", cluster)

    def said(*arguments: str) -> str:
        done = CliRunner().invoke(outbox, [*arguments, "--dir", str(tmp_path)])
        assert done.exit_code == 0, done.output
        return done.output

    assert "nothing waits" in said("status")
    ledger = open_ledger(tmp_path, FakeRecordProducer(up=False))
    decide(ledger, 4)
    (report,) = json.loads(said("status", "--json"))
    assert (report["events"], report["is_in_use"]) == (4, True)
    assert "in use" in said("status")
    assert "no process that is gone" in said("flush")
    ledger.close()
    assert "gone" in said("status")
    inspected = said("inspect")
    assert inspected.count("PolicyDecided") == 2
    assert "allow" not in inspected  # which events, not what they say
    assert said("flush") == "sent 4 events\n"
    assert "nothing waits" in said("status")
    assert [event.producer_seq for event in events_on(cluster, EVENTS.name)] == [0, 1, 2, 3]
