"""Confidence intervals for what runs achieve and cost. Pure and without chance: the same counts, the same interval.

- A rate (successes of attempts): Wilson's score interval.
- A ratio of two sums over the same attempts (cost per attempt, cost per success): Fieller's interval. It has no upper
  end while it can't be told from the attempts that the lower sum, the successes, isn't zero.
- A median: between two order statistics, by the binomial distribution.
- A difference of two of these, from independent attempts: MOVER (Zou and Donner 2008), which for two Wilson intervals
  is Newcombe's (1998, method 10).

All take attempts for independent of each other: repeated attempts at the same task make them narrower than they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

CONFIDENCE = 0.95
EXACT_RANKS_MAX = 1000  # from here on the binomial distribution is normal enough to count ranks by


class Interval(NamedTuple):
    """An estimate with the ends of its confidence interval; an end that nothing bounds is infinite."""

    value: float
    low: float
    high: float


class PairSums(NamedTuple):
    """Sums over attempts of two numbers each, such as cost (x) and success (y, 0 or 1), their squares and products."""

    attempts: int
    x: int
    y: int
    xx: int
    xy: int
    yy: int


def rate_interval(hits: int, trials: int, confidence: float = CONFIDENCE) -> Interval | None:
    """The share of hits among trials by Wilson's score; None without trials."""
    if trials == 0:
        return None
    z = _normal_quantile(confidence)
    share, square = hits / trials, z * z
    middle = (share + square / (2 * trials)) / (1 + square / trials)
    half = z * math.sqrt(share * (1 - share) / trials + square / (4 * trials * trials)) / (1 + square / trials)
    return Interval(share, 0.0 if hits == 0 else middle - half, 1.0 if hits == trials else middle + half)


def ratio_interval(sums: PairSums, confidence: float = CONFIDENCE) -> Interval | None:
    """The sum of x over the sum of y by Fieller's theorem, x and y not negative; None where the sum of y is 0."""
    attempts, x, y = sums.attempts, sums.x, sums.y
    if y == 0:
        return None
    value = x / y
    if attempts < 2:  # one attempt says nothing of how attempts differ
        return Interval(value, 0.0, math.inf)
    square = _t_quantile(confidence, attempts - 1) ** 2
    # Variances of sums, exact until the last division: attempts / (attempts - 1) * (sum of squares - sum² / attempts).
    var_x, cov, var_y = (
        (attempts * products - left * right) / (attempts - 1)
        for products, left, right in ((sums.xx, x, x), (sums.xy, x, y), (sums.yy, y, y))
    )
    # Where (x - r y)² = t² * variance of (x - r y): a r² - 2 b r + c = 0.
    a, b, c = y * y - square * var_y, x * y - square * cov, x * x - square * var_x
    if a <= 0:  # the successes can't be told from none
        return Interval(value, _only_low_end(a, b, c), math.inf)
    root = math.sqrt(max(0.0, b * b - a * c))
    return Interval(value, max(0.0, (b - root) / a), (b + root) / a)


def _only_low_end(a: float, b: float, c: float) -> float:
    """The positive root of a r² - 2 b r + c where a isn't positive; 0 where there is none."""
    if c <= 0:
        return 0.0
    if a == 0:
        return c / (2 * b) if b > 0 else 0.0
    return (b - math.sqrt(b * b - a * c)) / a


def mean_interval(attempts: int, total: int, squares: int, confidence: float = CONFIDENCE) -> Interval | None:
    """The mean over attempts by Student's t, as Fieller's interval is where every y is 1; None without attempts."""
    return ratio_interval(PairSums(attempts, total, attempts, squares, total, attempts), confidence)


def median_interval(ascending: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """The median of sorted numbers (the upper of two middle ones); None without numbers."""
    count = len(ascending)
    if count == 0:
        return None
    value = ascending[count // 2]
    rank = _low_rank(count, confidence)
    if rank == 0:  # so few that not even the smallest and largest bound it
        return Interval(value, 0.0, math.inf)
    return Interval(value, ascending[rank - 1], ascending[count - rank])


def difference_interval(base: Interval, other: Interval) -> Interval:
    """`other` minus `base` with the ends that their intervals give (MOVER)."""
    value = other.value - base.value
    low = math.hypot(other.value - other.low, base.high - base.value)
    high = math.hypot(other.high - other.value, base.value - base.low)
    return Interval(value, value - low, value + high)


def is_more_than_noise(difference: Interval) -> bool:
    """True where the interval of a difference leaves out 0."""
    return difference.low > 0 or difference.high < 0


def _low_rank(count: int, confidence: float) -> int:
    """The highest rank below which the median is with at most half of what the confidence leaves; 0 where none."""
    if count > EXACT_RANKS_MAX:
        return math.floor((count - _normal_quantile(confidence) * math.sqrt(count)) / 2)
    tail = (1 - confidence) / 2
    below, rank = 1, 0
    while below <= tail * 2**count:
        rank += 1
        below += math.comb(count, rank)
    return rank


def _normal_quantile(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _t_quantile(confidence: float, freedom: int) -> float:
    """Student's t from the normal quantile (Fisher's expansion): to 0.002 from 4 degrees of freedom on at 95 %."""
    z = _normal_quantile(confidence)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    fourth = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + first / freedom + second / freedom**2 + third / freedom**3 + fourth / freedom**4
