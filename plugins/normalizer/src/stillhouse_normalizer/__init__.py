"""Normalisation of features: per sample, per channel over the batch, whitening, unit length."""

from __future__ import annotations

from stillhouse_normalizer.plugin import Normalizer, normalize
from stillhouse_normalizer.standardise import batch_standardise, layer_standardise, unit_length
from stillhouse_normalizer.whiten import inverse_root, whiten

__all__ = [
    "Normalizer",
    "batch_standardise",
    "inverse_root",
    "layer_standardise",
    "normalize",
    "unit_length",
    "whiten",
]
