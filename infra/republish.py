"""Publishes a part of the ledger again, on a topic for another consumer: same key, same bytes, same order."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # its stubs leave NewTopic out

from agentledger.infra.replay_crew import Report
from agentledger.infra.replay_wanted import Wanted
from agentledger.infra.settled_producer import SettledProducer
from agentledger.schemas.errors import BrokerError, UsageError
from agentledger.schemas.topics import ALL_TOPICS
from agentledger.sinks.record_filter import RecordFilter
from agentledger.sinks.replay_source import LogSpan, ReplaySource, SentRecord, split_headers

REQUEST_S = 30.0
_TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
HEADER_PREFIX = "agentledger."  # of the headers that say where a record is in the ledger


class Republisher:
    """One target topic. It is made, with as many partitions as the ledger's, where it isn't there: see
    `check_target` before."""

    def __init__(self, kafka: dict[str, Any], topic: str, partitions: int) -> None:
        self._topic = topic
        self._kafka = kafka
        self._partitions = self._made(partitions)
        self._keeps_partitions = self._partitions == partitions
        self._producer = SettledProducer(kafka)

    def publish(self, sent: SentRecord) -> None:
        """Queue one record, waiting for room. Raises BrokerError where one was given up."""
        record = sent.record
        self._producer.send(
            self._topic,
            record.partition if self._keeps_partitions else None,
            sent.key or None,
            record.value,
            headers=headers_of(sent),
            timestamp=record.ledger_time_us // 1000,
        )

    def finish(self) -> None:
        """Wait until every record is acknowledged. Raises BrokerError where one isn't."""
        self._producer.settle()

    def _made(self, partitions: int) -> int:
        admin = AdminClient(self._kafka)
        try:
            found = admin.list_topics(timeout=REQUEST_S).topics.get(self._topic)
            if found is not None:
                return len(found.partitions)
            # Times are those of the ledger: a consumer that asks by time finds what it would have found then.
            config = {"message.timestamp.type": "CreateTime", "retention.ms": "-1", "max.message.bytes": "1114124"}
            wanted = NewTopic(self._topic, partitions, config=config)
            admin.create_topics([wanted], operation_timeout=REQUEST_S)[self._topic].result(REQUEST_S)
        except KafkaException as error:
            raise BrokerError(f"the topic can't be made: {error.args[0].str()}", where=self._topic) from error
        return partitions


def check_target(topic: str) -> None:
    """Raise UsageError where this is no name of a topic (Kafka's rule), or that of one of the ledger's own."""
    if not _TOPIC_NAME.fullmatch(topic) or topic in {".", ".."}:
        raise UsageError(
            f"{topic!r} is no name of a topic", next_step="up to 249 letters, digits and the signs . _ - make one"
        )
    if topic.startswith("agentledger.") or topic in {known.name for known in ALL_TOPICS}:
        raise UsageError(
            f"{topic} is a topic of the ledger's own",
            next_step="publish to another one: records would be in the ledger twice",
        )


def headers_of(sent: SentRecord) -> list[tuple[str, bytes]]:
    """The record's own headers, and its place in the ledger. Times are microseconds since 1970."""
    record = sent.record
    place = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "log_index": record.log_index,
        "ledger_time_us": record.ledger_time_us,
    }
    return split_headers(sent.headers) + [(HEADER_PREFIX + name, str(value).encode()) for name, value in place.items()]


def republish(
    source: ReplaySource,
    open_target: Callable[[], Republisher],
    topics: Sequence[str],
    wanted: Wanted,
    *,
    begin: Callable[[int], None] = lambda _total: None,
    report: Report = lambda _more: None,
) -> int:
    """Publish the range's records of these topics; how many. Every log keeps its order. Where there are none, the
    target isn't opened: no topic is made for nothing.

    Raises LedgerConflictError where one is missing from the ledger, BrokerError where the broker doesn't take one.
    """
    spans: list[LogSpan] = source.spans(topics, from_us=wanted.from_us, to_us=wanted.to_us)
    chosen = RecordFilter(tenant_id=wanted.tenant_id, run_id=wanted.run_id)
    total, count = source.count(spans, chosen), 0
    begin(total)
    if chosen != RecordFilter():
        source.check_complete(spans)
    if not total:
        return 0
    publisher = open_target()
    for block in source.read_sent(spans, chosen):
        for sent in block:
            publisher.publish(sent)
        count += len(block)
        report(len(block))
    publisher.finish()
    return count
