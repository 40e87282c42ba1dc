"""What was declared for each run, as one source partition knows it: which limits hold at which place of its log. Pure.

Declarations stand in the partition's own log (RunBudgetDeclared), so it doesn't matter when anybody reads them: a limit
counts for what comes after it in the log, and a replay finds the same.

A batch may be folded again after it was stored. So what a dump holds reaches back: every declaration since the dump
before it, and of each limit the last one before those.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from agentledger.processors.budgets import METRICS, declared_thresholds
from agentledger.processors.charges import cut
from agentledger.processors.run_state import NOTHING_DECLARED, RunState, id_tail
from agentledger.schemas.errors import CodecError
from agentledger.schemas.events import RunBudgetDeclared

STATE_VERSION = b"\x01"
DECLARATIONS_KEPT = 256  # ids of a tenant's declarations whose repetition is known: twice what may hold at a time
_HEAD = struct.Struct(">q")
_FIELDS = {"agent": "agent_id", "workflow": "workflow", "user": "actor", "run": "run_id", "tenant": "tenant_id"}
_to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class RunLimit(NamedTuple):
    """One limit on one metric (a place in METRICS) for each run of a scope; an empty scope value: of every value."""

    budget_id: str
    metric: int
    declaration: str  # the `id_tail` of the event that declared it
    scope: str
    scope_value: str
    limit: int
    thresholds: list[int]
    on_exceeded: str
    declared_by: str = ""
    reason: str = ""

    def holds(self, run: RunState) -> bool:
        """True where the run belongs to the scope."""
        if self.scope == "team" or self.scope.startswith("label:"):
            value = run.labels.get(self.scope.removeprefix("label:"), "")
        else:
            value = getattr(run, _FIELDS[self.scope])
        return bool(value) and self.scope_value in ("", value)


class _Declared(NamedTuple):
    offset: int
    limit: RunLimit
    retired: bool


class _Tenant:
    """The declarations of one tenant, in the order of the log."""

    def __init__(self) -> None:
        self.declared: list[_Declared] = []
        self.ids: list[str] = []
        self.dropped_at = NOTHING_DECLARED  # the last declaration that is kept no more

    def last_at(self) -> int:
        return self.declared[-1].offset if self.declared else self.dropped_at


class RunBudgetBook:
    """Declared limits by tenant. `load` gives a tenant's stored state, or None."""

    def __init__(self, load: Callable[[str], bytes | None]) -> None:
        self._load = load
        self._tenants: dict[str, _Tenant] = {}
        self._touched: set[str] = set()
        self.changed: dict[str, int] = {}  # tenants for which anything is declared, to the last offset where it was

    def know(self, tenant_id: str) -> None:
        """Have the tenant's declarations at hand: `changed` says nothing of it before."""
        if tenant_id not in self._tenants:
            stored = self._load(tenant_id)
            tenant = self._tenants[tenant_id] = _Tenant() if stored is None else _decode(stored)
            if tenant.last_at() != NOTHING_DECLARED:
                self.changed[tenant_id] = tenant.last_at()

    def declare(self, offset: int, event: RunBudgetDeclared) -> None:
        """Take a declaration in. A repetition changes nothing, nor does one of a metric or scope that nobody knows."""
        self.know(event.tenant_id)
        tenant = self._tenants[event.tenant_id]
        tail = id_tail(event.event_id)
        is_known = event.metric in METRICS and (event.scope in {*_FIELDS, "team"} or event.scope.startswith("label:"))
        if tail in tenant.ids or not is_known:
            return
        tenant.ids = [*tenant.ids, tail][-DECLARATIONS_KEPT:]
        limit = RunLimit(
            event.budget_id,
            METRICS.index(event.metric),
            tail,
            event.scope,
            event.scope_value,
            max(0, event.limit_amount),
            declared_thresholds(event.thresholds_percent),
            event.on_exceeded,
            cut(event.declared_by),
            cut(event.reason),
        )
        tenant.declared.append(_Declared(offset, limit, event.retired))
        self.changed[event.tenant_id] = offset
        self._touched.add(event.tenant_id)

    def before(self, offset: int, tenant_id: str) -> tuple[int, list[RunLimit]]:
        """The limits that hold at this place of the log, and the offset of the last declaration before it."""
        tenant = self._tenants[tenant_id]
        at, found = tenant.dropped_at, dict[tuple[str, int], RunLimit]()
        for declared in tenant.declared:
            if declared.offset >= offset:
                break
            at, key = declared.offset, declared.limit[:2]
            found.pop(key, None)
            if not declared.retired:
                found[key] = declared.limit
        return at, [limit for _, limit in sorted(found.items())]

    def take_changed(self) -> Iterator[tuple[str, bytes]]:
        """Each tenant with new declarations, with its state for the changelog."""
        for tenant_id in sorted(self._touched):
            tenant = self._tenants[tenant_id]
            yield tenant_id, _encode(tenant)
            _drop_replaced(tenant)
        self._touched.clear()


def _drop_replaced(tenant: _Tenant) -> None:
    """Keep of each limit the last declaration, and only that: what was stored isn't asked about any more."""
    last = {declared.limit[:2]: declared for declared in tenant.declared}
    tenant.dropped_at = tenant.last_at()
    tenant.declared = [one for one in tenant.declared if last[one.limit[:2]] is one and not one.retired]


def _encode(tenant: _Tenant) -> bytes:
    """version (1 byte), offset of the last declaration (int64), JSON."""
    text = _to_json([tenant.dropped_at, tenant.ids, tenant.declared])
    return STATE_VERSION + _HEAD.pack(tenant.last_at()) + text.encode()


def _decode(value: bytes) -> _Tenant:
    if value[:1] != STATE_VERSION:
        raise CodecError(
            f"state version {value[:1].hex() or 'missing'} is unknown",
            where="changelog, budgets of each run",
            next_step="run the release that wrote it, or rebuild the state from the ledger",
        )
    tenant = _Tenant()
    declared: list[Any]
    tenant.dropped_at, tenant.ids, declared = json.loads(value[1 + _HEAD.size :])
    tenant.declared = [_Declared(offset, RunLimit(*limit), bool(retired)) for offset, limit, retired in declared]
    return tenant
