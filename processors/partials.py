"""What stage 1 sums up for stage 2: per source partition and tenant, in buckets of one second of ledger time.

The sums are a function of the partition's log alone, however its records are batched and wherever folding starts again:

- a record belongs to the bucket that is open when it comes; the first record with a later time closes that bucket;
- the open bucket is part of the state (`dump`), which must be written before the states of the runs: where the process
  dies in between, records at or before the dumped offset are folded into their runs once more, and not counted again;
- a bucket that grows too large for a message is sent in parts as soon as it does: nothing is ever left out.

A closed bucket is followed by a watermark to every partition of the partials topic, so one per second and source at
most: a tenant's reader has to know how far every source is, also those where its tenant did nothing.
"""

from __future__ import annotations

import json
import struct
from typing import Final

from agentledger.processors.conclusions import DerivedRecord
from agentledger.processors.partial_records import (
    BUCKET_US,
    Partial,
    encode_partial,
    encode_watermark,
    json_of,
    pair,
    partial_from_list,
)
from agentledger.processors.partial_sums import CallsSum, SeqSum, TenantSums, UsageSum
from agentledger.schemas.errors import CodecError
from agentledger.schemas.events import Event, ModelCallCompleted, PolicyDecided, RunStarted, ToolCallCompleted
from agentledger.schemas.identity import UNCOUNTED
from agentledger.schemas.partitioning import partition_of
from agentledger.schemas.topics import PARTIALS

STATE_VERSION = b"\x01"
NAME_CHARS_MAX: Final = 200  # of a model, tool, version or producer; longer names are cut
# Bytes that an open bucket may take before it is sent as a part: state and message must fit a record of 1 MB, and a
# character takes 4 bytes at most.
OPEN_BYTES_MAX: Final = 500_000
# Bytes of an entry beside its names; sketches vary most.
_GROUP_BYTES: Final = 110
_CALLS_BYTES: Final = 1500
_SMALL_BYTES: Final = 100
# Bounds the sketches, and what a state costs to write, where many events carry one time.
EVENTS_PER_PART_MAX: Final = 8192
_STATE_HEAD = struct.Struct(">qqqI")
_ERRORS: Final = frozenset({"error", "timeout", "denied", "rejected"})
NO_BUCKET = -1


class _Open:
    """The open bucket of one source partition."""

    __slots__ = ("bucket", "folded_up_to", "parts", "size", "tenants", "until")

    def __init__(self) -> None:
        self.folded_up_to = -1  # the offset up to which a loaded state has counted
        self.bucket = NO_BUCKET
        self.parts = 0  # of this bucket, sent already
        self.size = 0
        self.tenants: dict[str, TenantSums] = {}
        self.until = EVENTS_PER_PART_MAX


