"""The best validation score of a run: the one answer for its best checkpoint, its early stopping and its summary."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

import attrs

from stillhouse.config.run import CheckpointSpec
from stillhouse.contract.assembly import Facts
from stillhouse.contract.run import Run
from stillhouse.contract.task import Task
from stillhouse.errors import StillhouseError, did_you_mean
from stillhouse.registry.hooks import Hooks

__all__ = [
    "BestScore",
    "RunningBest",
    "Score",
    "best_of",
    "check_measured",
    "check_named",
    "describe_score",
    "find_score",
]

_ERRORS = ("loss", "error", "mae", "mse", "rmse", "abs_rel")


@attrs.frozen
class Score:
    """The validation metric that says which epoch is the best.

    Attributes:
        name: of the metric, without its split.
        mode: which is better.
    """

    name: str
    mode: Literal["max", "min"]


def find_score(spec: CheckpointSpec, task: Task) -> Score:
    """The score of a run: the recipe's, or else the task's own."""
    name = task.score if spec.score is None else spec.score.partition("/")[2]
    if spec.score_mode is not None:
        return Score(name, spec.score_mode)
    if name == task.score:
        return Score(name, task.score_mode)
    return Score(name, "min" if any(part in _ERRORS for part in name.split("_")) or name in _ERRORS else "max")


def describe_score(spec: CheckpointSpec, task: Task, splits: Collection[str]) -> str:
    """What a score is and what it cannot tell, where its name does not say so; else nothing."""
    if "val" not in splits:
        return "none: the data has no validation split, so that no epoch is measured and the last weights count"
    if find_score(spec, task).name != "rank":
        return ""
    return (
        "val/rank, the number of directions that the features fill. A collapse shows in it and little else: it may fall "
        'while the student learns, so go on from its weights = "last". Data with classes would be measured by knn and probe'
    )


def check_named(spec: CheckpointSpec, assembly: Facts, hooks: Hooks, more: Iterable[str] = ()) -> None:
    """Refuse a score that nothing measures, not the metrics ``more`` either, before anything is trained.

    Raises:
        StillhouseError: the task has no such metric; a plugin may bring it.
    """
    score = find_score(spec, assembly.task).name
    there = [*assembly.task.metrics(assembly.data), *more]
    if spec.score is None or score in there or hooks.calls("metrics"):
        return
    raise StillhouseError(
        f"the task has no metric {score!r}",
        where="checkpoints.score",
        hint=f"{did_you_mean(score, there)}; classification measures more by task.args = {{ measure = [...] }}",
    )


def check_measured(run: Run, metrics: Mapping[str, float]) -> None:
    """Refuse a run whose validation split has been measured without its score.

    Raises:
        StillhouseError: it is no number, or there is none of the name.
    """
    score = find_score(run.recipe.checkpoints, run.task).name
    if score in metrics:
        return
    kind = type(run.evaluator.state.metrics.get(score)).__name__
    raise StillhouseError(
        f"must be one number, to say which epoch is the best, got {kind if kind != 'NoneType' else 'no such metric'}",
        where=f"the {'task' if run.recipe.checkpoints.score is None else 'recipe'}'s score {score!r}",
        hint=f"measured: {', '.join(metrics)}",
    )


class BestScore:
    """The best of the scores that :meth:`offer` was given, one after the other.

    Of equal scores the one with the lower loss is the best, and of equal losses the first; only a better score is an
    improvement that waiting ends with. What is not finite is no score: it is never the best, and never keeps another from
    being it.

    Args:
        mode: ``max`` or ``min``: which is better.
        min_delta: what a score must be better by to count as an improvement.
        cumulative: measure that from the last improvement; otherwise from the best score, whatever it was better by.

    Attributes:
        epoch: of the best one, from 1; None before any score.
        value: the score that it had; NaN before any.
        waited: how many were offered since.
    """

    def __init__(self, mode: str, min_delta: float = 0.0, *, cumulative: bool = False) -> None:
        self._sign = 1.0 if mode == "max" else -1.0
        self._min_delta, self._cumulative = min_delta, cumulative
        self._to_beat = -math.inf
        self._loss = math.inf
        self.epoch: int | None = None
        self.value = math.nan
        self.waited = 0

    def offer(self, value: float, epoch: int, loss: float = math.nan) -> None:
        """Take in the score of an epoch, and its loss where there is one."""
        rank = self._sign * value if math.isfinite(value) else -math.inf
        if rank > self._to_beat + (0.0 if self.epoch is None else self._min_delta):
            self._take(value, epoch, loss)
            self.waited, self._to_beat = 0, rank
            return
        self.waited += 1
        if math.isfinite(rank) and value == self.value and loss < self._loss:
            self._take(value, epoch, loss)
        if not self._cumulative and rank > self._to_beat:
            self._to_beat = rank

    def _take(self, value: float, epoch: int, loss: float) -> None:
        self.epoch, self.value = epoch, value
        self._loss = loss if math.isfinite(loss) else math.inf


class RunningBest:
    """The best score of a history that grows: each epoch is looked at once, however many come after it.

    Left out are epochs without a score, and those that ended before the step from which on the student is what the method
    makes of it (``run.best_from``): their weights are another model's.

    Args:
        run: whose score it is.
        min_delta: as in :class:`BestScore`.
        cumulative: likewise.
        leave_out: so many epochs, the first ones, as well.
    """

    def __init__(self, run: Run, min_delta: float = 0.0, *, cumulative: bool = False, leave_out: int = 0) -> None:
        self._run = run
        self._score = find_score(run.recipe.checkpoints, run.task)
        self._best = BestScore(self._score.mode, min_delta, cumulative=cumulative)
        self._seen = leave_out

    def of(self, history: Sequence[Mapping[str, float]]) -> BestScore:
        """The best of ``history``, which has the validation metrics of each epoch, and begins with what was given before."""
        run, name = self._run, self._score.name
        for metrics in history[self._seen :]:
            self._seen += 1
            if name in metrics and self._seen * run.steps_per_epoch >= run.best_from:
                self._best.offer(metrics[name], self._seen, metrics.get("loss", math.nan))
        return self._best


def best_of(run: Run, history: Sequence[Mapping[str, float]]) -> BestScore:
    """The best score of a whole ``history``: see :class:`RunningBest`."""
    return RunningBest(run).of(history)
