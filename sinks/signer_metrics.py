"""What the signer counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class SignerMetrics:
    """Counters of one signer, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._checkpoints = Counter("agentledger_signer_checkpoints", "Checkpoints signed.", registry=self.registry)
        self._errors = Counter(
            "agentledger_signer_errors", "Steps that could not reach something.", registry=self.registry
        )
        self._refusing = Gauge(
            "agentledger_signer_is_refusing", "1 while the ledger isn't what was signed.", registry=self.registry
        )
        self._last = Gauge(
            "agentledger_signer_last_checkpoint_timestamp_seconds", "When the last checkpoint was signed; 0: never.",
            registry=self.registry,
        )  # fmt: skip

    def note_step(self, *, has_signed: bool, signed_us: int) -> None:
        """A step went well; `signed_us` is the time of the last checkpoint, microseconds since 1970."""
        if has_signed:
            self._checkpoints.inc()
        self._refusing.set(0)
        self._last.set(signed_us / 1e6)

    def note_refusal(self) -> None:
        """The ledger isn't what was signed."""
        self._refusing.set(1)

    def count_error(self) -> None:
        """ClickHouse, Kafka or the disk did not answer; the next step tries again."""
        self._errors.inc()
