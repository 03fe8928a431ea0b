"""stillhouse-spectral: pushes the energy of a student's features into a few directions, without a teacher."""

from __future__ import annotations

from stillhouse_spectral.energy import mean_square, tail_energy, tail_residual
from stillhouse_spectral.plugin import Spectral
from stillhouse_spectral.rows import feature_rows
from stillhouse_spectral.warm import WarmBases, basis_width, follow, warm_tail_energy

__all__ = [
    "Spectral",
    "WarmBases",
    "basis_width",
    "feature_rows",
    "follow",
    "mean_square",
    "tail_energy",
    "tail_residual",
    "warm_tail_energy",
]
