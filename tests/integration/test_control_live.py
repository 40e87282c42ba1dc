"""Halts and holds on a real broker, with the real programs and agents in processes of their own."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from agentledger.infra.stack.kafka import KafkaService
from agentledger.producers import ControlSettings, Estimate, HoldSettings, Ledger
from agentledger.schemas import Codec, open_registry, uuid7
from agentledger.schemas.errors import HoldRefusedError, HoldUnansweredError
from agentledger.schemas.events import (
    BudgetDeclared,
    BudgetHeld,
    BudgetReleased,
    ControlIssued,
    Event,
    HoldDecided,
    PolicyDecided,
    RunFinished,
)
from agentledger.schemas.topics import BUDGETS, CONTROL, EVENTS, HOLDS, Topic
from tests.kafka_broker import PARTITIONS, kafka_broker
from tests.processes import kill_hard

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

E = TypeVar("E", bound=Event)
CODEC = Codec(open_registry())
WAIT_S_MAX = 60.0
CENT = 10_000_000
# Calls all the time, and says whenever that begins or ends.
AGENT = """
import sys, time
from agentledger.producers import ControlSettings, Ledger
from agentledger.schemas.errors import ControlUnreachableError, HaltedError
servers, agent_id, when_unreachable, asks = sys.argv[1:]
control = ControlSettings(when_unreachable=when_unreachable, stale_s_max=3, first_read_s_max=20)
said = ""
with Ledger(agent_id=agent_id, tenant_id="acme", bootstrap_servers=servers, control=control) as ledger:
    with ledger.run("endless") as run:
        while not (said and asks == "once"):
            try:
                with run.tool_call("look"):
                    time.sleep(0.005)
                says = "going"
            except HaltedError as error:
                says = f"halted: {error}"
            except ControlUnreachableError as error:
                says = "unreachable"
            if says[:7] != said[:7]:
                said = says
                print(says, flush=True)
            time.sleep(0.005)
"""
HOLDER = """
import sys, time
from agentledger.producers import HoldSettings, Ledger
holds = HoldSettings(when_unreachable="refuse", answer_s_max=float(sys.argv[2]), ttl_s=float(sys.argv[2]))
with Ledger(agent_id="doomed", tenant_id="beta", bootstrap_servers=sys.argv[1], holds=holds) as ledger:
    with ledger.run("w") as run, run.tool_call("long"):
        print("held", flush=True)
        time.sleep(600)
