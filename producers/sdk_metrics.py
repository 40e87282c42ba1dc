"""What a Ledger has emitted, delivered and lost, for Prometheus: for agents that show metrics of their own.

from prometheus_client import REGISTRY
REGISTRY.register(LedgerCollector(ledger))
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agentledger.producers.delivery import DeliveryCounters


class Counted(Protocol):
    """What has delivery counters: a Ledger."""

    @property
    def counters(self) -> DeliveryCounters:
        """A moment's count."""
        ...


class LedgerCollector(Collector):
    """Asks the ledger for its counters when somebody reads the metrics; costs nothing otherwise."""

    def __init__(self, ledger: Counted) -> None:
        self._ledger = ledger

    def collect(self) -> Iterator[Metric]:
        """The counters of this moment: emitted is always the sum of all others but the gaps."""
        now = self._ledger.counters
        yield CounterMetricFamily("agentledger_sdk_emitted_events", "Events emitted.", value=now.emitted)
        yield CounterMetricFamily("agentledger_sdk_delivered_events", "Events that Kafka has.", value=now.delivered)
        yield CounterMetricFamily("agentledger_sdk_failed_events", "Events given up after waiting.", value=now.failed)
        dropped = CounterMetricFamily("agentledger_sdk_dropped_events", "Events never queued.", labels=["reason"])
        for reason, count in sorted(now.dropped.items()):
            dropped.add_metric([reason], count)
        yield dropped
        yield GaugeMetricFamily("agentledger_sdk_waiting_events", "Events that wait for Kafka.", value=now.waiting)
        gaps = CounterMetricFamily("agentledger_sdk_gaps", "Holes in producer_seq.", labels=["announced"])
        gaps.add_metric(["yes"], now.gaps_announced)
        gaps.add_metric(["no"], now.gaps_unannounced)
        yield gaps
