"""Confidence intervals against published examples, against each other, and against simulated attempts."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentledger.sinks.intervals import (
    Interval,
    PairSums,
    difference_interval,
    is_more_than_noise,
    mean_interval,
    median_interval,
    rate_interval,
    ratio_interval,
)


def sums(costs: list[int], successes: list[int]) -> PairSums:
    pairs = list(zip(costs, successes, strict=True))
    return PairSums(
        len(pairs), sum(costs), sum(successes), sum(x * x for x in costs), sum(x * y for x, y in pairs),
        sum(y * y for y in successes),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    # Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_published(hits: int, trials: int, low: float, high: float) -> None:
    found = rate_interval(hits, trials)
    assert found is not None
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    # Newcombe (1998), Statistics in Medicine 17, 873-890, table II, method 10.
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 20), 0.6791, 1.0),
        ((5, 56), (0, 29), -0.0381, 0.1926),
    ],
)
def test_differences_of_rates_as_published(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    one, other = rate_interval(*first), rate_interval(*second)
    assert one is not None
    assert other is not None
    found = difference_interval(other, one)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)
    assert is_more_than_noise(found) == (low > 0)


def test_a_mean_is_students() -> None:
    """Ten numbers 1 to 10: mean 5.5, standard deviation 3.02765, t(9) = 2.262157: 5.5 ± 2.16585."""
    found = mean_interval(10, 55, 385)
    assert found is not None
    assert found.value == 5.5
    assert math.isclose(found.low, 5.5 - 2.16585, abs_tol=0.002)
    assert math.isclose(found.high, 5.5 + 2.16585, abs_tol=0.002)


@pytest.mark.parametrize(("freedom", "expected"), [(4, 2.7764), (5, 2.5706), (10, 2.2281), (30, 2.0423), (120, 1.9799)])
def test_t_as_in_tables(freedom: int, expected: float) -> None:
    """Half the interval of the mean of n numbers with variance n is t."""
    n = freedom + 1
    # n numbers of mean 10^6 whose squared deviations sum to (n - 1) n, so the variance of the mean is 1.
    found = mean_interval(n, n * 10**6, n * 10**12 + (n - 1) * n)
    assert found is not None
    assert math.isclose(found.high - found.value, expected, abs_tol=0.003)


def test_equal_costs_turn_the_interval_of_the_rate_over() -> None:
    """Every attempt costs 100, 60 of 100 succeed: 100 / (0.6 ± t(99) sqrt(0.6 * 0.4 / 99)), t(99) = 1.98422."""
    found = ratio_interval(sums([100] * 100, [1] * 60 + [0] * 40))
    assert found is not None
    half = 1.98422 * math.sqrt(0.24 / 99)
    assert math.isclose(found.value, 100 / 0.6)
    assert math.isclose(found.low, 100 / (0.6 + half), rel_tol=1e-4)
    assert math.isclose(found.high, 100 / (0.6 - half), rel_tol=1e-4)


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 1)), min_size=2, max_size=60))
def test_the_ends_are_where_fieller_puts_them(pairs: list[tuple[int, int]]) -> None:
    """At an end r, the sum of cost - r * success is as many standard errors away from 0 as at the other end."""
    given_sums = sums([x for x, _ in pairs], [y for _, y in pairs])
    found = ratio_interval(given_sums)
    if given_sums.y == 0:
        assert found is None
        return
    assert found is not None
    assert found.low <= found.value * (1 + 1e-9) + 1e-6
    assert found.high >= found.value * (1 - 1e-9) - 1e-6
    ends = [end for end in (found.low, found.high) if 0 < end < math.inf]
    n, distances = len(pairs), []
    for end in ends:
        rest = [x - end * y for x, y in pairs]
        mean = sum(rest) / n
        error = math.sqrt(sum((value - mean) ** 2 for value in rest) / (n - 1) / n)
        if error > abs(mean) * 1e-6:
            distances.append(abs(mean) / error)
    if len(distances) == 2:
        assert math.isclose(*distances, rel_tol=1e-3)


def test_few_successes_leave_the_cost_of_one_open() -> None:
    rare = ratio_interval(sums([100] * 50, [1] + [0] * 49))
    assert rare is not None
    assert rare.high == math.inf
    assert 0 < rare.low < rare.value == 5000
    assert ratio_interval(sums([5], [1])) == Interval(5.0, 0.0, math.inf)
    assert ratio_interval(sums([5, 6], [0, 0])) is None
    never = difference_interval(rare, Interval(4900.0, 4890.0, 4910.0))
    assert not is_more_than_noise(never)


@pytest.mark.parametrize(
    ("count", "ranks"), [(6, (1, 6)), (10, (2, 9)), (20, (6, 15)), (25, (8, 18)), (50, (18, 33)), (100, (40, 61))]
)
def test_medians_lie_between_the_ranks_of_the_tables(count: int, ranks: tuple[int, int]) -> None:
    found = median_interval(range(1, count + 1))
    assert found is not None
    assert (found.low, found.high) == ranks


def test_medians_of_few_and_of_many() -> None:
    assert median_interval([]) is None
    assert median_interval([7, 8, 9]) == Interval(8, 0.0, math.inf)
    many = median_interval(range(1, 10_001))
    assert many is not None
    assert (many.low, many.high) == (4902, 5099)


def test_ninety_five_of_a_hundred_hold_the_truth() -> None:
    """40 attempts of lognormal cost that succeed with 0.6, failures dearer: 2,000 times, with a fixed seed."""
    draw = random.Random(20260101)
    truth = (0.6 * math.exp(0.5) + 0.4 * 2 * math.exp(0.5)) / 0.6
    held = 0
    for _ in range(2000):
        wins = [int(draw.random() < 0.6) for _ in range(40)]
        costs = [int(10**6 * draw.lognormvariate(0, 1) * (2 - win)) for win in wins]
        found = ratio_interval(sums(costs, wins))
        assert found is not None
        held += found.low <= truth * 10**6 <= found.high
    assert 0.90 <= held / 2000 <= 0.97  # skewed costs cost some coverage


def test_noise_is_called_a_difference_once_in_twenty_times() -> None:
    draw = random.Random(7)
    called = 0
    for _ in range(2000):
        sides = []
        for _ in range(2):
            wins = [int(draw.random() < 0.7) for _ in range(60)]
            costs = [int(1000 * draw.gammavariate(4, 1)) for _ in wins]
            found = ratio_interval(sums(costs, wins))
            assert found is not None
            sides.append(found)
        called += is_more_than_noise(difference_interval(*sides))
    assert called / 2000 <= 0.06
