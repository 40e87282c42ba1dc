"""What is kept of one tenant between two seconds of its folded partials, and how that is written to the changelog."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

from agentledger.schemas.errors import CodecError

STATE_VERSION = b"\x02"
_HEAD = struct.Struct(">q")
NEVER = 2**62  # as a second: no deadline
_to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False, sort_keys=True).encode


@dataclass(slots=True)
class Alert:
    """One condition, by its alert id, for as long as it is open and after."""

    rule: str
    severity: str
    scope: str
    scope_value: str
    generation: int = 1  # how often it has been raised
    is_open: bool = True
    count: int = 1  # how often the condition was seen since it was raised
    closed_at: int = 0  # second

    def to_list(self) -> list[Any]:
        """Its fields, for JSON."""
        return [
            self.rule,
            self.severity,
            self.scope,
            self.scope_value,
            self.generation,
            int(self.is_open),
            self.count,
            self.closed_at,
        ]


@dataclass(slots=True)
class Used:
    """What one scope value used of one budget in the window that is open, in the metric's unit."""

    window_start_us: int | None = None
    window_end_us: int | None = None
    used: int = 0
    crossed: list[int] = field(default_factory=list)  # thresholds reported in this window, percent
    exceeded: bool = False
    episode: int = 0  # how often a window without end was exceeded
    slots: dict[int, int] = field(default_factory=dict)  # of a sliding window
    closed: list[int] = field(default_factory=list)  # [start, total] of the last window that closed with usage
    question: str = ""  # the approval id under which a person was asked for more, until that is answered

    def to_list(self) -> list[Any]:
        """Its fields, for JSON."""
        return [
            self.window_start_us,
            self.window_end_us,
            self.used,
            self.crossed,
            int(self.exceeded),
            self.episode,
            self.slots,
            self.closed,
            self.question,
        ]

    @classmethod
    def from_list(cls, items: list[Any]) -> Used:
        """The inverse of `to_list`, after JSON."""
        start, end, used, crossed, exceeded, episode, slots, closed, *question = items
        return cls(
            start, end, used, crossed, bool(exceeded), episode, {int(k): v for k, v in slots.items()}, closed, *question
        )


@dataclass(slots=True)
class Watched:
    """A declared budget, and what each of its scope values has used."""

    declared: dict[str, Any]  # the fields of BudgetDeclared that its arithmetic needs
    values: dict[str, Used] = field(default_factory=dict)


@dataclass(slots=True)
class TenantState:
    """One tenant as folded up to and with the second `folded`. `rules` holds what each rule remembers, as JSON."""

    tenant_id: str
    folded: int = -1
    deadline: int = NEVER  # the next second in which something is due without any event
    derived_seq: int = 0
    budgets: dict[str, Watched] = field(default_factory=dict)
    alerts: dict[str, Alert] = field(default_factory=dict)
    rules: dict[str, dict[str, Any]] = field(default_factory=dict)
    declarations: list[str] = field(default_factory=list)  # ids of the last events that declared budgets
    run_budgets: list[str] = field(default_factory=list)  # keys of the budgets that the runs' partitions were told of


def encode_tenant(state: TenantState) -> bytes:
    """version (1 byte), second folded up to (int64), JSON with sorted keys, deflated: it shrinks to a fifth."""
    body = [
        state.tenant_id,
        state.deadline,
        state.derived_seq,
        {
            key: [watched.declared, {value: used.to_list() for value, used in watched.values.items()}]
            for key, watched in state.budgets.items()
        },
        {alert_id: alert.to_list() for alert_id, alert in state.alerts.items()},
        state.rules,
        state.declarations,
        state.run_budgets,
    ]
    return b"".join((STATE_VERSION, _HEAD.pack(state.folded), zlib.compress(_to_json(body).encode(), 1)))


def decode_tenant(value: bytes) -> TenantState:
    """The inverse of `encode_tenant`. Raises CodecError for any other bytes."""
    if value[:1] != STATE_VERSION:
        raise CodecError(
            f"state version {value[:1].hex() or 'missing'} is unknown",
            where="changelog of scopes",
            next_step="run the release that wrote it, or rebuild the state from the ledger",
        )
    body = json.loads(zlib.decompress(value[1 + _HEAD.size :]))
    tenant_id, deadline, derived_seq, budgets, alerts, rules, declarations, run_budgets = body
    return TenantState(
        tenant_id,
        _HEAD.unpack_from(value, 1)[0],
        deadline,
        derived_seq,
        {
            key: Watched(declared, {name: Used.from_list(items) for name, items in values.items()})
            for key, (declared, values) in budgets.items()
        },
        {
            alert_id: Alert(rule, severity, scope, value, generation, bool(is_open), count, closed_at)
            for alert_id, (rule, severity, scope, value, generation, is_open, count, closed_at) in alerts.items()
        },
        rules,
        declarations,
        run_budgets,
    )
