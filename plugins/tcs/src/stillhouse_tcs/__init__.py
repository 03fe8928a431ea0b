"""stillhouse-tcs: a student in the coordinate system of a teacher's features, read once and cached."""

from __future__ import annotations

from stillhouse_tcs.axes import Axes, find_axes, load_axes, save_axes
from stillhouse_tcs.head import CoordinateHead, find_head, fold
from stillhouse_tcs.losses import elsh, pca_mse, soft_targets
from stillhouse_tcs.plugin import TCS
from stillhouse_tcs.selection import ROUNDS, WARM_UP, count_live, drop, schedule_drops
from stillhouse_tcs.teacher_probe import probe_teacher

__all__ = [
    "ROUNDS",
    "TCS",
    "WARM_UP",
    "Axes",
    "CoordinateHead",
    "count_live",
    "drop",
    "elsh",
    "find_axes",
    "find_head",
    "fold",
    "load_axes",
    "pca_mse",
    "probe_teacher",
    "save_axes",
    "schedule_drops",
    "soft_targets",
]
