"""What reconciliation counts, for Prometheus: once a pass."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge

from agentledger.sinks.reconcile import CheckResult


class ReconcileMetrics:
    """Counters of one program that reconciles, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._passes = Counter(
            "agentledger_reconcile_passes", "Passes that compared everything.", registry=self.registry
        )
        self._failed = Counter(
            "agentledger_reconcile_failed_passes", "Passes that could not be made.", registry=self.registry
        )
        self._drifts = Gauge(
            "agentledger_reconcile_drifts", "What differed in the last pass, all tenants together.", ["check"],
            registry=self.registry,
        )  # fmt: skip
        self._compared = Gauge(
            "agentledger_reconcile_compared", "What was compared in the last pass, all tenants together.", ["check"],
            registry=self.registry,
        )  # fmt: skip
        self._last = Gauge(
            "agentledger_reconcile_last_pass_timestamp_seconds", "When the last pass was done.", registry=self.registry
        )

    def note_pass(self, results: Iterable[CheckResult]) -> None:
        """A pass was made."""
        compared, drifts = Tally[str](), Tally[str]()
        for result in results:
            compared[result.check] += result.compared
            drifts[result.check] += result.drifts
        self._compared.clear()
        self._drifts.clear()
        for check, count in compared.items():
            self._compared.labels(check).set(count)
            self._drifts.labels(check).set(drifts[check])
        self._passes.inc()
        self._last.set_to_current_time()

    def count_failure(self) -> None:
        """A pass could not be made; the next one tries again."""
        self._failed.inc()
