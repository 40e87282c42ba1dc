"""Quantiles of durations in little space: a DDSketch over integers, so that equal input gives equal bytes everywhere.

The mapping is DDSketch's linearly interpolated one: each power of two is cut into 32 equal slots. Values below 64 are
exact; above, a slot is at most 1/32 of its lower end wide, so a quantile given as the middle of its slot is wrong by
less than 1.6 %. Sketches merge by adding counts: the sketch of a union is the sum of the sketches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

SLOT_BITS: Final = 5
_EXACT_BITS: Final = SLOT_BITS + 1
VALUE_MAX: Final = 2**43  # microseconds: 100 days; what took longer counts as that long

Sketch = dict[int, int]  # slot to count


def slot_of(value: int) -> int:
    """The slot that counts this value, 0 to VALUE_MAX."""
    bits = value.bit_length() - _EXACT_BITS
    return value if bits <= 0 else (bits << SLOT_BITS) + (value >> bits)


def value_of(slot: int) -> int:
    """The middle of a slot."""
    if slot < 1 << _EXACT_BITS:
        return slot
    bits = (slot >> SLOT_BITS) - 1
    low = (slot - (bits << SLOT_BITS)) << bits
    return low + (1 << bits) // 2


def merge(into: Sketch, other: Sketch | Iterable[tuple[int, int]]) -> None:
    """Add the counts of another sketch."""
    for slot, count in other.items() if isinstance(other, dict) else other:
        into[slot] = into.get(slot, 0) + count


def quantile(sketch: Mapping[int, int], percent: int) -> int | None:
    """The value that `percent` of the values do not exceed (nearest rank); None of an empty sketch."""
    total = sum(sketch.values())
    if total == 0:
        return None
    rank = max(1, -(-total * percent // 100))
    below = 0
    for slot in sorted(sketch):
        below += sketch[slot]
        if below >= rank:
            return value_of(slot)
    return None
