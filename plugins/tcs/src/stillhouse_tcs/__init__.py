"""stillhouse-tcs: a student in the coordinate system of a teacher's features, read once and cached."""

from __future__ import annotations

from stillhouse_tcs.axes import Axes, axes_of, load_axes, save_axes
from stillhouse_tcs.head import CoordinateHead, find_head, folded
from stillhouse_tcs.losses import elsh, pca_mse, soft_targets
from stillhouse_tcs.measuring import probe_teacher
from stillhouse_tcs.plugin import TCS
from stillhouse_tcs.selection import ROUNDS, WARM_UP, drop, drops_at, live_after

__all__ = [
    "ROUNDS",
    "TCS",
    "WARM_UP",
    "Axes",
    "CoordinateHead",
    "axes_of",
    "drop",
    "drops_at",
    "elsh",
    "find_head",
    "folded",
    "live_after",
    "load_axes",
    "pca_mse",
    "probe_teacher",
    "save_axes",
    "soft_targets",
]
