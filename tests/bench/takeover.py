"""How long it takes the workers that are left to be through with everything, from the death of one of two."""

from __future__ import annotations

import random
import time
from pathlib import Path

from confluent_kafka.admin import NewTopic

from agentledger.infra.stack.jars import default_cache_dir, kafka_classpath
from agentledger.infra.stack.kafka import KafkaService
from agentledger.infra.stack.ports import free_port
from agentledger.infra.topic_admin import create_topics
from agentledger.processors import WorkerConfig, worker_topics
from tests.bench.report import Figure
from tests.run_logs import interleaved, some_run
from tests.worker_rig import PARTITIONS, Rig, wait_ready

RUNS = 40
MODELS = ("gpt-4.1", "gpt-4.1-mini")


def measure(folder: Path) -> list[Figure]:
    """Seconds from the `kill -9` of a worker, of two, to the last of the records that were sent before and after it."""
    port = free_port()
    kafka = KafkaService(folder / "stack", port, free_port({port}), kafka_classpath(default_cache_dir()))
    kafka.start()
    try:
        kafka.wait_ready(time.monotonic() + 90)
        extra = [NewTopic(topic.name, topic.partitions, 1, config=topic.config) for topic in worker_topics(PARTITIONS)]
        create_topics({"bootstrap.servers": kafka.endpoint}, partitions=PARTITIONS, replication_factor=1, extra=extra)
        return [Figure("takeover_s", takeover(kafka.endpoint, folder), "s", "at most 15")]
    finally:
        kafka.stop()


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
