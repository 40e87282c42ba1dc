"""What the packer counts, for Prometheus: once a packed message, never once a record."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

MESSAGE_RECORDS = (1, 2, 5, 10, 25, 50, 100, 250, 500)  # 500: the most that are packed together


class PackerMetrics:
    """Counters of one packer, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._records = Counter("agentledger_packer_records", "Records packed.", registry=self.registry)
        self._oversized = Counter(
            "agentledger_packer_oversized_records", "Records too large to be packed: told without their content.",
            registry=self.registry,
        )  # fmt: skip
        self._sizes = Histogram(
            "agentledger_packer_message_records", "Records of a packed message.", buckets=MESSAGE_RECORDS,
            registry=self.registry,
        )  # fmt: skip
        self._waiting = Gauge(
            "agentledger_packer_waiting_messages", "Packed messages that the broker hasn't acknowledged.",
            registry=self.registry,
        )  # fmt: skip
        self._last = Gauge(
            "agentledger_packer_last_input_timestamp_seconds", "When the newest record that was packed was appended.",
            registry=self.registry,
        )  # fmt: skip

    def watch(self, waiting: Callable[[], float]) -> None:
        """Ask this whenever somebody reads the metrics: messages that wait."""
        self._waiting.set_function(waiting)

    def note_message(self, records: int, oversized: int, newest_s: float) -> None:
        """A message was packed; its newest record was appended then, seconds since 1970."""
        self._records.inc(records)
        self._oversized.inc(oversized)
        self._sizes.observe(records)
        self._last.set(newest_s)
