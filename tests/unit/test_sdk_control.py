"""Halts reach running agents: over the control topic, by a file on the host, and when nobody answers."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st

from agentledger.infra.control_commands import control_event
from agentledger.producers import ControlSettings, Ledger
from agentledger.producers.control import Freshness, control_from_env
from agentledger.producers.halt_file import HaltFile, halt_file_path
from agentledger.producers.halts import ANY, OWNERS_MAX, Command, CommandTable, Subject, find_halt
from agentledger.producers.topic_tail import TopicTail
from agentledger.schemas import Codec, events, open_registry
from agentledger.schemas.control import control_key, control_owner_of, control_scope_of, order_key
from agentledger.schemas.errors import ControlUnreachableError, HaltedError, UsageError
from agentledger.schemas.testing.record_producer import FakeRecordProducer
from agentledger.schemas.topics import CONTROL

CODEC = Codec(open_registry())
WAIT_S_MAX = 30.0
LABELS = {"team": "red", "region": "eu=west"}
NAMES = (
    ("host", ANY), ("tenant", "acme"), ("team", "red"), ("agent", "bot"), ("workflow", "w"), ("user", "ann"),
    ("run", "r"), ("label:region", "eu=west"),
)  # fmt: skip
SUBJECTS: list[Subject] = [("acme", scope, value) for scope, value in NAMES[1:]]


def halt_of(subject: Subject = ("acme", "agent", "bot"), **facts: Any) -> Command:
    return Command("halt", *subject, reason="too wild", issued_by="maria", **facts)


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S_MAX
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.002)


# Pure rules


@given(
    commands=st.lists(
        st.tuples(st.sampled_from(SUBJECTS), st.sampled_from(["halt", "resume", None]), st.integers(0, 2)), max_size=40
    )
)
def test_the_newest_command_of_each_subject_counts_in_whatever_order_partitions_are_read(
    commands: list[tuple[Subject, str | None, int]],
) -> None:
    newest = {subject: command for subject, command, _ in commands}
    in_time = [(at_ms, *command) for at_ms, command in enumerate(commands)]
    by_partition = sorted(in_time, key=lambda item: item[3])  # one partition whole after the other
    for order in (in_time, by_partition, sorted(in_time, key=lambda item: -item[3])):
        table = CommandTable()
        for at_ms, subject, command, partition in order:
            table.put(subject, Command(command, *subject) if command else None, partition, at_ms)
        assert set(table.halts) == {subject for subject, command in newest.items() if command == "halt"}


def test_a_clock_of_the_broker_that_goes_back_does_not_reorder_a_partition() -> None:
    table = CommandTable()
    subject = SUBJECTS[0]
    table.put(subject, halt_of(subject), 1, 1000)
    assert table.put(subject, Command("resume", *subject), 1, 900)
    assert table.halts == {}


def test_the_table_is_bounded_and_wide_halts_are_not_pushed_out_by_runs() -> None:
    table = CommandTable(runs_max=10, wide_max=10)
    table.put(("acme", "agent", "bot"), halt_of(), 0, 0)
    for number in range(50):
        subject = ("acme", "run", f"r{number}")
        table.put(subject, halt_of(subject), 0, number)
    assert len(table.halts) == 11
    assert ("acme", "agent", "bot") in table.halts
    assert ("acme", "run", "r49") in table.halts


def test_a_budget_lifts_its_own_halt_and_a_person_lifts_all() -> None:
    subject = SUBJECTS[0]
    by_maria, by_budget = halt_of(subject), replace(halt_of(subject), issued_by="budget:day", expires_at=1000)
    resume = Command("resume", *subject)
    written = [(by_maria, 0, 1, ""), (by_budget, 1, 2, "budget:day"), (resume, 1, 3, "budget:day")]
    for order in (written, written[::-1][1:] + written[2:], [written[2], written[0]]):
        table = CommandTable()
        for command, partition, at_ms, owner in order:
            table.put(subject, command, partition, at_ms, owner)
        assert table.all_halts(0) == [by_maria]
    table.put(subject, by_budget, 1, 4, "budget:day")
    assert table.halts[subject] == by_maria  # the one that lasts: when the budget's has lapsed it still stands
    assert {halt.issued_by for halt in table.all_halts(0)} == {by_maria.issued_by, "budget:day"}
    assert table.all_halts(1000) == [by_maria]
    table.put(subject, resume, 0, 5)
    assert (table.halts, table.all_halts(0)) == ({}, [])
    table.put(subject, by_budget, 1, 3, "budget:day")  # read again, from before the person's resume
    assert table.halts == {}
    table.put(subject, by_budget, 1, 6, "budget:day")
    assert table.halts == {subject: by_budget}


def test_owners_of_halts_of_one_subject_are_bounded() -> None:
    table, subject = CommandTable(), SUBJECTS[0]
    table.put(subject, halt_of(subject), 0, 0)
    for number in range(OWNERS_MAX + 10):
        table.put(subject, replace(halt_of(subject), expires_at=1), 0, number, f"budget:{number}")
    assert len(table.all_halts(0)) == OWNERS_MAX
    assert table.halts[subject].expires_at is None


def test_a_halt_lapses() -> None:
    table = CommandTable()
    halt = halt_of(expires_at=1000)
    table.put(halt.subject, halt, 0, 0)
    assert find_halt(table.halts, "acme", NAMES, 999) == halt
    assert find_halt(table.halts, "acme", NAMES, 1000) is None
    table.drop_lapsed(1000)
    assert table.halts == {}


@pytest.mark.parametrize("subject", [*SUBJECTS, (ANY, "agent", "bot"), (ANY, "host", ANY), ("acme", "agent", ANY)])
def test_each_scope_stops_its_runs_and_no_others(subject: Subject) -> None:
    halt = halt_of(subject)
    assert find_halt({subject: halt}, "acme", NAMES, 0) == halt
    others = tuple((scope, f"other-{value}") for scope, value in NAMES[1:])
    is_everyone = subject[2] == ANY
    assert (find_halt({subject: halt}, "other", (("host", ANY), *others), 0) is not None) == (
        subject[:2] == (ANY, "host")
    )
    assert (find_halt({subject: halt}, "acme", (("host", ANY), *others), 0) is not None) == is_everyone


@given(st.tuples(*[st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)] * 3))
def test_a_key_says_what_it_is_about(subject: Subject) -> None:
    key, owned = control_key(*subject), control_key(*subject, "budget:day")
    assert (control_scope_of(key), control_owner_of(key)) == (subject, "")
    assert (control_scope_of(owned), control_owner_of(owned)) == (subject, "budget:day")
    assert control_scope_of(order_key(*subject)) is None
    assert control_scope_of(b"nothing") is None
    assert control_scope_of(None) is None


def statistics(received: dict[int, int], leaders: dict[int, int]) -> str:
    return json.dumps(
        {
            "brokers": {f"b{node}": {"nodeid": node, "rx": count} for node, count in {**received, -1: 7}.items()},
            "topics": {"t": {"partitions": {str(number): {"leader": node} for number, node in leaders.items()}}},
        }
    )


def test_the_brokers_have_answered_when_each_leader_has() -> None:
    fresh = Freshness("t")
    leaders = {0: 1, 1: 2, -1: -1}
    fresh.note(statistics({1: 5, 2: 5}, leaders), 10)
    assert fresh.answered_ns == 10
    fresh.note(statistics({1: 9, 2: 5}, leaders), 20)
    assert fresh.answered_ns == 10
    fresh.note(statistics({1: 10, 2: 6}, leaders), 30)
    assert fresh.answered_ns == 30
    assert not fresh.is_stale(10**9 + 30, 1.0)
    assert fresh.is_stale(10**9 + 31, 1.0)
    assert Freshness("t").is_stale(0, 1.0)
    fresh = Freshness("other")
    fresh.note(statistics({1: 5}, leaders), 10)
    assert fresh.answered_ns is None


# The halt file


def quiet_ledger(halt_file: Path, **settings: Any) -> Ledger:
    control = ControlSettings(halt_file=halt_file, look_ms=0)
    return Ledger.for_testing(agent_id="bot", tenant_id="acme", actor="ann", labels=LABELS, control=control, **settings)


def call(run: Any) -> None:
    with run.tool_call("t"):
        pass


def ends(ledger: Ledger) -> list[tuple[str, str]]:
    return [(event.status, event.reason) for event in ledger.events if isinstance(event, events.RunFinished)]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_halt_file_stops_the_next_call_until_it_goes(tmp_path: Path, subject: Subject) -> None:
    file = HaltFile(tmp_path / "deep" / "halt.json")
    ledger = quiet_ledger(file.path)
    with ledger.run("w", run_id="r") as run:
        call(run)
        file.write([halt_of(subject, issued_at=0)])
        with pytest.raises(HaltedError, match="is halted by maria since 1970-01-01 00:00:00 UTC") as refusal:
            call(run)
        assert (refusal.value.scope, refusal.value.scope_value, refusal.value.reason) == (*subject[1:], "too wild")
        assert "resume --local" in str(refusal.value)
        with pytest.raises(HaltedError):
            run.check()
        with pytest.raises(HaltedError), run.model_call(model="m"):
            raise AssertionError("the call was made")
        file.write([])
        assert not file.path.exists()
        call(run)
        assert run.usage.tool_calls == 2
        assert run.usage.model_calls == 0
    assert ends(ledger) == [("succeeded", "")]


@pytest.mark.parametrize("content", [b"", b"stop!", b'{"halts": 5}', b'{"halts": [{"scope": "sky"}]}', b"\xff" * 100])
def test_a_halt_file_that_says_nothing_readable_stops_everything(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "halt.json"
    path.write_bytes(content)
    with pytest.raises(HaltedError, match="everything on this host is halted"), quiet_ledger(path).run("any") as run:
        call(run)


@given(halts=st.lists(st.builds(
    Command, st.just("halt"), st.text(max_size=5), st.sampled_from(["run", "agent", "workflow", "tenant", "host"]),
    st.text(max_size=5), st.text(max_size=5), st.text(max_size=5), st.none() | st.integers(), st.none() | st.integers(),
    st.just("halt file"),
), max_size=5))  # fmt: skip
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, halts: list[Command]) -> None:
    file = HaltFile(tmp_path_factory.mktemp("halt") / "halt.json")
    file.write(halts)
    empty = {"tenant_id": ANY, "scope_value": ANY}
    for read, written in zip(file.read(), halts, strict=True):
        for name in ("tenant_id", "scope", "scope_value", "reason", "issued_by", "issued_at", "expires_at", "via"):
            assert getattr(read, name) == (getattr(written, name) or empty.get(name, getattr(written, name)))
    assert list(file.path.parent.iterdir()) == ([file.path] if halts else [])


def wrapped_call(run: Any) -> None:
    try:
        call(run)
    except HaltedError as error:
        raise RuntimeError("the framework's own") from error


def interrupted_call(run: Any) -> None:
    with pytest.raises(HaltedError):
        call(run)
    raise KeyboardInterrupt


def test_a_run_that_was_halted_ends_halted_even_where_the_agent_swallowed_it(tmp_path: Path) -> None:
    file = HaltFile(tmp_path / "halt.json")
    file.write([halt_of()])
    ledger = quiet_ledger(file.path)
    with ledger.run("w") as run:
        for _ in range(3):
            with pytest.raises(HaltedError):
                call(run)
    with pytest.raises(RuntimeError), ledger.run("w") as run:
        wrapped_call(run)
    with pytest.raises(HaltedError), ledger.run("w") as run:
        call(run)
    with pytest.raises(KeyboardInterrupt), ledger.run("w") as run:
        interrupted_call(run)
    with ledger.run("w") as run:
        with pytest.raises(HaltedError):
            call(run)
        run.escalate("a person takes over")
    assert [status for status, _ in ends(ledger)] == ["halted", "halted", "halted", "cancelled", "escalated"]
    assert "agent bot is halted by maria" in ends(ledger)[0][1]


def refusals(ledger: Ledger) -> list[events.PolicyDecided]:
    return [event for event in ledger.events if isinstance(event, events.PolicyDecided)]


def test_the_first_refusal_of_each_halt_is_recorded(tmp_path: Path) -> None:
    file = HaltFile(tmp_path / "halt.json")
    ledger = quiet_ledger(file.path)
    with ledger.run("w", run_id="r") as run:
        for _ in range(2):
            file.write([halt_of()])
            for _ in range(3):
                with pytest.raises(HaltedError):
                    call(run)
            file.write([])
            call(run)
    first, second = refusals(ledger)
    for refusal in (first, second):
        assert (refusal.engine, refusal.policy, refusal.rule) == ("agentledger", "control", "halt file")
        assert (refusal.verdict, refusal.enforced, refusal.action) == ("halt", "blocked", "t")
        assert "agent bot is halted by maria" in refusal.reason
    assert ends(ledger) == [("succeeded", "")]


def test_a_halt_of_a_run_stops_its_sub_runs(tmp_path: Path) -> None:
    file = HaltFile(tmp_path / "halt.json")
    ledger = quiet_ledger(file.path)
    with ledger.run("w", run_id="parent"), ledger.run("w", run_id="child"), ledger.run("w", run_id="grandchild") as run:
        call(run)
        file.write([halt_of(("acme", "run", "parent"))])
        with pytest.raises(HaltedError, match="run parent is halted"):
            call(run)
        file.write([halt_of(("acme", "run", "child"))])
        with pytest.raises(HaltedError, match="run child is halted"):
            call(run)
    with ledger.run("w", run_id="other") as run:
        call(run)
    with ledger.run("w", parent="child") as run, pytest.raises(HaltedError):
        call(run)


def test_what_has_happened_is_recorded_all_the_same(tmp_path: Path) -> None:
    file = HaltFile(tmp_path / "halt.json")
    file.write([halt_of()])
    ledger = quiet_ledger(file.path)
    with ledger.run("w") as run:
        run.record_tool_call("t")
        run.record_model_call(model="m")
    assert len(ledger.events) == 4


def test_where_the_halt_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert halt_file_path({}) == tmp_path / ".agentledger" / "halt.json"
    assert halt_file_path({"AGENTLEDGER_DATA_DIR": "/d"}) == Path("/d/halt.json")
    assert halt_file_path({"AGENTLEDGER_DATA_DIR": "/d", "AGENTLEDGER_HALT_FILE": "/x"}) == Path("/x")


# Settings


def test_control_is_on_with_a_broker_and_off_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTLEDGER_HALT_FILE", str(tmp_path / "halt.json"))
    kafka = {"bootstrap_servers": "127.0.0.1:1", "flush_wait_ms_max": 0}
    with Ledger(**kafka) as ledger:
        assert ledger.control is not None
    with Ledger(**kafka, control="off") as ledger:
        assert ledger.control is None
        with ledger.run("w") as run:
            run.check()
    assert Ledger.for_testing().control is None
    assert Ledger.for_testing(control="on").control is not None


@pytest.mark.parametrize(
    "wrong", ["maybe", {"when_unreachable": "perhaps"}, {"stale_s_max": 0.5}, {"look_ms": -1}, {"nothing": 1}], ids=str
)
def test_control_settings_that_make_no_sense_are_refused(wrong: Any) -> None:
    with pytest.raises(UsageError):
        Ledger(producer=FakeRecordProducer(), control=wrong)


def test_control_settings_from_the_environment() -> None:
    assert control_from_env({}) == ControlSettings()
    named = {"AGENTLEDGER_CONTROL_WHEN_UNREACHABLE": "refuse", "AGENTLEDGER_CONTROL_STALE_S_MAX": "30"}
    assert control_from_env(named) == ControlSettings(when_unreachable="refuse", stale_s_max=30)
    with pytest.raises(UsageError, match="STALE_S_MAX='soon'"):
        control_from_env({"AGENTLEDGER_CONTROL_STALE_S_MAX": "soon"})


# Over Kafka, librdkafka's own mock cluster


class Cluster:
    """A broker in this process, and somebody who commands over it."""

    def __init__(self) -> None:
        self.host = Producer({"test.mock.num.brokers": 1, "log_level": 0})
        brokers = self.host.list_topics(timeout=10).brokers.values()
        self.servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
        self.producer = Producer({"bootstrap.servers": self.servers, "linger.ms": 0, "log_level": 0})

    def command(self, command: str, subject: Subject, **facts: Any) -> None:
        event = control_event(Command(command, *subject, reason="too wild", issued_by="maria", **facts))
        self.produce(subject, CODEC.encode(event))

    def produce(self, subject: Subject, value: bytes | None) -> None:
        self.producer.produce(CONTROL.name, value, control_key(*subject))
        assert self.producer.flush(20) == 0


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("AGENTLEDGER_HALT_FILE", str(tmp_path / "halt.json"))
    cluster = Cluster()
    yield cluster
    cluster.host.flush(0)


def kafka_ledger(servers: str, **settings: Any) -> Ledger:
    return Ledger(
        agent_id="bot", tenant_id="acme", actor="ann", labels=LABELS, bootstrap_servers=servers, flush_wait_ms_max=2000,
        **{"control": ControlSettings(first_read_s_max=WAIT_S_MAX), **settings},
    )  # fmt: skip


def is_halted(run: Any) -> bool:
    try:
        run.check()
    except HaltedError:
        return True
    return False


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_command_reaches_a_running_agent(cluster: Cluster, subject: Subject) -> None:
    with kafka_ledger(cluster.servers) as ledger, ledger.run("w", run_id="r") as run:
        call(run)
        cluster.command("halt", subject)
        until(lambda: is_halted(run))
        with pytest.raises(HaltedError, match="by maria") as refusal:
            call(run)
        option = subject[1].replace("label:", "label ") + ("=" if ":" in subject[1] else " ")
        assert f"agentledger resume --{option}{subject[2]}" in str(refusal.value)
        cluster.command("resume", subject)
        until(lambda: not is_halted(run))
        call(run)


@pytest.mark.parametrize(
    ("on_exceeded", "status"),
    [("", "halted"), ("halt", "halted"), ("escalate", "escalated"), ("ask_human", "escalated")],
)
def test_a_run_that_a_budget_hands_to_a_person_ends_escalated(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, on_exceeded: str, status: str
) -> None:
    ended: list[events.RunFinished] = []
    cluster.command("halt", ("acme", "team", "red"), on_exceeded=on_exceeded)
    with kafka_ledger(cluster.servers) as ledger:
        emit = ledger.emitter.emit

        def watch(kind: Any, envelope: Any, body: Any, *place: Any) -> bool:
            ended.extend([body] if isinstance(body, events.RunFinished) else [])
            return emit(kind, envelope, body, *place)

        monkeypatch.setattr(ledger.emitter, "emit", watch)
        with ledger.run("w") as run, pytest.raises(HaltedError) as refusal:  # the agent swallows it
            call(run)
    assert refusal.value.on_exceeded == on_exceeded
    assert [event.status for event in ended] == [status]


def test_a_process_that_starts_while_its_agent_is_halted_is_refused_at_its_first_call(cluster: Cluster) -> None:
    for number in range(300):
        cluster.producer.produce(CONTROL.name, None, b"acme\x00run\x00r%d" % number)
    cluster.command("halt", ("acme", "agent", "other"))
    cluster.command("halt", ("other", "tenant", "other"))
    cluster.command("halt", ("acme", "workflow", "w"))
    cluster.command("resume", ("acme", "workflow", "w"))
    with kafka_ledger(cluster.servers) as ledger, ledger.run("w") as run:
        call(run)
    cluster.command("halt", ("acme", "agent", "bot"))
    with kafka_ledger(cluster.servers) as ledger, ledger.run("w") as run, pytest.raises(HaltedError):
        call(run)

    async def main() -> None:
        async with kafka_ledger(cluster.servers) as ledger, ledger.run("w") as run:
            with pytest.raises(HaltedError):
                async with run.tool_call("t"):
                    pass

    asyncio.run(main())


def test_expiries_tombstones_and_records_that_cannot_be_read(cluster: Cluster) -> None:
    bot = ("acme", "agent", "bot")
    with kafka_ledger(cluster.servers) as ledger, ledger.run("w", run_id="r") as run:
        call(run)
        cluster.command("halt", bot, expires_at=time.time_ns() // 1000 + 1_500_000)
        until(lambda: is_halted(run))
        until(lambda: not is_halted(run))
        cluster.command("halt", bot)
        until(lambda: is_halted(run))
        cluster.produce(bot, b"\x00garbage")
        cluster.produce(("acme", "run", "r"), CODEC.encode(control_event(Command("dance", "acme", "run", "r"))))
        cluster.command("halt", ("acme", "workflow", "last"))
        with ledger.run("last") as last:
            until(lambda: is_halted(last))
        assert is_halted(run)
        cluster.produce(bot, None)
        until(lambda: not is_halted(run))


def test_a_reader_that_fails_begins_again(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [RuntimeError("once"), RuntimeError("twice")]
    connect = TopicTail._connect

    def fail_first(tail: TopicTail) -> Any:
        if failures:
            raise failures.pop()
        return connect(tail)

    monkeypatch.setattr(TopicTail, "_connect", fail_first)
    monkeypatch.setattr("agentledger.producers.topic_tail.AGAIN_SECONDS", 0.01)
    bot, other = ("acme", "agent", "bot"), ("acme", "agent", "other")
    cluster.command("halt", bot)
    with kafka_ledger(cluster.servers) as ledger, ledger.run("w") as run:
        until(lambda: is_halted(run))
        assert failures == []
        tail = ledger.control and ledger.control._tail
        assert tail is not None
        take = tail._on_record

        def fail_at_other(message: Any) -> None:
            if message.key() == control_key(*other):
                raise RuntimeError("this record")
            take(message)

        tail._on_record = fail_at_other
        cluster.command("halt", other)
        cluster.command("resume", bot)
        until(lambda: not is_halted(run))


def test_a_forked_child_listens_by_itself(cluster: Cluster) -> None:
    program = """
