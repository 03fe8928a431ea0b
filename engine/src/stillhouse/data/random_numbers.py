"""Random numbers of a batch's samples at once: each follows from (seed, epoch, transform, sample) and from nothing else.

They are counted and not drawn from a generator's state, so it does not matter which samples share a batch, which process makes
it, or what was drawn before.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stillhouse.data.sampler import Ids
from stillhouse.seeds import mix_each

__all__ = ["Uniform", "below", "between", "draw"]

Uniform = NDArray[np.float64]
"""Numbers in [0, 1): (n, B), n for each sample of a batch."""


def draw(n: int, ids: Ids, *key: int) -> Uniform:
    """Draw ``n`` numbers in [0, 1) for each of ``ids`` (B,), of 53 bits each: (n, B).

    Args:
        n: how many a sample needs.
        ids: the samples.
        key: what the numbers belong to: seed, epoch, place of the transform.
    """
    bits = mix_each(*key, ids=ids, counts=np.arange(n, dtype=np.int64))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def between(u: Uniform, low: float, high: float) -> Uniform:
    """Stretch numbers in [0, 1) to [low, high)."""
    return low + (high - low) * u


def below(u: Uniform, n: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """Turn numbers in [0, 1) into whole ones of 0 ... n-1, each as likely as the others."""
    return np.floor(u * n).astype(np.int64)
