"""Differences between runs, paired by seed: t intervals, t and sign-flip tests, Holm's correction, the detectable difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Literal

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
    "sign_flip_p",
    "smallest_detectable",
    "t_interval",
    "welch_difference",
]

LEVEL = 0.95
"""Of the intervals."""
POWER = 0.8
"""Probability with which the smallest detectable difference is found."""
MOST_FLIPPED = 20
"""Pairs whose signs are flipped in every way, half a million sums; with more of them the t test bears some ties."""
_QUANTILES = 4096
_CLOSE = 1e-9
_ROUNDING = 1e-12
"""What numbers may differ by and still be the same, as a part of the largest."""


@attrs.frozen
class Difference:
    """A difference of means.

    Attributes:
        mean: of ``a - b``.
        low: lower end of the t interval; None from fewer than two pairs (or runs on a side), and where all of them
            differ by the same amount: with no spread there is nothing to measure a difference by.
        high: upper end; None likewise.
        n: pairs; for an unpaired difference, the runs of the smaller side.
        p: two-sided p value against no difference, of the test that ``test`` names; None from fewer than two pairs.
        detectable: the smallest true difference that the t test would have found with probability 0.8, the spread
            being the one seen and the level shared between ``comparisons``; None where there is no interval.
        paired: whether runs were paired by seed.
        test: ``t``; ``sign-flip``, the exact one, where a t test would take the steps of a measure for its spread: where
            a pair is a tie, or at most half as many differences are distinct as there are pairs; ``Welch``, unpaired.
        ties: pairs of two equal values.
        over_samples: the ends of a 95% interval over seeds and test samples, by a bootstrap, where runs keep their predictions.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    p: float | None
    detectable: float | None
    paired: bool = True
    test: Literal["t", "sign-flip", "Welch"] = "t"
    ties: int = 0
    over_samples: tuple[float, float] | None = None


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
    rounding = _ROUNDING * max(float(np.abs(_to_array(side)).max()) for side in (a, b))
    x[np.abs(x) <= rounding] = 0.0
    n, mean, ties = len(x), float(x.mean()), int((x == 0).sum())
    interval = t_interval(x.tolist(), level)
    if interval is None:
        return Difference(mean, None, None, n, None, None, ties=ties)
    distinct = 1 + int((np.diff(np.sort(x)) > rounding).sum())
    if distinct == 1:
        return Difference(mean, None, None, n, sign_flip_p([mean] * n), None, test="sign-flip", ties=ties)
    deviation = float(x.std(ddof=1))
    found = smallest_detectable(deviation, n, (1 - level) / max(1, comparisons))
    if (ties or 2 * distinct <= n) and n <= MOST_FLIPPED:
        return Difference(mean, *interval, n, sign_flip_p(x.tolist()), found, test="sign-flip", ties=ties)
    return Difference(mean, *interval, n, _p_value(mean, deviation / math.sqrt(n), n - 1), found, ties=ties)


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
        return Difference(mean, None, None, n, None, None, paired=False, test="Welch")
    u, v = float(x.var(ddof=1)) / len(x), float(y.var(ddof=1)) / len(y)
    error = math.sqrt(u + v)
    if error <= _ROUNDING * max(float(np.abs(side).max()) for side in (x, y)):
        return Difference(mean, None, None, n, None, None, paired=False, test="Welch")
    degrees = (u + v) ** 2 / (u**2 / (len(x) - 1) + v**2 / (len(y) - 1))
    half = _find_quantile((1 + level) / 2, degrees) * error
    found = _find_noncentrality(degrees, (1 - level) / max(1, comparisons)) * error
    p = _p_value(mean, error, degrees)
    return Difference(mean, mean - half, mean + half, n, p, found, paired=False, test="Welch")


def sign_flip_p(differences: Sequence[float]) -> float:
    """The exact two-sided p value of the sign-flip test (Fisher 1935) of paired differences against none.

    Without a difference each pair's sign is as likely as its opposite: p is the part of all choices of signs whose sum is
    at least as far from zero. It needs no spread and no normal distribution, and is never below 2 / 2^n of n pairs.

    Args:
        differences: one for each pair, at least one; no more than 20, unless all are the same but for rounding.

    Raises:
        StillhouseError: a difference is not finite, or there are too many for all signs to be tried.
    """
    x = _to_array(differences)
    near = _ROUNDING * float(np.abs(x).max())
    if float(np.ptp(x)) <= near:
        return 1.0 if near == 0.0 else 2.0 ** (1 - len(x))
    if len(x) > MOST_FLIPPED:
        raise StillhouseError(f"the signs of at most {MOST_FLIPPED} pairs can be flipped, got {len(x)}")
    sums = x[:1]  # the other half has the same sums with the other sign
    for difference in x[1:]:
        sums = np.concatenate([sums - difference, sums + difference])
    return float((np.abs(sums) >= abs(float(x.sum())) - near * len(x)).mean())


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
