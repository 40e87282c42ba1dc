"""The topics and consumer groups that this stage needs beside the ledger's own."""

from __future__ import annotations

from dataclasses import dataclass, field

WORKER_GROUP = "agentledger-processors"
PACKER_GROUP = "agentledger-packer"
CHANGELOG = "agentledger.state.runs.v1"
HOLDS_GROUP = "agentledger-holds"
HOLDS_CHANGELOG = "agentledger.state.holds.v1"
SCOPES_GROUP = "agentledger-scopes"
SCOPES_CHANGELOG = "agentledger.state.scopes.v1"
SCOPES_STATE_BYTES_MAX = 8 * 1024 * 1024  # of a tenant; usually 1 to 200 kB
HOUR_MS = 3_600_000


@dataclass(frozen=True)
class WorkerTopic:
    """A topic to create before a worker starts, with the broker's settings."""

    name: str
    partitions: int
    config: dict[str, str] = field(default_factory=dict)


def worker_topics(partitions: int) -> list[WorkerTopic]:
    """What a worker needs beside `schemas.topics.ALL_TOPICS`: the changelogs of states, with as many partitions."""
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
    large = {"max.message.bytes": str(SCOPES_STATE_BYTES_MAX)}
    # A hold writes a dozen short-lived cells: at 100 holds/s an hour of them would take minutes to recover.
    frequent = {
        "min.compaction.lag.ms": str(HOUR_MS // 6),
        "segment.ms": str(HOUR_MS // 6),
        "segment.bytes": str(16 * 1024 * 1024),
        "min.cleanable.dirty.ratio": "0.1",
    }
    return [
        WorkerTopic(CHANGELOG, partitions, changelog),
        WorkerTopic(HOLDS_CHANGELOG, partitions, changelog | frequent),
        WorkerTopic(SCOPES_CHANGELOG, partitions, changelog | large),
    ]
