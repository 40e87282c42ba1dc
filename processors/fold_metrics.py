"""What worker, scopes and holds count, for Prometheus: once a batch, never once a record."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

BATCH_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
BATCH_MESSAGES = (1, 2, 5, 10, 25, 50, 100, 250, 500)  # a batch takes what waits, 256 and one at most


class FoldMetrics:
    """Counters of one program (worker, scopes, holds), in a registry of their own."""

    def __init__(self, program: str) -> None:
        self.registry = CollectorRegistry()
        prefix = f"agentledger_{program}"
        self._messages = Counter(f"{prefix}_messages", "Messages acknowledged.", registry=self.registry)
        self._states = Counter(f"{prefix}_states_written", "States written.", registry=self.registry)
        self._sizes = Histogram(
            f"{prefix}_batch_messages", "Messages of a batch.", buckets=BATCH_MESSAGES, registry=self.registry
        )
        self._seconds = Histogram(
            f"{prefix}_batch_seconds", "From a batch's first message folded to all acknowledged.",
            buckets=BATCH_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._waiting = Gauge(
            f"{prefix}_waiting_messages", "Taken from Kafka and not yet folded.", registry=self.registry
        )
        self._kept = Gauge(f"{prefix}_states", "States kept in memory.", registry=self.registry)
        self._last = Gauge(
            f"{prefix}_last_input_timestamp_seconds", "When the newest message that is acknowledged was appended.",
            registry=self.registry,
        )  # fmt: skip

    def watch(self, waiting: Callable[[], float], kept: Callable[[], float]) -> None:
        """Ask these whenever somebody reads the metrics: messages that wait, states in memory."""
        self._waiting.set_function(waiting)
        self._kept.set_function(kept)

    def note_settled(self, messages: int, states: int, newest_s: float) -> None:
        """Messages are acknowledged; the newest was appended then, seconds since 1970."""
        self._messages.inc(messages)
        self._states.inc(states)
        self._last.set(newest_s)

    def note_batch(self, messages: int, seconds: float) -> None:
        """A batch is folded and settled."""
        self._sizes.observe(messages)
        self._seconds.observe(seconds)
