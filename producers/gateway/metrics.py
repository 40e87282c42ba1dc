"""What the gateway counts, for Prometheus. No label names a tenant, a key or anything else that a client chooses."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class GatewayMetrics:
    """Counters of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._events = Counter(
            "agentledger_gateway_events", "Events by what became of them.", ["result"], registry=self._registry
        )
        self._spans = Counter(
            "agentledger_gateway_spans", "Spans by what they gave.", ["result"], registry=self._registry
        )
        self._requests = Counter(
            "agentledger_gateway_requests",
            "Requests by route and status.",
            ["route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "agentledger_gateway_request_seconds", "From a request's head to its answer.", ["route"], buckets=SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self.requests_under_way = Gauge(
            "agentledger_gateway_requests_under_way", "Requests that are not answered yet.", registry=self._registry
        )

    def count_events(self, result: str, count: int = 1) -> None:
        """Count events: accepted, duplicate, rejected or unanswered."""
        if count:
            self._events.labels(result).inc(count)

    def count_spans(self, result: str, count: int) -> None:
        """Count spans: told (they gave events), silent (no event stands for them) or refused."""
        if count:
            self._spans.labels(result).inc(count)

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
