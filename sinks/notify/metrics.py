"""What notify counts, for Prometheus. Labels name what stands in the notify file, and nothing that a client chooses."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from agentledger.sinks.notify.incidents import Action, Status

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # an HTTP request ends after 10


class NotifyMetrics:
    """Counters of one notify program, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._deliveries = Counter(
            "agentledger_notify_deliveries", "Attempts to tell a channel, by what became of them.",
            ["channel", "action", "status"], registry=self.registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "agentledger_notify_delivery_seconds", "From an attempt's begin to its outcome.", ["channel"],
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self._alerts = Gauge("agentledger_notify_open_alerts", "Alerts that are open.", registry=self.registry)
        self._incidents = Gauge("agentledger_notify_open_incidents", "Incidents that are open.", registry=self.registry)
        self._unsaid = Gauge(
            "agentledger_notify_waiting_events", "Events about deliveries that Kafka doesn't have yet.",
            registry=self.registry,
        )  # fmt: skip
        self._last = Gauge(
            "agentledger_notify_last_look_timestamp_seconds", "When the alerts' topic was last read to what was there.",
            registry=self.registry,
        )  # fmt: skip

    def watch(self, alerts: Callable[[], float], incidents: Callable[[], float]) -> None:
        """Ask these whenever somebody reads the metrics."""
        self._alerts.set_function(alerts)
        self._incidents.set_function(incidents)

    def count_delivery(self, channel: str, action: Action, status: Status) -> None:
        """An attempt has an outcome."""
        self._deliveries.labels(channel, action, status).inc()

    def note_seconds(self, channel: str, seconds: float) -> None:
        """An attempt took so long."""
        self._seconds.labels(channel).observe(seconds)

    def note_look(self) -> None:
        """The topic was read to what was there."""
        self._last.set_to_current_time()

    def note_waiting(self, events: int) -> None:
        """So many events wait for Kafka."""
        self._unsaid.set(events)