class Partials:
    """Counts what happens in each source partition; `take_closed` gives the records for the partials topic."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._open: dict[int, _Open] = {}
        self.closes_at_us: dict[int, int] = {}  # a record at this time or later closes the open bucket: see `pass_time`
        self._closed: list[DerivedRecord] = []

    def pass_time(self, partition: int, ledger_time_us: int) -> None:
        """Tell the time of every record, readable or not, before it is counted."""
        if ledger_time_us >= self.closes_at_us.get(partition, 0):
            self._close(partition, ledger_time_us // BUCKET_US)

    def count(
        self,
        partition: int,
        offset: int,
        event: Event,
        group: str,
        *,
        cost_nanousd: int = 0,
        tokens: int = 0,
        wall_clock_ms: int = 0,
        unpriced_model: str = "",
    ) -> None:
        """Count an event that its run counted, after `pass_time`. `group` is that of its run (`group_of`).

        Cost and tokens are those that the run's own budget would count, `wall_clock_ms` by how much the run's clock
        went on, `unpriced_model` the model where a price is missing.
        """
        place = self._open[partition]
        if offset <= place.folded_up_to:
            return
        tenant = place.tenants.get(event.tenant_id)
        if tenant is None:
            tenant = self._new_tenant(place, event.tenant_id)
        tenant.events += 1
        seq = event.producer_seq
        if seq != UNCOUNTED:
            seqs = tenant.seqs.get(event.producer_id)
            if seqs is None:
                producer_id = event.producer_id[:NAME_CHARS_MAX]
                seqs = tenant.seqs.setdefault(producer_id, SeqSum({}))
                place.size += 4 * len(producer_id) + _SMALL_BYTES
            if seqs.count(seq):
                place.size += _SMALL_BYTES
        kind = type(event)
        model_calls = tool_calls = 0
        if kind is ToolCallCompleted:
            tool_calls = self._count_tool(place, tenant, event)  # type: ignore[arg-type]
        elif kind is ModelCallCompleted:
            model_calls = self._count_model(place, tenant, event, unpriced_model)  # type: ignore[arg-type]
        elif kind is RunStarted or kind is PolicyDecided:
            self._count_versions(place, tenant, event)  # type: ignore[arg-type]
        if cost_nanousd or tokens or model_calls or tool_calls or wall_clock_ms:
            usage = tenant.usage.get(group)
            if usage is None:
                usage = tenant.usage[group] = UsageSum([0, 0, 0, 0, 0])
                place.size += 4 * len(group) + _GROUP_BYTES
            usage.cost_nanousd += cost_nanousd
            usage.tokens += tokens
            usage.model_calls += model_calls
            usage.tool_calls += tool_calls
            usage.wall_clock_ms += wall_clock_ms
        place.until -= 1
        if place.size > OPEN_BYTES_MAX or not place.until:
            self._send(partition, place)

    def take_closed(self) -> list[DerivedRecord]:
        """The records that have become ready since the last call, in order. To be acknowledged before the state."""
        closed, self._closed = self._closed, []
        return closed

    def dump(self, partition: int, folded_up_to: int) -> bytes:
        """The partition's state after its record at this offset: for the changelog, before the runs' states."""
        place = self._open[partition]
        tenants = [tenant.listed() for tenant in place.tenants.values()]
        body = json_of([place.size, place.until, tenants])
        head = _STATE_HEAD.pack(max(folded_up_to, place.folded_up_to), place.bucket, place.parts, len(body))
        return STATE_VERSION + head + body

    def load(self, partition: int, state: bytes | None) -> None:
        """Go on from a dumped state; None where there is none. Raises CodecError for other bytes."""
        place = self._open[partition] = _Open()
        self.closes_at_us[partition] = 0
        if state is None:
            return
        if state[:1] != STATE_VERSION:
            raise CodecError(
                f"state version {state[:1].hex() or 'missing'} is unknown",
                where="changelog, open bucket",
                next_step="run the release that wrote it, or rebuild the state from the ledger",
            )
        place.folded_up_to, place.bucket, place.parts, _ = _STATE_HEAD.unpack_from(state, 1)
        text = state[1 + _STATE_HEAD.size :].decode("utf-8", "surrogatepass")
        place.size, place.until, tenants = json.loads(text)
        place.tenants = {items[0]: TenantSums(partial_from_list(items)) for items in tenants}
        if place.bucket != NO_BUCKET:
            self.closes_at_us[partition] = (place.bucket + 1) * BUCKET_US

    def has(self, partition: int) -> bool:
        """True where the partition's state is at hand (`load` has been called since `forget`)."""
        return partition in self._open

    def forget(self) -> None:
        """Drop everything: another worker may have gone on."""
        self._open.clear()
        self.closes_at_us.clear()
        self._closed.clear()

    def _close(self, partition: int, bucket: int) -> None:
        place = self._open[partition]
        self._send(partition, place)
        place.bucket, place.parts = bucket, 0
        self.closes_at_us[partition] = (bucket + 1) * BUCKET_US
        key, value = f"w:{partition}".encode(), encode_watermark(partition, bucket)
        for number in range(self._partitions):
            self._closed.append(DerivedRecord(PARTIALS.name, key, value, number))

    def _send(self, partition: int, place: _Open) -> None:
        for tenant_id, tenant in place.tenants.items():
            key = tenant_id.encode("utf-8", "surrogatepass")
            value = encode_partial(partition, place.bucket, place.parts, tenant.listed())
            self._closed.append(DerivedRecord(PARTIALS.name, key, value, partition_of(key, self._partitions)))
        place.parts += 1
        place.size, place.until, place.tenants = 0, EVENTS_PER_PART_MAX, {}

    def _new_tenant(self, place: _Open, tenant_id: str) -> TenantSums:
        tenant = place.tenants[tenant_id] = TenantSums(Partial(tenant_id))
        place.size += 4 * len(tenant_id) + _SMALL_BYTES
        return tenant

    def _count_model(self, place: _Open, tenant: TenantSums, event: ModelCallCompleted, unpriced_model: str) -> int:
        name = event.answered_model or event.requested_model
        calls = tenant.models.get(name)
        if calls is None:
            calls = _new_calls(place, tenant.models, name)
        calls.count(event.latency_ms, failed=event.status != "ok" and event.status in _ERRORS)
        if unpriced_model:
            place.size += 4 * len(unpriced_model) + _SMALL_BYTES
            tenant.unpriced[unpriced_model] = tenant.unpriced.get(unpriced_model, 0) + 1
        return int(event.requestor != "user")

    def _count_tool(self, place: _Open, tenant: TenantSums, event: ToolCallCompleted) -> int:
        calls = tenant.tools.get(event.tool)
        if calls is None:
            calls = _new_calls(place, tenant.tools, event.tool)
        calls.count(event.latency_ms, failed=event.status != "ok" and event.status in _ERRORS)
        if event.status == "denied" and event.policy_decision_id is None:  # else the decision counts
            _count_denial(place, tenant, event.agent_id, event.tool)
        return int(event.requestor != "user")

    def _count_versions(self, place: _Open, tenant: TenantSums, event: RunStarted | PolicyDecided) -> None:
        found = [("policy", event.policy_version)]
        if isinstance(event, RunStarted):
            found.append(("prompt", event.prompt_version))
        elif event.verdict == "deny":
            _count_denial(place, tenant, event.agent_id, event.action)
        for kind, version in found:
            if version:
                entry = pair(kind, event.workflow[:NAME_CHARS_MAX], version[:NAME_CHARS_MAX])
                place.size += 4 * len(entry) + _SMALL_BYTES
                tenant.versions[entry] = tenant.versions.get(entry, 0) + 1


def _new_calls(place: _Open, calls: dict[str, CallsSum], name: str) -> CallsSum:
    cut = name[:NAME_CHARS_MAX]
    place.size += 4 * len(cut) + _CALLS_BYTES
    return calls.setdefault(cut, CallsSum(0, 0, {}))


def _count_denial(place: _Open, tenant: TenantSums, agent_id: str, target: str) -> None:
    entry = pair(agent_id[:NAME_CHARS_MAX], target[:NAME_CHARS_MAX])
    place.size += 4 * len(entry) + _SMALL_BYTES
    tenant.denials[entry] = tenant.denials.get(entry, 0) + 1
