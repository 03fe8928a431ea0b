"""An observer of every run: what each plugin does and costs, looked at on a few steps, and what is sick, in words."""

from __future__ import annotations

from stillhouse_watcher.gradients import measure_gradients
from stillhouse_watcher.links import compute_cka, compute_effective_rank, compute_gram_error
from stillhouse_watcher.matrices import measure_matrix
from stillhouse_watcher.pace import Pace
from stillhouse_watcher.rules import Rules
from stillhouse_watcher.watcher import Watcher

__all__ = [
    "Pace",
    "Rules",
    "Watcher",
    "compute_cka",
    "compute_effective_rank",
    "compute_gram_error",
    "measure_gradients",
    "measure_matrix",
]
