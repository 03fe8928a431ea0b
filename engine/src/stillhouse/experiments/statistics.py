"""Differences between runs: paired by seed, with Student's t intervals, Holm's correction and the detectable difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import attrs
import numpy as np
from numpy.typing import NDArray
from scipy import special

from stillhouse.errors import StillhouseError

__all__ = [
    "LEVEL",
    "POWER",
    "Difference",
    "holm",
    "paired_difference",
    "smallest_detectable",
    "t_interval",
    "welch_difference",
]

LEVEL = 0.95
"""Of the intervals."""
POWER = 0.8
"""Probability with which the smallest detectable difference is found."""
_QUANTILES = 4096
_CLOSE = 1e-9


@attrs.frozen
class Difference:
    """A difference of means.

    Attributes:
        mean: of ``a - b``.
        low: lower end of the t interval; None from fewer than two pairs (or runs on a side), and where all of them
            differ by the same amount: with no spread there is nothing to measure a difference by.
        high: upper end; None likewise.
        n: pairs; for an unpaired difference, the runs of the smaller side.
        p: two-sided p value of the t test against no difference; None likewise.
        detectable: the smallest true difference that this test would have found with probability 0.8, the spread
            being the one seen and the level shared between ``comparisons``; None likewise.
        paired: whether runs were paired by seed.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    p: float | None
    detectable: float | None
    paired: bool = True


def t_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float] | None:
    """Student's t interval of the mean; None for fewer than two values.

    Args:
        values: independent measurements.
        level: coverage, between 0 and 1.

    Raises:
        StillhouseError: a measurement is not finite.
    """
    x = _to_array(values)
    if len(x) < 2:
        return None
    half = _find_quantile((1 + level) / 2, len(x) - 1) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return float(x.mean()) - half, float(x.mean()) + half


def paired_difference(a: Sequence[float], b: Sequence[float], level: float = LEVEL, comparisons: int = 1) -> Difference:
    """The mean of ``a[i] - b[i]`` with its t interval: what the seeds have in common drops out.

    Args:
        a: measurements.
        b: as many, ``b[i]`` made under the same seed as ``a[i]``.
        level: of the interval.
        comparisons: how many such tests are made together; the detectable difference is for a level shared by them.

    Raises:
        StillhouseError: two lengths, nothing to compare, or a measurement that is not finite.
    """
    if len(a) != len(b) or not len(a):
        raise StillhouseError(f"pairs need as many measurements of both, at least 1, got {len(a)} and {len(b)}")
    x = _to_array(a) - _to_array(b)
    n, mean = len(x), float(x.mean())
    interval = t_interval(x.tolist(), level)
    deviation = float(x.std(ddof=1)) if n > 1 else 0.0
    if interval is None or _no_spread(deviation, a, b):
        return Difference(mean, None, None, n, None, None)
    error = deviation / math.sqrt(n)
    p = _p_value(mean, error, n - 1)
    return Difference(mean, *interval, n, p, smallest_detectable(deviation, n, (1 - level) / max(1, comparisons)))


def welch_difference(a: Sequence[float], b: Sequence[float], level: float = LEVEL, comparisons: int = 1) -> Difference:
    """The difference of two means that share no seeds, with Welch's t interval (Welch 1947, Satterthwaite's degrees).

    Args:
        a: measurements.
        b: the others; their number may differ.
        level: of the interval.
        comparisons: as for :func:`paired_difference`.

    Raises:
        StillhouseError: one side is empty, or a measurement is not finite.
    """
    if not len(a) or not len(b):
        raise StillhouseError(f"a comparison needs at least 1 measurement of both, got {len(a)} and {len(b)}")
    x, y = _to_array(a), _to_array(b)
    n, mean = min(len(x), len(y)), float(x.mean() - y.mean())
    if n < 2:
        return Difference(mean, None, None, n, None, None, paired=False)
    u, v = float(x.var(ddof=1)) / len(x), float(y.var(ddof=1)) / len(y)
    error = math.sqrt(u + v)
    if _no_spread(error, a, b):
        return Difference(mean, None, None, n, None, None, paired=False)
    degrees = (u + v) ** 2 / (u**2 / (len(x) - 1) + v**2 / (len(y) - 1))
    half = _find_quantile((1 + level) / 2, degrees) * error
    found = _find_noncentrality(degrees, (1 - level) / max(1, comparisons)) * error
    return Difference(mean, mean - half, mean + half, n, _p_value(mean, error, degrees), found, paired=False)


def smallest_detectable(deviation: float, n: int, alpha: float = 1 - LEVEL) -> float:
    """The smallest true mean difference that a two-sided paired t test finds with probability 0.8.

    Args:
        deviation: standard deviation of the differences.
        n: pairs, at least 2.
        alpha: the test's level.
    """
    return _find_noncentrality(float(n - 1), alpha) * deviation / math.sqrt(n)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p values (Holm 1979): each at most 0.05 keeps the chance of any false finding at 0.05.

    Args:
        p_values: of tests made together; None (no test) stays None and does not count, and so does what is not finite.
    """
    given = sorted((p, i) for i, p in enumerate(p_values) if p is not None and math.isfinite(p))
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(given):
        highest = max(highest, min(1.0, (len(given) - rank) * p))
        adjusted[i] = highest
    return adjusted


def _to_array(values: Sequence[float]) -> NDArray[np.float64]:
    found = np.asarray(values, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(found))
    if len(bad):
        raise StillhouseError(f"measurements must be finite, got {found[bad[0]]} as number {bad[0]}")
    return found


def _no_spread(deviation: float, a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether a spread is within the rounding of its numbers."""
    largest = max(float(np.abs(_to_array(side)).max()) for side in (a, b))
    return deviation <= 1e-12 * largest


def _p_value(mean: float, error: float, degrees: float) -> float:
    return 2 * float(special.stdtr(degrees, -abs(mean) / error))


def _find_quantile(p: float, degrees: float) -> float:
    """Student's t below which the probability is ``p``. scipy.stats has it too, and takes a second to import."""
    return float(special.stdtrit(degrees, p))


@cache
def _find_noncentrality(degrees: float, alpha: float) -> float:
    """The true difference in standard errors at which the two-sided t test has the power 0.8.

    The power is the mean over the estimated spread of a normal probability: SciPy's noncentral t gives NaN in the
    tails that few degrees of freedom reach.
    """
    quantiles = special.chdtri(degrees, (np.arange(_QUANTILES) + 0.5) / _QUANTILES)
    bound = _find_quantile(1 - alpha / 2, degrees) * np.sqrt(quantiles / degrees)

    def surplus(shift: float) -> float:
        found = special.ndtr(shift - bound) + special.ndtr(-shift - bound)
        return float(found.mean()) - POWER

    low, high = 0.0, 2.0
    while surplus(high) < 0:
        high *= 2
    while high - low > _CLOSE * high:  # it rises with the shift
        middle = (low + high) / 2
        low, high = (low, middle) if surplus(middle) >= 0 else (middle, high)
    return high
