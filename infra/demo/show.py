"""Runs the demo: stack up, workload in, progress while it flows, scoreboard out, stack down."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from agentledger.infra.demo.workload import StoryClock, stories, tell
from agentledger.infra.endpoints import reader_login
from agentledger.infra.ledger_setup import open_clickhouse
from agentledger.infra.local_stack import local_stack
from agentledger.infra.settings import Settings
from agentledger.infra.stack import Endpoints, StackConfig, find_running, kafka_classpath
from agentledger.producers import Ledger
from agentledger.schemas.errors import StackError, StoreError, UsageError
from agentledger.sinks.scoreboard import scoreboard, scoreboard_rows

STORY_AGE_US = 5 * 86_400_000_000  # the story ends before today, so that its late outcomes lie in the past too
ARRIVAL_WAIT_S_MAX = 90.0
POLL_S = 0.5
MARKER = "demo"
AGENTS = {"support-bot": "4.2", "coder": "1.9", "ops-bot": "0.7"}
ARRIVED = "SELECT count() FROM agentledger.events WHERE topic = 'agentledger.events.v1'"
DERIVED = "SELECT count() FROM agentledger.events WHERE topic != 'agentledger.events.v1'"
CHARGES = "SELECT count() FROM agentledger.charges WHERE kind = 'model'"
CALLS = "SELECT count() FROM agentledger.model_calls"


def run_demo(
    console: Console, settings: Settings, folder: Path, *, runs: int, seed: int, broker: Literal["kafka", "memory"]
) -> None:
    """The whole demo, into `folder`. Raises StackError, StoreError; the stack is stopped in any case."""
    began = time.monotonic()
    cache = settings.cache_dir.expanduser()
    if find_running(folder) is not None:
        raise StackError(f"a stack runs on {folder}", next_step=f"agentledger down --data-dir {folder}")
    start_empty(folder)
    if broker == "kafka":
        try:
            kafka_classpath(cache, console.print)
        except StackError as error:
            console.print(f"no Kafka here ({error.what}): the memory broker serves instead", style="yellow")
            broker = "memory"
    stack = local_stack(StackConfig(data_dir=folder, broker=broker, cache_dir=cache), settings)
    try:
        endpoints = stack.up(lambda line: console.print(f"  {line}", style="dim", highlight=False))
        login = reader_login(settings.model_copy(update={"data_dir": folder, "clickhouse_url": ""}))
        show_flow(console, settings, endpoints, login, runs=runs, seed=seed)
    finally:
        stack.down()
    console.print(f"\nDone in {time.monotonic() - began:.0f} s; everything is stopped, the data is in {folder}")
    console.print(look_further(folder, broker), highlight=False, markup=False)


def show_flow(
    console: Console, settings: Settings, endpoints: Endpoints, login: tuple[str, str], *, runs: int, seed: int
) -> None:
    """Record the workload on a running stack, wait until all of it has arrived, print the scoreboard."""
    client = open_clickhouse(endpoints.clickhouse_url, settings, login=login)
    rng = random.Random(seed)  # noqa: S311 (a story, not a secret)
    clock = StoryClock(time.time_ns() // 1000 - STORY_AGE_US)
    day = stories(runs, rng)
    ledgers = {
        agent: Ledger(
            agent_id=agent,
            agent_version=version,
            environment="demo",
            source="demo",
            tenant_id=settings.tenant_id,
            bootstrap_servers=endpoints.kafka_bootstrap_servers,
            clock=clock,
        )
        for agent, version in AGENTS.items()
    }
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        told = bar.add_task("runs recorded", total=len(day))
        for count, _ in tell(day, ledgers, clock, rng):
            bar.update(told, completed=count)
        emitted = sum(ledger.counters.emitted for ledger in ledgers.values())
        for ledger in ledgers.values():
            ledger.close()
        arrived = bar.add_task("events in ClickHouse", total=emitted)
        rated = bar.add_task("model calls rated", total=None)

        def show(events: int, charges: int, calls: int) -> None:
            bar.update(arrived, completed=events)
            bar.update(rated, completed=charges, total=calls)

        wait_for_arrival(client, emitted, show)
    console.print()
    console.print(scoreboard(scoreboard_rows(client), console.width))


def wait_for_arrival(client: Any, emitted: int, show: Callable[..., None]) -> None:
    """Return when all events are in the ledger, every model call is rated, and nothing more follows from them.

    `show(events, charges, calls)` is told how far it is. Raises StoreError when it takes too long.
    """
    deadline = time.monotonic() + ARRIVAL_WAIT_S_MAX
    derived_before = -1
    while time.monotonic() < deadline:
        events, calls, derived, charges = (_number(client, sql) for sql in (ARRIVED, CALLS, DERIVED, CHARGES))
        show(events, charges, calls)
        if events >= emitted and charges >= calls and derived == derived_before:
            return
        derived_before = derived
        time.sleep(POLL_S)
    raise StoreError(
        f"only {events} of {emitted} events and {charges} of {calls} charges arrived in {ARRIVAL_WAIT_S_MAX:.0f} s",
        next_step="see the logs folder beside the data",
    )


def _number(client: Any, sql: str) -> int:
    return int(client.query(sql).result_rows[0][0])


def start_empty(folder: Path) -> None:
    """Take away what an earlier demo left: its runs would count again. Raises UsageError on a folder of another's."""
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise UsageError(f"{folder} holds something that is no demo's", next_step="give another folder with --data-dir")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARKER).touch()


def look_further(folder: Path, broker: str) -> str:
    """What to type next."""
    option = " --broker memory" if broker == "memory" else ""
    return f"""
Look further (source .venv/bin/activate first):
  export AGENTLEDGER_DATA_DIR={folder}
  agentledger up --detach{option}
  agentledger run demo-overspending-run
  agentledger query "SELECT rule, severity, summary FROM alerts"
  agentledger query "SELECT workflow, model, count(), sum(cost_nanousd) FROM model_calls GROUP BY ALL ORDER BY 4 DESC"
  agentledger down"""
