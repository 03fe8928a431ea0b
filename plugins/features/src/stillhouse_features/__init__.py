"""stillhouse-features: pairs student with teacher features and takes their distance."""

from __future__ import annotations

from stillhouse_features.alignment import align, pool, read_pair, to_map
from stillhouse_features.distances import Distance, distance
from stillhouse_features.options import LinkOptions, Pool
from stillhouse_features.pairs import Pair, resolve_links
from stillhouse_features.plugin import Features

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
    "resolve_links",
    "to_map",
]
