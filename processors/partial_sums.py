"""What the open bucket counts of a tenant until it is told: a `Partial`, in a form that is quickly added to."""

from __future__ import annotations

from typing import Any, Final

from agentledger.processors.partial_records import SEQ_BLOCK_BITS, Calls, Partial
from agentledger.processors.sketch import SLOT_BITS, VALUE_MAX, Sketch

_BLOCK_MASK: Final = (1 << SEQ_BLOCK_BITS) - 1
_BIT: Final = [1 << place for place in range(1 << SEQ_BLOCK_BITS)]
_EXACT_BITS: Final = SLOT_BITS + 1
_LATENCY_MS_MAX: Final = VALUE_MAX / 1000


class UsageSum:
    """What the runs of one group used, in the order of `budgets.SUMMED`."""

    __slots__ = ("cost_nanousd", "model_calls", "tokens", "tool_calls", "wall_clock_ms")

    def __init__(self, amounts: list[int]) -> None:
        self.cost_nanousd, self.tokens, self.model_calls, self.tool_calls, self.wall_clock_ms = amounts

    def listed(self) -> list[int]:
        """As in a Partial."""
        return [self.cost_nanousd, self.tokens, self.model_calls, self.tool_calls, self.wall_clock_ms]


class CallsSum:
    """Calls of one model or tool: how many, how many failed, and how long they took."""

    __slots__ = ("_calls", "_errors", "_latency")

    def __init__(self, calls: int, errors: int, latency: Sketch) -> None:
        self._calls = calls
        self._errors = errors
        self._latency = latency

    def count(self, latency_ms: float | None, *, failed: bool) -> None:
        """Count a call. A latency that is below 0 or not a number is no duration."""
        self._calls += 1
        if failed:
            self._errors += 1
        if latency_ms is None:
            return
        if not 0 <= latency_ms < _LATENCY_MS_MAX:
            if not latency_ms > 0:
                return
            latency_ms = _LATENCY_MS_MAX
        value = int(latency_ms * 1000)  # `sketch.slot_of`, written out: it runs once per call
        bits = value.bit_length() - _EXACT_BITS
        slot = value if bits <= 0 else (bits << SLOT_BITS) + (value >> bits)
        self._latency[slot] = self._latency.get(slot, 0) + 1

    def listed(self) -> Calls:
        """As in a Partial."""
        return [self._calls, self._errors, self._latency]


class SeqSum:
    """Which numbers of one producer were seen: a bit for each, in blocks. The block at hand isn't among the others."""

    __slots__ = ("_bits", "_block", "_blocks")

    def __init__(self, blocks: dict[int, int]) -> None:
        self._blocks = blocks  # in the order in which they came
        self._block = 0
        self._bits = 0

    def count(self, seq: int) -> bool:
        """Note a number; True where its block is new."""
        block = seq >> SEQ_BLOCK_BITS
        if block == self._block and self._bits:
            self._bits |= _BIT[seq & _BLOCK_MASK]
            return False
        self.listed()
        known = self._blocks.get(block)
        self._block, self._bits = block, (known or 0) | _BIT[seq & _BLOCK_MASK]
        return known is None

    def listed(self) -> dict[int, int]:
        """As in a Partial."""
        if self._bits:
            self._blocks[self._block] = self._bits
        return self._blocks


class TenantSums:
    """The sums of one tenant: as those of a Partial, under the same names."""

    __slots__ = ("denials", "events", "models", "seqs", "tenant_id", "tools", "unpriced", "usage", "versions")

    def __init__(self, partial: Partial) -> None:
        self.tenant_id = partial.tenant_id
        self.events = partial.events
        self.usage = {group: UsageSum(amounts) for group, amounts in partial.usage.items()}
        self.models = {name: CallsSum(*calls) for name, calls in partial.models.items()}
        self.tools = {name: CallsSum(*calls) for name, calls in partial.tools.items()}
        self.denials = partial.denials
        self.unpriced = partial.unpriced
        self.versions = partial.versions
        self.seqs = {producer: SeqSum(blocks) for producer, blocks in partial.seqs.items()}

    def listed(self) -> list[Any]:
        """The fields of a Partial in their order."""
        return [
            self.tenant_id,
            self.events,
            {group: usage.listed() for group, usage in self.usage.items()},
            {name: calls.listed() for name, calls in self.models.items()},
            {name: calls.listed() for name, calls in self.tools.items()},
            self.denials,
            self.unpriced,
            self.versions,
            {producer: seqs.listed() for producer, seqs in self.seqs.items()},
        ]
