"""Normalisation of features: per sample, per channel over the batch, whitening, unit length, unit scale."""

from __future__ import annotations

from stillhouse_normalizer.plugin import Normalizer, normalize
from stillhouse_normalizer.standardise import batch_standardise, layer_standardise, unit_length, unit_rms
from stillhouse_normalizer.whiten import inverse_root, whiten

__all__ = [
    "Normalizer",
    "batch_standardise",
    "inverse_root",
    "layer_standardise",
    "normalize",
    "unit_length",
    "unit_rms",
    "whiten",
]
