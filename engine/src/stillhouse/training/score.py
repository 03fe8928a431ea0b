"""The best validation score of a run: the one answer for its best checkpoint, its early stopping and its summary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from stillhouse.contract.run import Run

__all__ = ["BestScore", "best_of"]


class BestScore:
    """The best of the scores that :meth:`offer` was given, one after the other.

    Of equal scores the first is the best. What is not finite is no score: it is never the best, and never keeps another
    from being it.

    Args:
        mode: ``max`` or ``min``: which is better.
        min_delta: what a score must be better by to count as an improvement.
        cumulative: measure that from the last improvement; otherwise from the best score, whatever it was better by.

    Attributes:
        epoch: of the last improvement, from 1; None before any score.
        value: the score that it had; NaN before any.
        waited: how many were offered since.
    """

    def __init__(self, mode: str, min_delta: float = 0.0, *, cumulative: bool = False) -> None:
        self._sign = 1.0 if mode == "max" else -1.0
        self._min_delta, self._cumulative = min_delta, cumulative
        self._to_beat = -math.inf
        self.epoch: int | None = None
        self.value = math.nan
        self.waited = 0

    def offer(self, value: float, epoch: int) -> None:
        """Take in the score of an epoch."""
        rank = self._sign * value if math.isfinite(value) else -math.inf
        if rank > self._to_beat + (0.0 if self.epoch is None else self._min_delta):
            self.epoch, self.value, self.waited, self._to_beat = epoch, value, 0, rank
            return
        self.waited += 1
        if not self._cumulative and rank > self._to_beat:
            self._to_beat = rank


def best_of(
    run: Run, history: Sequence[Mapping[str, float]], min_delta: float = 0.0, *, cumulative: bool = False
) -> BestScore:
    """The best score of ``history``, which has the validation metrics of each epoch.

    Left out are epochs without a score, and those that ended before the step from which on the student is what the method
    makes of it (:meth:`stillhouse.contract.run.Run.settle`): their weights are another model's.
    """
    best = BestScore(run.task.score_mode, min_delta, cumulative=cumulative)
    for epoch, metrics in enumerate(history, 1):
        if run.task.score in metrics and epoch * run.steps_per_epoch >= run.best_from:
            best.offer(metrics[run.task.score], epoch)
    return best
