"""The topics and consumer groups that this stage needs beside the ledger's own."""

from __future__ import annotations

from dataclasses import dataclass, field

WORKER_GROUP = "agentledger-processors"
PACKER_GROUP = "agentledger-packer"
CHANGELOG = "agentledger.state.runs.v1"
HOUR_MS = 3_600_000


@dataclass(frozen=True)
class WorkerTopic:
    """A topic to create before a worker starts, with the broker's settings."""

    name: str
    partitions: int
    config: dict[str, str] = field(default_factory=dict)


def worker_topics(partitions: int) -> list[WorkerTopic]:
    """What a worker needs beside `schemas.topics.ALL_TOPICS`: the changelog of run states, with as many partitions."""
    changelog = {
        "cleanup.policy": "compact",  # nothing else: deleted heads of changelogs stall Faust's recovery
        # A paused worker that lost its partitions may write old states when it wakes up. Recovery takes the state
        # folded furthest, which must not be compacted away: so compaction waits longer than such a pause lasts.
        "min.compaction.lag.ms": str(HOUR_MS),
        "segment.ms": str(6 * HOUR_MS),  # the open segment is never compacted
        "segment.bytes": str(64 * 1024 * 1024),
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": "1048588",
    }
    return [WorkerTopic(CHANGELOG, partitions, changelog)]
