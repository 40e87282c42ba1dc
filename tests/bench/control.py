"""How soon a halt stops an agent: from a command, from the console's form, from the event that breaks a budget."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from confluent_kafka import Producer

from agentledger.infra.control_commands import control_event
from agentledger.producers import ControlSettings, Ledger
from agentledger.producers.halts import Command
from agentledger.schemas import Codec, open_registry
from agentledger.schemas.control import control_key
from agentledger.schemas.errors import HaltedError
from agentledger.schemas.topics import CONTROL
from tests.bench.report import Figure, percentile
from tests.running_stack import RunningStack

PROBES = 200
CALL_S = 0.002  # what a call of the probing agent takes: it notices a halt at its next one
TENANT = "bench"
WAIT_S_MAX = 20.0
BUDGET_PROBES = 100
CONSOLE_PROBES = 50
LOCAL_TENANT = "default"  # whose ledger a console on loopback shows and halts
_FORM_TOKEN = re.compile(r'name="form_token" value="([^"]+)"')


def measure(folder: Path) -> list[Figure]:
    """p50 and p99 of each, on a whole local stack."""
    with RunningStack(folder / "stack") as stack:
        servers = stack.endpoints()["kafka_bootstrap_servers"]
        pressed = probe_console(stack.endpoints()["console_url"], servers, folder)
        commanded = probe_commands(servers, folder)
        budgets = probe_budgets(servers, folder)
    return [
        Figure("halt_ms_p50", percentile(commanded, 0.50), "ms", ""),
        Figure("halt_ms_p99", percentile(commanded, 0.99), "ms", "under 250"),
        Figure("console_halt_ms_p50", percentile(pressed, 0.50), "ms", ""),
        Figure("console_halt_ms_p99", percentile(pressed, 0.99), "ms", "under 2000"),
        Figure("halt_by_budget_ms_p50", percentile(budgets, 0.50), "ms", ""),
        Figure("halt_by_budget_ms_p99", percentile(budgets, 0.99), "ms", "under 250"),
    ]


def probe_commands(servers: str, folder: Path) -> list[float]:
    """Milliseconds from a command's emit to the refusal of the next call, an agent calling all the time."""
    codec = Codec(open_registry())
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 0, "enable.idempotence": True})

    def send(run_id: str) -> None:
        command = Command("halt", TENANT, "run", run_id, "bench", "bench")
        producer.produce(CONTROL.name, codec.encode(control_event(command)), control_key(*command.subject))
        producer.flush(10)

    with probing_ledger(servers, folder) as ledger:
        return halt_runs(ledger, send, PROBES)


def probe_console(url: str, servers: str, folder: Path) -> list[float]:
    """Milliseconds from the sending of the console's form to the refusal of the next call."""
    with httpx.Client(base_url=url, timeout=WAIT_S_MAX) as web:
        found = _FORM_TOKEN.search(web.get("/budgets").text)
        if found is None:
            raise RuntimeError("the page Budgets has no form to halt with")
        form = {"form_token": found[1], "command": "halt", "scope": "run", "expires": "", "reason": "bench"}

        def press(run_id: str) -> None:
            answer = web.post("/commands", data={**form, "scope_value": run_id})
            if answer.status_code != httpx.codes.SEE_OTHER:
                raise RuntimeError(f"the halt was answered with {answer.status_code}: {answer.text[-300:]}")

        with probing_ledger(servers, folder, LOCAL_TENANT) as ledger:
            return halt_runs(ledger, press, CONSOLE_PROBES)


def halt_runs(ledger: Ledger, halt: Callable[[str], None], probes: int) -> list[float]:
    """Milliseconds from the begin of `halt` of a run to the refusal of its next call, an agent calling all the time."""
    took = []
    for number in range(probes + 1):
        with ledger.run(workflow="probe", run_id=f"halted-{number}") as run:
            call(run)
            halted_at: list[float] = []

            def halt_soon(run_id: str = run.run_id, halted_at: list[float] = halted_at) -> None:
                time.sleep(0.01)
                halted_at.append(time.perf_counter())
                halt(run_id)

            halting = threading.Thread(target=halt_soon)
            halting.start()
            refused_at = call_until_refused(run)
            halting.join()
            took.append(1000 * (refused_at - halted_at[0]))
    return took[1:]  # the first one warms up


def probe_budgets(servers: str, folder: Path) -> list[float]:
    """Milliseconds from the emit of the event that breaks a run's budget, through the stream, to the next refusal.

    The events are recorded afterwards, which the SDK's own guard doesn't refuse: only the halt from the stream does.
    """
    took = []
    with probing_ledger(servers, folder) as ledger:
        for number in range(BUDGET_PROBES + 1):
            with ledger.run(workflow="probe", run_id=f"spender-{number}", budget={"model_calls": 1}) as run:
                call(run)
                run.record_model_call(model="gpt-4.1", provider="openai", status="ok", input_tokens=1)
                began = time.perf_counter()
                run.record_model_call(model="gpt-4.1", provider="openai", status="ok", input_tokens=1)
                took.append(1000 * (call_until_refused(run) - began))
    return took[1:]


def probing_ledger(servers: str, folder: Path, tenant_id: str = TENANT) -> Ledger:
    """The agent whose calls are refused."""
    control = ControlSettings(halt_file=folder / "halt.json", first_read_s_max=WAIT_S_MAX)
    return Ledger(agent_id="probe", tenant_id=tenant_id, bootstrap_servers=servers, control=control)


def call(run: Any) -> None:
    """One call that takes a moment."""
    with run.tool_call("x"):
        time.sleep(CALL_S)


def call_until_refused(run: Any) -> float:
    """When the call that was refused began (perf_counter)."""
    end = time.perf_counter() + WAIT_S_MAX
    while time.perf_counter() < end:
        try:
            call(run)
        except HaltedError:
            return time.perf_counter()
    raise RuntimeError(f"run {run.run_id} was not halted within {WAIT_S_MAX:g} s")
