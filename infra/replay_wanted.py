"""Which conclusions a replay looks at: a range of ledger time, perhaps of one tenant or run."""

from __future__ import annotations

from dataclasses import dataclass

from agentledger.infra.replay_compare import GRACE_US
from agentledger.schemas.codec import Codec
from agentledger.schemas.events import Event
from agentledger.sinks.record_filter import TIME_US_MAX, RecordFilter


@dataclass(frozen=True)
class Wanted:
    """Which conclusions are looked at. Times are ledger time, microseconds: from the first on, before the second."""

    from_us: int = 0
    to_us: int = TIME_US_MAX
    tenant_id: str = ""
    run_id: str = ""

    def has(self, codec: Codec, value: bytes, trigger_us: int) -> bool:
        """True for a conclusion of the range. What was due earlier may follow from a later event: near its ends, and
        where a tenant or a run is asked for, the conclusion itself says."""
        if not (self.tenant_id or self.run_id):
            if self.from_us + GRACE_US <= trigger_us < self.to_us - GRACE_US or (
                self.from_us <= 0 and self.to_us >= TIME_US_MAX
            ):
                return True
            if trigger_us < self.from_us:
                return False
        return self.holds(codec.decode(value))

    def holds(self, event: Event) -> bool:
        """The same for one that is decoded."""
        return (
            self.from_us <= event.occurred_at < self.to_us
            and self.tenant_id in ("", event.tenant_id)
            and self.run_id in ("", event.run_id)
        )

    def rows(self, producer_prefix: str) -> RecordFilter:
        """The same for rows: what producers of this kind concluded in the range."""
        return RecordFilter(
            tenant_id=self.tenant_id,
            run_id=self.run_id,
            producer_prefixes=(producer_prefix,),
            occurred_from_us=self.from_us,
            occurred_before_us=self.to_us,
        )
