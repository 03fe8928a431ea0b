"""The best validation score of a run: the one answer for its best checkpoint, its early stopping and its summary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from stillhouse.contract.run import Run

__all__ = ["BestScore", "RunningBest", "best_of"]


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


class RunningBest:
    """The best score of a history that grows: each epoch is looked at once, however many come after it.

    Left out are epochs without a score, and those that ended before the step from which on the student is what the method
    makes of it (``run.best_from``): their weights are another model's.

    Args:
        run: whose score it is.
        min_delta: as in :class:`BestScore`.
        cumulative: likewise.
    """

    def __init__(self, run: Run, min_delta: float = 0.0, *, cumulative: bool = False) -> None:
        self._run = run
        self._best = BestScore(run.task.score_mode, min_delta, cumulative=cumulative)
        self._seen = 0

    def of(self, history: Sequence[Mapping[str, float]]) -> BestScore:
        """The best of ``history``, which has the validation metrics of each epoch, and begins with what was given before."""
        run = self._run
        for metrics in history[self._seen :]:
            self._seen += 1
            if run.task.score in metrics and self._seen * run.steps_per_epoch >= run.best_from:
                self._best.offer(metrics[run.task.score], self._seen)
        return self._best


def best_of(run: Run, history: Sequence[Mapping[str, float]]) -> BestScore:
    """The best score of a whole ``history``: see :class:`RunningBest`."""
    return RunningBest(run).of(history)