import os, sys, time
from agentledger.producers import Ledger
from agentledger.schemas.errors import HaltedError
ledger = Ledger(bootstrap_servers=sys.argv[1], agent_id="bot", tenant_id="acme")
with ledger.run("w") as run:
    with run.tool_call("t"): pass
    child = os.fork()
    os.write(1, b"ready\\n")  # in one piece: both processes say it
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try: run.check()
        except HaltedError:
            os.write(1, b"halted\\n")
            break
        time.sleep(0.01)
if child: assert os.waitpid(child, 0)[1] == 0
"""
    command = [sys.executable, "-c", program, cluster.servers]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
        cluster.command("halt", ("acme", "agent", "bot"))
        assert process.stdout.read().split() == ["halted"] * 2
    assert process.returncode == 0


def test_without_a_broker_the_first_call_does_not_wait_out_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTLEDGER_HALT_FILE", str(tmp_path / "halt.json"))
    control = ControlSettings(first_read_s_max=3600)
    ledger = Ledger(bootstrap_servers="127.0.0.1:1", control=control, flush_wait_ms_max=0)
    with ledger.run("w") as run:
        call(run)
    ledger.close()


def test_without_a_broker_calls_are_refused_where_the_settings_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTLEDGER_HALT_FILE", str(tmp_path / "halt.json"))
    ledger = Ledger(
        bootstrap_servers="127.0.0.1:1", control={"when_unreachable": "refuse"}, flush_wait_ms_max=0,
        on_emit_problem=lambda problem: None,
    )  # fmt: skip
    with pytest.raises(ControlUnreachableError, match="hasn't been read yet"), ledger.run("w") as run:
        call(run)
    assert run.refused_by is not None
    assert run._how_it_ended(None)[0] == "halted"
    ledger.close()


def test_a_closed_ledger_and_a_fork_leave_no_thread_that_hangs(cluster: Cluster) -> None:
    with kafka_ledger(cluster.servers) as ledger, ledger.run("w") as run:
        call(run)
        child = os.fork()
        if child == 0:
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ledger.control is not None
    tail = ledger.control._tail
    assert tail is not None
    assert tail._thread is not None
    assert not tail._thread.is_alive()
