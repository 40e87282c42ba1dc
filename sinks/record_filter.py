"""Which records of the ledger are wanted, as a condition in SQL whose values travel beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TIME_US_MAX = 2**62


@dataclass(frozen=True)
class RecordFilter:
    """Which records of the spans are wanted: those for which all of this holds; an empty field asks for nothing.

    With a tenant, records of no tenant, which are ticks, come too where `with_ticks`.
    """

    tenant_id: str = ""
    run_id: str = ""
    event_types: tuple[str, ...] = ()
    producer_prefixes: tuple[str, ...] = ()
    occurred_from_us: int = 0  # by the agent's clock; for what is derived, the ledger time of its cause
    occurred_before_us: int = TIME_US_MAX
    with_ticks: bool = False

    def condition(self) -> tuple[str, dict[str, Any]]:
        """The condition in SQL and its server-side parameters; empty where everything is wanted."""
        parts, parameters = self._own()
        if self.producer_prefixes:
            parts.append("arrayExists(prefix -> startsWith(producer_id, prefix), {f_prefixes:Array(String)})")
            parameters["f_prefixes"] = list(self.producer_prefixes)
        if self.occurred_from_us > 0:
            parts.append("occurred_at >= fromUnixTimestamp64Micro({f_occurred_us:Int64}, 'UTC')")
            parameters["f_occurred_us"] = self.occurred_from_us
        if self.occurred_before_us < TIME_US_MAX:
            parts.append("occurred_at < fromUnixTimestamp64Micro({f_before_us:Int64}, 'UTC')")
            parameters["f_before_us"] = self.occurred_before_us
        if self.event_types:
            parts.append("event_type IN {f_types:Array(String)}")
            parameters["f_types"] = list(self.event_types)
        return " AND ".join(f"({part})" for part in parts), parameters

    def _own(self) -> tuple[list[str], dict[str, Any]]:
        parts: list[str] = []
        if self.tenant_id:
            parts.append("tenant_id = {f_tenant_id:String}" + (" OR tenant_id = ''" if self.with_ticks else ""))
        if self.run_id:
            parts.append("run_id = {f_run_id:String}")
        named = {"f_tenant_id": self.tenant_id, "f_run_id": self.run_id}
        return parts, {name: value for name, value in named.items() if value}


EVERYTHING = RecordFilter()