"""


class Speaking:
    """A Python program and the lines that it prints."""

    def __init__(self, program: str, *arguments: str, env: dict[str, str]) -> None:
        command = [sys.executable, "-c", program, *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        self._lines: queue.Queue[str] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.strip())

    def says(self, beginning: str) -> str:
        """The next line, which must begin so."""
        line = self._lines.get(timeout=WAIT_S_MAX)
        assert line.startswith(beginning), line
        return line

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()
        self._listener.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Site:
    """A broker, and one host's agents and programs."""

    def __init__(self, kafka: KafkaService, folder: Path) -> None:
        self.kafka = kafka
        self.folder = folder
        self.servers = kafka.endpoint
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("AGENTLEDGER_")} | {
            "AGENTLEDGER_KAFKA_BOOTSTRAP_SERVERS": self.servers,
            "AGENTLEDGER_KAFKA_PARTITIONS": str(PARTITIONS),
            "AGENTLEDGER_DATA_DIR": str(folder / "site"),
            "AGENTLEDGER_TENANT_ID": "acme",
        }
        self._running: list[Speaking] = []
        self._programs: list[subprocess.Popen[bytes]] = []

    def agent(self, agent_id: str, *, when_unreachable: str = "allow", asks: str = "always") -> Speaking:
        """Start an agent that calls all the time."""
        return self.python(AGENT, self.servers, agent_id, when_unreachable, asks)

    def python(self, program: str, *arguments: str) -> Speaking:
        """Start a program that says what happens."""
        speaking = Speaking(program, *arguments, env=self.env)
        self._running.append(speaking)
        return speaking

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `agentledger ARGUMENTS`."""
        command = [sys.executable, "-m", "agentledger.infra.cli", *arguments]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=90, check=False)

    def commands(self, *arguments: str) -> str:
        """What `agentledger ARGUMENTS` prints; it must succeed."""
        done = self.cli(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def program(self, name: str) -> subprocess.Popen[bytes]:
        """Start `agentledger NAME` and wait until it is ready."""
        ready = self.folder / f"{name}-{len(self._programs)}.ready"
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "agentledger.infra.cli", name],
                env={**self.env, "AGENTLEDGER_READY_FILE": str(ready)}, stderr=log,
            )  # fmt: skip
        self._programs.append(process)
        end = time.monotonic() + WAIT_S_MAX
        while not ready.exists():
            assert process.poll() is None, (self.folder / f"{name}.log").read_text()
            assert time.monotonic() < end, f"{name} is not ready"
            time.sleep(0.05)
        return process

    def broker(self, number: signal.Signals) -> None:
        """Send the broker a signal."""
        assert self.kafka.pid is not None
        os.killpg(self.kafka.pid, number)

    def read(self, topic: Topic, kind: type[E]) -> list[E]:
        """The events of one kind on a topic, by partition, up to its end now."""
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": "reader", "enable.auto.commit": False})
        places = [TopicPartition(topic.name, partition, 0) for partition in range(PARTITIONS)]
        ends = {place.partition: consumer.get_watermark_offsets(place, 20)[1] for place in places}
        ends = {partition: end for partition, end in ends.items() if end}
        consumer.assign([place for place in places if place.partition in ends])
        found: list[E] = []
        while ends:
            message = consumer.poll(20)
            assert message is not None, "the broker has stopped answering"
            assert message.error() is None
            partition, event = message.partition() or 0, CODEC.decode(message.value())
            if isinstance(event, kind):
                found.append(event)
            if (message.offset() or 0) + 1 >= ends.get(partition, 2**63):
                del ends[partition]
        consumer.close()
        return found

    def declare(
        self, tenant_id: str, budget_id: str, scope: str, metric: str, limit: int, *, value: str = "",
        when_unreachable: str = "refuse",
    ) -> None:  # fmt: skip
        """Declare a budget whose calls need holds."""
        now_us = time.time_ns() // 1000
        declared = BudgetDeclared(
            event_id=uuid7(now_us), tenant_id=tenant_id, producer_id=f"test:{budget_id}:{metric}", producer_seq=0,
            run_id="", occurred_at=now_us, budget_id=budget_id, budget_version=1, scope=scope, scope_value=value,
            metric=metric, limit_amount=limit, window="total", on_exceeded="halt", enforcement="hold",
            when_unreachable=when_unreachable,
        )  # fmt: skip
        producer = Producer({"bootstrap.servers": self.servers})
        producer.produce(HOLDS.name, CODEC.encode(declared), tenant_id.encode())
        assert producer.flush(30) == 0

    def ledger(self, tenant_id: str, agent_id: str, holds: HoldSettings) -> Ledger:
        """An agent in this process."""
        control = ControlSettings(halt_file=self.folder / "none.json", first_read_s_max=20)
        return Ledger(
            agent_id=agent_id, tenant_id=tenant_id, bootstrap_servers=self.servers, control=control, holds=holds,
            on_emit_problem=lambda problem: None,
        )  # fmt: skip

    def end(self) -> None:
        """Kill what runs."""
        for speaking in self._running:
            speaking.end()
        for process in self._programs:
            kill_hard(process.pid, signal.SIGCONT)
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaService]:
    """One broker for all tests here."""
    with kafka_broker(tmp_path_factory.mktemp("broker")) as kafka:
        yield kafka


@pytest.fixture
def site(kafka: KafkaService, tmp_path: Path) -> Iterator[Site]:
    site = Site(kafka, tmp_path)
    try:
        yield site
    finally:
        site.end()


def until(is_so: Any) -> Any:
    """What `is_so` gives as soon as that is true."""
    end = time.monotonic() + WAIT_S_MAX
    while True:
        found = is_so()
        if found:
            return found
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def test_a_halt_stops_a_running_agent_and_a_resume_lets_it_go_on(site: Site) -> None:
    agent = site.agent("bot")
    agent.says("going")
    assert site.commands("halt", "--agent", "bot", "--reason", "it refunds everybody", "--by", "maria") == (
        "halted agent bot of tenant acme\n"
    )
    refusal = agent.says("halted: agent bot is halted by maria")
    assert "for the reason: it refunds everybody" in refusal
    assert "agentledger resume --agent bot" in refusal
    [listed] = json.loads(site.commands("control", "list", "--json"))
    assert (listed["scope"], listed["scope_value"], listed["issued_by"]) == ("agent", "bot", "maria")

    late = site.agent("bot", asks="once")  # started while its agent is halted: its first call is refused
    late.says("halted: agent bot")
    assert late.process.wait(WAIT_S_MAX) == 0

    assert site.commands("resume", "--agent", "bot") == (
        "resumed agent bot of tenant acme\n  lifted the halt by maria: it refunds everybody\n"
    )
    agent.says("going")
    assert json.loads(site.commands("control", "list", "--json")) == []

    def refusals() -> list[PolicyDecided]:
        return [event for event in site.read(EVENTS, PolicyDecided) if event.agent_id == "bot"]

    refused = until(lambda: len(refusals()) == 2 and refusals())
    assert {(event.verdict, event.enforced, event.rule, event.action) for event in refused} == {
        ("halt", "blocked", "control topic", "look")
    }
    [finished] = [event for event in site.read(EVENTS, RunFinished) if event.agent_id == "bot"]
    assert finished.status == "halted"
    assert "it refunds everybody" in finished.reason
    commands = [event for event in site.read(CONTROL, ControlIssued) if event.agent_id == "bot"]
    assert [(event.command, event.scope, event.issued_by == "maria") for event in commands] == [
        ("halt", "agent", True), ("resume", "agent", False)
    ]  # fmt: skip


def test_with_a_broker_that_hangs_the_halt_file_stops_agents_and_silence_those_that_must_not_go_on(site: Site) -> None:
    trusting, cautious = site.agent("clerk"), site.agent("clerk", when_unreachable="refuse")
    trusting.says("going")
    cautious.says("going")
    site.broker(signal.SIGSTOP)
    try:
        cautious.says("unreachable")
        failed = site.cli("halt", "--agent", "clerk", "--reason", "stop")
        assert failed.returncode == 1, failed.stderr
        assert "agentledger halt --local" in failed.stderr
        assert site.commands("halt", "--local", "--agent", "clerk", "--reason", "stop", "--by", "maria").startswith(
            "halted agent clerk on this host: "
        )
        assert "by the halt file" in trusting.says("halted: agent clerk is halted by maria")
        assert "by the halt file" in cautious.says("halted: agent clerk is halted by maria")
        assert site.commands("resume", "--local").startswith("1 halt lifted on this host")
        trusting.says("going")
        cautious.says("unreachable")
    finally:
        site.broker(signal.SIGCONT)
    cautious.says("going")  # by itself


def is_renewal(event: BudgetHeld, tenant_id: str) -> bool:
    return event.tenant_id == tenant_id and event.amount == 0


def spend(ledger: Ledger, count: int) -> int:
    """Make calls of ten cents each until one is refused; how many were made."""
    made = 0
    with ledger.run("w") as run:
        try:
            for _ in range(count):
                with run.model_call(model="m", hold=Estimate(cost_usd="0.10", tokens=1)) as call:
                    call.usage(output_tokens=1)
                    call.reported_cost_usd("0.10")
                made += 1
        except HoldRefusedError as refusal:
            run.halt(f"{refusal.scope} {refusal.scope_value}")
    return made


def test_nested_budgets_hold_and_a_dead_agents_hold_is_given_back(site: Site) -> None:
    site.declare("alpha", "whole", "tenant", "cost_nanousd", 100 * CENT)
    site.declare("alpha", "each", "agent", "cost_nanousd", 30 * CENT)
    site.declare("beta", "one", "tenant", "tool_calls", 1)
    ticker, holds = site.program("ticker"), site.program("holds")
    settings = HoldSettings(when_unreachable="refuse", answer_s_max=WAIT_S_MAX)
    with site.ledger("alpha", "first", settings) as first, site.ledger("alpha", "second", settings) as second:
        assert spend(first, 9) == 3  # by its own budget
        assert spend(second, 9) == 3
    with site.ledger("alpha", "third", settings) as third, site.ledger("alpha", "fourth", settings) as fourth:
        assert spend(third, 9) == 3
        assert spend(fourth, 9) == 1  # by the tenant's
        with fourth.run("w") as run, pytest.raises(HoldRefusedError) as refusal:
            run.model_call(model="m", hold=Estimate(cost_usd="0.10")).__enter__()
    error = refusal.value
    assert (error.reason, error.budget_id, error.scope, error.scope_value) == ("limit", "whole", "tenant", "alpha")
    assert (error.limit, error.used, error.held, error.asked) == (100 * CENT, 100 * CENT, 0, 10 * CENT)
    reasons = [event.reason for event in site.read(EVENTS, RunFinished) if event.tenant_id == "alpha"]
    assert sorted(reason for reason in reasons if reason.startswith(("agent", "tenant"))) == [
        "agent first", "agent second", "agent third", "tenant alpha"
    ]  # fmt: skip

    doomed = site.python(HOLDER, site.servers, "10")
    doomed.says("held")
    with site.ledger("beta", "heir", settings) as heir:
        with heir.run("w") as run, pytest.raises(HoldRefusedError, match="used 0 \\+ held 1 \\+ asked 1 of 1"):
            run.tool_call("t").__enter__()
        renewed = until(lambda: [event for event in site.read(BUDGETS, BudgetHeld) if is_renewal(event, "beta")])
        time.sleep(max(0.0, (renewed[0].expires_at or 0) / 1e6 - 2 - time.time()))  # unrenewed it had expired by now
        with heir.run("w") as run, pytest.raises(HoldRefusedError, match="used 0 \\+ held 1 \\+ asked 1 of 1"):
            run.tool_call("t").__enter__()
        doomed.process.send_signal(signal.SIGKILL)
        released = until(lambda: [event for event in site.read(BUDGETS, BudgetReleased) if event.tenant_id == "beta"])
        assert [(event.reason, event.amount) for event in released] == [("expired", 1)]
        with heir.run("w") as run, run.tool_call("t"):
            pass
        with heir.run("w") as run, pytest.raises(HoldRefusedError, match="used 1 \\+ held 0 \\+ asked 1 of 1"):
            run.tool_call("t").__enter__()
    for process in (ticker, holds):
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_without_a_decider_calls_go_as_their_budgets_say_and_are_counted_when_it_is_back(site: Site) -> None:
    site.declare("gamma", "few", "tenant", "tool_calls", 3, when_unreachable="allow")
    site.declare("gamma", "strict", "agent", "tool_calls", 3, value="impatient")
    holds = site.program("holds")
    impatient = HoldSettings(when_unreachable="allow", answer_s_max=1)  # what was declared comes first
    lenient = HoldSettings(when_unreachable="refuse", answer_s_max=1)
    patient = HoldSettings(when_unreachable="refuse", answer_s_max=WAIT_S_MAX)
    with (
        site.ledger("gamma", "impatient", impatient) as strict, site.ledger("gamma", "lenient", lenient) as open_,
        site.ledger("gamma", "patient", patient) as later,
    ):  # fmt: skip
        with strict.run("w") as run, run.tool_call("t"):
            pass
        os.kill(holds.pid, signal.SIGSTOP)
        with strict.run("w") as run, pytest.raises(HoldUnansweredError):
            run.tool_call("t").__enter__()
        with open_.run("w") as run, run.tool_call("t"):
            pass
        assert (strict.flush(30), open_.flush(30)) == (0, 0)
        os.kill(holds.pid, signal.SIGCONT)
        with later.run("w") as run:
            with run.tool_call("t"):  # the third: the one that was not made doesn't count
                pass
            with pytest.raises(HoldRefusedError, match="used 3 \\+ held 0 \\+ asked 1 of 3"):
                run.tool_call("t").__enter__()
    decided = [event for event in site.read(BUDGETS, HoldDecided) if event.tenant_id == "gamma"]
    assert len({event.hold_id for event in decided}) == 5
