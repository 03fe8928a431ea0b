"""How much of a difference is the choice of seeds and of test samples: a bootstrap over both, of predictions that runs keep."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray

__all__ = ["METRIC", "RESAMPLES", "Judged", "bootstrap", "compare_judged", "draw_counts", "read_judged"]

METRIC = "test/accuracy"
"""The metric that kept predictions give."""
RESAMPLES = 2000
_AT_ONCE = 100


@attrs.frozen(eq=False)
class Judged:
    """The test samples of one run.

    Attributes:
        true: (N,) the classes, in the order of the split.
        right: (N,) which of them the student has found.
    """

    true: NDArray[np.int32]
    right: NDArray[np.bool_]


def read_judged(path: Path) -> Judged | None:
    """The samples of a run's ``predictions.npz``; None where it has none, or they cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            true, predicted = file["true"], file["predicted"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    same = true.shape == predicted.shape and true.ndim == 1 and len(true) > 0
    return Judged(true, true == predicted) if same else None


def compare_judged(
    a: Mapping[int, Judged], b: Mapping[int, Judged], seeds: Sequence[int]
) -> tuple[float, float] | None:
    """The 95% interval of the difference in accuracy over ``seeds`` and samples.

    Returns:
        None where a run has kept nothing, or not all were tested on the same samples.
    """
    if len(seeds) < 2 or not all(seed in side for side in (a, b) for seed in seeds):
        return None
    true = a[seeds[0]].true
    if not all(np.array_equal(side[seed].true, true) for side in (a, b) for seed in seeds):
        return None
    return bootstrap(np.stack([a[seed].right.astype(np.float64) - b[seed].right for seed in seeds]))


def bootstrap(differences: NDArray[np.float64], level: float = 0.95, resamples: int = RESAMPLES) -> tuple[float, float]:
    """The percentile interval of the mean of ``differences`` over seeds and samples, both drawn anew in each resample.

    All seeds are tested on the same samples, so that a resample has one choice of samples for all of its seeds (a crossed
    design: Owen 2007). With few seeds the interval is too narrow in its share of the seeds; the t interval is not.

    Args:
        differences: (S, N), of S seeds in N samples.
        level: of the interval.
        resamples: how many; which they are is fixed.
    """
    seeds, samples = differences.shape
    means: list[NDArray[np.float64]] = []
    for of_seeds, of_samples in draw_counts(seeds, samples, resamples):
        means.append(((of_seeds @ differences) * of_samples).sum(1) / (seeds * samples))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def draw_counts(seeds: int, samples: int, resamples: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """How often each resample has each seed, (R, S), and each sample, (R, N); in parts of up to a hundred resamples."""
    generator = np.random.default_rng(0)
    for first in range(0, resamples, _AT_ONCE):
        rows = min(_AT_ONCE, resamples - first)
        yield (
            generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=rows),
            generator.multinomial(samples, np.full(samples, 1 / samples), size=rows),
        )
