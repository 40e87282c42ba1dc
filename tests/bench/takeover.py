"""How long it takes the workers that are left to be through with everything, from the death of one of two."""

from __future__ import annotations

import random
import time
from pathlib import Path

from agentledger.processors import WorkerConfig
from tests.bench.report import Figure
from tests.kafka_broker import kafka_broker
from tests.run_logs import interleaved, some_run
from tests.worker_rig import Rig, wait_ready

RUNS = 40
MODELS = ("gpt-4.1", "gpt-4.1-mini")


def measure(folder: Path) -> list[Figure]:
    """Seconds from the `kill -9` of a worker, of two, to the last of the records that were sent before and after it."""
    with kafka_broker(folder / "stack") as kafka:
        return [Figure("takeover_s", takeover(kafka.endpoint, folder), "s", "at most 15")]


def takeover(servers: str, folder: Path) -> float:
    """The seconds, at the settings that a user gets."""
    rng = random.Random(11)
    with Rig(servers, folder, session_timeout_s=WorkerConfig.session_timeout_s) as rig:
        workers = [rig.worker("first"), rig.worker("second")]
        for process in (rig.packer(), *workers):
            wait_ready(process)
        rig.wait_for(lambda: sorted(rig.shares(["first", "second"])) == [2, 2])
        rig.produce(interleaved([some_run(n, rng, 16, MODELS) for n in range(RUNS)], rng))
        workers[0].kill()
        began = time.monotonic()
        rig.produce(interleaved([some_run(RUNS + n, rng, 16, MODELS) for n in range(RUNS)], rng))
        rig.wait_for(rig.is_all_folded)
        return time.monotonic() - began
