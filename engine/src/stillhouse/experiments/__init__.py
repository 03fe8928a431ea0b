"""Experiments of many runs: ablations, grids and comparisons, with paired seeds and intervals.

Imports: training and below.
Public: this package, ablation, arms, choice, comparison, halving, plan, plan_table, report, run_groups, search, statistics, tables,
    tuning.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stillhouse.experiments.ablation import ablate
    from stillhouse.experiments.run_groups import compare
    from stillhouse.experiments.statistics import Difference, holm, paired_difference, t_interval, welch_difference

_LAZY = {
    "Difference": "statistics",
    "ablate": "ablation",
    "compare": "run_groups",
    "holm": "statistics",
    "paired_difference": "statistics",
    "t_interval": "statistics",
    "welch_difference": "statistics",
}

__all__ = ["Difference", "ablate", "compare", "holm", "paired_difference", "t_interval", "welch_difference"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"stillhouse.experiments.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'stillhouse.experiments' has no attribute {name!r}")
