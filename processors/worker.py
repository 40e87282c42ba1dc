"""A fold in its shell as a program: its settings, its start, its end. What it does stands in `shell` and `app`."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

from agentledger.processors.fold_metrics import FoldMetrics
from agentledger.processors.programs import EXIT_FAILED, die

STOP_SECONDS = 15.0  # for leaving the group; a stop that is cut off costs time at the next start, and nothing else
LOOK_SECONDS = 0.5
GC_THRESHOLD = 50_000  # a batch makes some 100,000 objects, none of them in cycles

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker needs. `kafka` holds librdkafka's settings, bootstrap.servers at least.

    `data_dir` belongs to this worker alone. `partitions` is that of the topics. A worker that was killed is missed
    after `session_timeout_s`, which the broker's group.min.session.timeout.ms (6 s) bounds below.
    """

    kafka: dict[str, Any] = field(repr=False)
    data_dir: Path
    partitions: int
    schema_registry_url: str = ""
    schema_registry_auth: str = field(default="", repr=False)
    prices_file: Path | None = None  # prices before those that are shipped
    rules_file: Path | None = None  # anomaly rules instead of those that are shipped
    session_timeout_s: float = 6.0
    stalled_after_s: float = 15.0  # with input waiting and no progress for this long, the process ends
    commit_interval_s: float = 1.0
    metrics: FoldMetrics = field(default_factory=lambda: FoldMetrics("worker"), repr=False, compare=False)


class RunningShell(Protocol):
    """What `run_program` runs: a `Shell`, named here without importing Faust."""

    async def start(self) -> None:
        """Join the group."""

    async def stop(self) -> None:
        """Finish what is in hand and leave the group."""

    def raise_crash(self) -> None:
        """Raise what went wrong in the background, if anything has."""


def run_worker(config: WorkerConfig) -> None:
    """Run the fold over runs until SIGTERM or SIGINT, then end the process. See `run_program`."""

    def build() -> RunningShell:
        from agentledger.processors.app import Worker  # noqa: PLC0415 - Faust and prices take a second to import

        return Worker(config)

    run_program(build, config.data_dir)


def run_holds(config: WorkerConfig) -> None:
    """Decide on holds until SIGTERM or SIGINT, then end the process. See `run_program`."""

    def build() -> RunningShell:
        from agentledger.processors.holds_app import HoldsProgram  # noqa: PLC0415 - as above

        return HoldsProgram(config)

    run_program(build, config.data_dir)


def run_program(build: Callable[[], RunningShell], data_dir: Path) -> NoReturn:
    """Run what `build` gives until SIGTERM or SIGINT, then end the process.

    Writes the ready file once partitions are assigned and their states recovered. Exit code 0 after a stop, EXIT_FAILED
    after any failure: a supervisor starts it again, and it goes on from what was acknowledged.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        asyncio.run(_run(build))
    except Exception as error:  # noqa: BLE001 - a start that fails must end with the same line and code
        die(error)
    os._exit(EXIT_FAILED)


async def _run(build: Callable[[], RunningShell]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    shell = build()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    await shell.start()
    while not stop.is_set():
        shell.raise_crash()
        try:
            await asyncio.wait_for(stop.wait(), LOOK_SECONDS)
        except TimeoutError:
            continue
    try:
        await asyncio.wait_for(shell.stop(), STOP_SECONDS)
    except TimeoutError:
        log.warning("left without saying goodbye to the group: no answer in %.0f s", STOP_SECONDS)
    logging.shutdown()
    os._exit(0)  # threads of Faust may outlive a stop
