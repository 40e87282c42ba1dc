"""The hold fold over records: finds each event's tenant, folds it in, and knows which states have changed.

Works on bytes in and bytes out and does no input or output of its own, so the program and the tests run the same code.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from agentledger.processors.hold_cells import (
    TENANT,
    Cells,
    decode_head,
    encode_head,
    newest_cells,
    split_key,
    tenant_prefix,
)
from agentledger.processors.hold_rules import TenantHolds
from agentledger.processors.hold_state import NAME_CHARS_MAX, Head
from agentledger.processors.run_fold import DerivedRecord, StateRecord
from agentledger.schemas.codec import Codec
from agentledger.schemas.control import RUN_HOLDS, UNHELD_ORDERS, control_key, order_key
from agentledger.schemas.errors import CodecError, UnknownSchemaError
from agentledger.schemas.events import ControlIssued, Event, HoldReported, HoldRequested, Ticked
from agentledger.schemas.partitioning import partition_of
from agentledger.schemas.topics import HOLDS, derived_topic_of

SKIPS_LOGGED = 10  # skipped records logged one by one; after that each power of ten
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

Take = Callable[[int, int, int, bytes | None], list[DerivedRecord]]
log = logging.getLogger(__name__)


class HoldFold:
    """Folds the records of the holds topic. `stored` gives all stored cells; `partitions` is the topic's count."""

    def __init__(self, codec: Codec, partitions: int, stored: Callable[[], Iterable[tuple[bytes, bytes]]]) -> None:
        self._codec = codec
        self._partitions = partitions
        self._stored = stored
        self._unhurried = codec.header_of(HoldReported), codec.header_of(Ticked)
        self._tenants: dict[tuple[int, str], TenantHolds] | None = None
        self._touched: dict[tuple[int, str], None] = {}
        self.folded = 0
        self.skipped: Counter[str] = Counter()

    def inputs(self) -> Mapping[str, Take]:
        """The holds topic."""
        return {HOLDS.name: self.take}

    def take(self, partition: int, offset: int, timestamp_ms: int, value: bytes | None) -> list[DerivedRecord]:
        """Fold one record in; what follows from it, encoded, in order. A record that can't be read is skipped."""
        event = self._read(value)
        if isinstance(event, str):
            return self._skip(partition, offset, event)
        self.folded += 1
        if isinstance(event, Ticked):
            return self._take_time(partition, offset, timestamp_ms * 1000)
        tenant = self._tenant(partition, event.tenant_id)
        if offset <= tenant.head.offset:
            return []
        self._touched[partition, event.tenant_id] = None
        if partition_of(event.tenant_id.encode(), self._partitions) == partition:
            return self._encoded(event.tenant_id, tenant.take(event, offset, timestamp_ms * 1000))
        if isinstance(event, HoldRequested):
            return self._encoded(event.tenant_id, tenant.refuse_misplaced(event, offset, timestamp_ms * 1000))
        return self._skip(partition, offset, "misplaced: another partition decides for this tenant")

    def _read(self, value: bytes | None) -> Event | str:
        """The event, or why there is none."""
        try:
            event = self._codec.decode(value)
        except UnknownSchemaError as error:
            return f"unknown schema: {error}"
        except CodecError as error:
            return f"unreadable: {error}"
        if not _UUID.fullmatch(event.event_id) or max(len(event.tenant_id), len(event.run_id)) > NAME_CHARS_MAX:
            return "unusable id"
        return event

    def take_changed(self) -> list[StateRecord]:
        """What has changed since the last call: per tenant its head with copies of its changed cells, then those."""
        records = []
        for partition, tenant_id in self._touched:
            tenant = self._tenant(partition, tenant_id)
            prefix = tenant_prefix(partition, tenant_id)
            cells: Cells = {key: tenant.book.cell(key) for key in sorted(tenant.book.changed)}
            tenant.book.changed.clear()
            records.append(StateRecord(partition, prefix + TENANT, encode_head(tenant.head, cells)))
            records += [StateRecord(partition, prefix + key, value) for key, value in cells.items()]
        self._touched.clear()
        return records

    def can_wait(self, value: bytes | None) -> bool:
        """Whether nobody waits for what follows from this record: a report, or time. Of older schemas, none is."""
        return value is not None and value.startswith(self._unhurried)

    def forget(self) -> None:
        """Drop what is kept decoded: another worker may have gone on with these tenants."""
        self._tenants = None
        self._touched.clear()

    def _take_time(self, partition: int, offset: int, time_us: int) -> list[DerivedRecord]:
        derived: list[DerivedRecord] = []
        for place, tenant in sorted(self._loaded().items()):
            if place[0] == partition and offset > tenant.head.offset and tenant.is_due(time_us):
                self._touched[place] = None
                derived += self._encoded(place[1], tenant.take_time(offset, time_us))
        return derived

    def _tenant(self, partition: int, tenant_id: str) -> TenantHolds:
        tenants = self._loaded()
        tenant = tenants.get((partition, tenant_id))
        if tenant is None:
            tenant = tenants[partition, tenant_id] = self._open(partition, tenant_id, {})
        return tenant

    def _loaded(self) -> dict[tuple[int, str], TenantHolds]:
        if self._tenants is None:
            cells: dict[tuple[int, str], dict[bytes, bytes]] = {}
            for key, value in self._stored():
                partition, tenant_id, rest = split_key(key)
                cells.setdefault((partition, tenant_id), {})[rest] = value
            self._tenants = {place: self._open(*place, found) for place, found in cells.items()}
        return self._tenants

    def _open(self, partition: int, tenant_id: str, stored: dict[bytes, bytes]) -> TenantHolds:
        head_value = stored.pop(TENANT, None)
        head, copies = decode_head(head_value) if head_value else (Head(), {})
        cells, missing = newest_cells(stored.items(), head.offset, copies)
        is_home = partition_of(tenant_id.encode(), self._partitions) == partition
        producer_id = f"holds:{tenant_id}" if is_home else f"holds:{tenant_id}:{partition}"
        tenant = TenantHolds(tenant_id, producer_id, head, cells)
        tenant.book.changed |= missing
        return tenant

    def _encoded(self, tenant_id: str, derived: list[Event]) -> list[DerivedRecord]:
        return [
            DerivedRecord(
                derived_topic_of(type(item).__name__).name, _key_of(item, tenant_id), self._codec.encode(item)
            )
            for item in derived
        ]

    def _skip(self, partition: int, offset: int, reason: str) -> list[DerivedRecord]:
        self.skipped[reason.partition(":")[0]] += 1
        count = self.skipped.total()
        if count <= SKIPS_LOGGED or str(count).strip("0") == "1":
            log.warning("skipped partition %d offset %d (%d so far): %s", partition, offset, count, reason[:200])
        return []


def _key_of(event: Event, tenant_id: str) -> bytes:
    if isinstance(event, ControlIssued):
        if event.command in UNHELD_ORDERS:
            return order_key(tenant_id, event.scope, event.scope_value)
        owner = RUN_HOLDS if event.scope == "run" else event.issued_by
        return control_key(tenant_id, event.scope, event.scope_value, owner)
    return tenant_id.encode()
