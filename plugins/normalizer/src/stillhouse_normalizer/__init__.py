"""Normalisation of features: per sample, per channel over the batch, whitening, unit length, unit scale."""

from __future__ import annotations

from stillhouse_normalizer.plugin import Normalizer, normalize
from stillhouse_normalizer.standardisation import (
    scale_to_unit_length,
    scale_to_unit_rms,
    standardise_channels,
    standardise_rows,
)
from stillhouse_normalizer.whitening import compute_inverse_root, whiten

__all__ = [
    "Normalizer",
    "compute_inverse_root",
    "normalize",
    "scale_to_unit_length",
    "scale_to_unit_rms",
    "standardise_channels",
    "standardise_rows",
    "whiten",
]
