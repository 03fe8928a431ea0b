"""stillhouse-spectral: pushes the energy of a student's features into a few directions, without a teacher."""

from __future__ import annotations

from stillhouse_spectral.energy import mean_square, tail_energy, tail_residual
from stillhouse_spectral.plugin import Spectral
from stillhouse_spectral.rows import to_feature_rows
from stillhouse_spectral.warm_bases import WarmBases, basis_width, follow, warm_tail_energy

__all__ = [
    "Spectral",
    "WarmBases",
    "basis_width",
    "follow",
    "mean_square",
    "tail_energy",
    "tail_residual",
    "to_feature_rows",
    "warm_tail_energy",
]
