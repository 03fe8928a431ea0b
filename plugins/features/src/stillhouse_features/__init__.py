"""stillhouse-features: pairs student with teacher features and takes their distance."""

from __future__ import annotations

from stillhouse_features.distances import Distance, distance
from stillhouse_features.options import LinkOptions, Pool
from stillhouse_features.pairing import Pair, resolve
from stillhouse_features.plugin import Features
from stillhouse_features.reading import align, pool, read_pair, to_map

__all__ = [
    "Distance",
    "Features",
    "LinkOptions",
    "Pair",
    "Pool",
    "align",
    "distance",
    "pool",
    "read_pair",
    "resolve",
    "to_map",
]
