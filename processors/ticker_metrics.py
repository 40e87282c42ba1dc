"""What the ticker counts, for Prometheus, and how far the stages are behind, which it watches."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class TickerMetrics:
    """Counters of one ticker, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._ticks = Counter("agentledger_ticker_ticks", "Ticks that the broker has.", registry=self.registry)
        self._lost = Counter(
            "agentledger_ticker_lost_ticks", "Ticks that the broker didn't take.", registry=self.registry
        )
        self._last = Gauge(
            "agentledger_ticker_last_tick_timestamp_seconds", "When the broker last took a tick.",
            registry=self.registry,
        )  # fmt: skip
        self._lag = Gauge(
            "agentledger_ticker_stage_lag_seconds", "How long ago was written what a stage hasn't acknowledged.",
            ["stage"], registry=self.registry,
        )  # fmt: skip

    def count_tick(self) -> None:
        """The broker has a tick."""
        self._ticks.inc()
        self._last.set_to_current_time()

    def count_lost(self) -> None:
        """The broker didn't take a tick."""
        self._lost.inc()

    def note_lag(self, stage: str, lag_s: float) -> None:
        """A stage is so far behind."""
        self._lag.labels(stage).set(lag_s)
