"""Two, then three workers at the settings that a user gets: the work spreads, and outlives the death of any of them.

How long a death takes to be made up for is measured by the bench: section `takeover`.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from agentledger.processors.worker import WorkerConfig
from tests.kafka_broker import PARTITIONS
from tests.run_logs import interleaved, some_run
from tests.worker_rig import Rig, wait_ready

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

SESSION_TIMEOUT_S = WorkerConfig.session_timeout_s
MODELS = ("gpt-4.1", "gpt-4.1-mini")


def test_the_work_spreads_and_outlives_deaths(broker: str, tmp_path: Path) -> None:
    rng = random.Random(11)
    sent = 0

    def produce(runs: int) -> None:
        nonlocal sent
        rig.produce(interleaved([some_run(sent + n, rng, 16, MODELS) for n in range(runs)], rng), 0.01)
        sent += runs

    with Rig(broker, tmp_path, session_timeout_s=SESSION_TIMEOUT_S) as rig:
        workers = {"first": rig.worker("first"), "second": rig.worker("second")}
        wait_ready(rig.packer())
        for worker in workers.values():
            wait_ready(worker)
        rig.wait_for(lambda: sorted(rig.shares(["first", "second"])) == [2, 2])
        produce(40)
        workers["third"] = rig.worker("third")
        wait_ready(workers["third"])
        rig.wait_for(lambda: sorted(rig.shares(["first", "second", "third"])) == [1, 1, 2])
        produce(40)
        for name in ("first", "third"):
            workers[name].kill()
            workers[name].wait()
            produce(20)
            rig.wait_for(rig.is_all_folded)
        rig.settle()
        assert rig.shares(["second"]) == [PARTITIONS]
