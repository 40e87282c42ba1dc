"""What the writer counts, for Prometheus: once a flush, never once a record."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

FLUSH_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
FLUSH_RECORDS = (1, 10, 100, 1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 200_000)  # 200,000: the most that is set


class WriterMetrics:
    """Counters of one writer, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._oldest_ms = 0
        self._records = Counter("agentledger_writer_records", "Records written.", registry=self.registry)
        self._sizes = Histogram(
            "agentledger_writer_flush_records", "Records of a flush.", buckets=FLUSH_RECORDS, registry=self.registry
        )
        self._seconds = Histogram(
            "agentledger_writer_flush_seconds", "Time of a flush, with its retries.", buckets=FLUSH_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self._errors = Counter(
            "agentledger_writer_store_errors", "Attempts that ClickHouse did not take.", registry=self.registry
        )
        oldest = Gauge(
            "agentledger_writer_oldest_unflushed_seconds",
            "Age of the oldest record of the flush under way, by the broker's stamp; 0: there is none.",
            registry=self.registry,
        )
        oldest.set_function(self._oldest_unflushed_s)
        self._last = Gauge(
            "agentledger_writer_last_flush_timestamp_seconds", "When the last flush was done.", registry=self.registry
        )

    def begin_flush(self, oldest_ms: int) -> None:
        """A flush begins whose oldest record was appended then, milliseconds since 1970."""
        self._oldest_ms = oldest_ms

    def end_flush(self, records: int, seconds: float) -> None:
        """A flush is written."""
        self._oldest_ms = 0
        self._records.inc(records)
        self._sizes.observe(records)
        self._seconds.observe(seconds)
        self._last.set_to_current_time()

    def count_store_error(self) -> None:
        """ClickHouse did not take an attempt; another follows."""
        self._errors.inc()

    def _oldest_unflushed_s(self) -> float:
        oldest_ms = self._oldest_ms
        return max(0.0, time.time() - oldest_ms / 1000) if oldest_ms else 0.0
