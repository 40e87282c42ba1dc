"""What the payload writer counts, for Prometheus: once a batch, never once a chunk."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class PayloadMetrics:
    """Counters of one payload writer, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._chunks = Counter("agentledger_payloads_chunks", "Chunks written.", registry=self.registry)
        self._left_out = Counter(
            "agentledger_payloads_left_out_records", "Records that are no chunk of a payload.", registry=self.registry
        )
        self._errors = Counter(
            "agentledger_payloads_store_errors", "Attempts that ClickHouse did not take.", registry=self.registry
        )
        self._expired = Gauge(
            "agentledger_payloads_last_expiry_timestamp_seconds", "When old payloads were last deleted.",
            registry=self.registry,
        )  # fmt: skip
        self._last = Gauge(
            "agentledger_payloads_last_input_timestamp_seconds", "When the newest chunk that is written was appended.",
            registry=self.registry,
        )  # fmt: skip

    def note_batch(self, chunks: int, left_out: int, newest_s: float) -> None:
        """A batch is written; its newest record was appended then, seconds since 1970."""
        self._chunks.inc(chunks)
        self._left_out.inc(left_out)
        self._last.set(newest_s)

    def count_store_error(self) -> None:
        """ClickHouse did not take an attempt."""
        self._errors.inc()

    def note_expiry(self) -> None:
        """What was too old is deleted."""
        self._expired.set_to_current_time()
