"""Features of unequal variances and their moments, for the parts of the coordinate path."""

from __future__ import annotations

import numpy as np
import torch

from stillhouse.teachers.cache import Moments


def rows_of(n: int = 60, d: int = 8, rank: int | None = None, seed: int = 0) -> np.ndarray:
    """Features of unequal variances, rotated, with a mean."""
    generator = np.random.default_rng(seed)
    rank = rank or d
    basis = np.linalg.qr(generator.normal(size=(d, d)))[0]
    return generator.normal(size=(n, rank)) * (3.0 / (1 + np.arange(rank))) @ basis[:rank] + generator.normal(size=d)


def moments_of(rows: np.ndarray) -> Moments:
    moments = Moments(rows.shape[1])
    moments.add(torch.from_numpy(rows))
    return moments
