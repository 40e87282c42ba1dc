"""Packer and worker on librdkafka's mock cluster: what `agentledger up --broker memory` runs on."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentledger.infra.stack.memory_broker import MemoryBrokerService
from agentledger.infra.topic_admin import touch_topics
from agentledger.processors import worker_topics
from agentledger.schemas.topics import ALL_TOPICS
from tests.kafka_broker import PARTITIONS
from tests.run_logs import interleaved, some_run
from tests.worker_rig import Rig, stop_cleanly, wait_ready

pytestmark = [pytest.mark.integration, pytest.mark.timeout(200)]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """A mock cluster with the ledger's topics."""
    service = MemoryBrokerService(tmp_path / "stack")
    service.start()
    try:
        service.wait_ready(time.monotonic() + 30)
        names = [topic.name for topic in (*ALL_TOPICS, *worker_topics(PARTITIONS))]
        touch_topics({"bootstrap.servers": service.endpoint}, names)
        yield service.endpoint
    finally:
        service.stop()


def test_a_killed_worker_goes_on_where_it_was(broker: str, tmp_path: Path) -> None:
    rng = random.Random(1)
    log = interleaved([some_run(number, rng, models=("gpt-4.1", "ft:x")) for number in range(40)], rng)
    with Rig(broker, tmp_path, session_timeout_s=6.0) as rig:
        worker, packer = rig.worker(), rig.packer()
        wait_ready(worker)
        wait_ready(packer)
        rig.produce(log[:300])
        rig.settle()
        worker.kill()
        worker.wait()
        rig.produce(log[300:])
        worker = rig.worker()
        rig.settle()
        stop_cleanly(worker)
        stop_cleanly(packer)
