"""The latency sketch: how wrong a quantile can be, and that sketches add up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentledger.processors.sketch import VALUE_MAX, merge, quantile, slot_of, value_of

values = st.integers(0, VALUE_MAX)


def sketch(durations: list[int]) -> dict[int, int]:
    """The sketch of these durations."""
    counts: dict[int, int] = {}
    merge(counts, [(slot_of(duration), 1) for duration in durations])
    return counts


@given(values)
def test_a_slot_is_wrong_by_less_than_1_6_percent(value: int) -> None:
    assert abs(value_of(slot_of(value)) - value) <= value * 0.016


@given(values, values)
def test_slots_are_in_the_order_of_values(one: int, other: int) -> None:
    if one <= other:
        assert slot_of(one) <= slot_of(other)
    assert (one == other) or (slot_of(one) != slot_of(other)) or abs(one - other) <= max(one, other) / 32


@given(st.lists(values, min_size=1), st.integers(1, 100))
def test_a_quantile_is_the_nearest_rank_within_the_bound(durations: list[int], percent: int) -> None:
    exact = sorted(durations)[max(1, -(-len(durations) * percent // 100)) - 1]
    found = quantile(sketch(durations), percent)
    assert found is not None
    assert abs(found - exact) <= exact * 0.016


@given(st.lists(values), st.lists(values))
def test_the_sketch_of_a_union_is_the_sum(some: list[int], more: list[int]) -> None:
    total = sketch(some)
    merge(total, sketch(more))
    assert total == sketch(some + more)


def test_nothing_has_no_quantile() -> None:
    assert quantile({}, 99) is None
