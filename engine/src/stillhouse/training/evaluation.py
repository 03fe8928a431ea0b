"""Evaluation during a run: each split, with the student's own weights and with averaged ones, and the history of it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial

from stillhouse.assembly.evaluator import evaluate
from stillhouse.contract.hookspecs import hookimpl
from stillhouse.contract.run import Run
from stillhouse.data.base import Data
from stillhouse.errors import StillhouseWarning
from stillhouse.registry.hooks import Hooks, emit
from stillhouse.training.ema import AveragedWeights
from stillhouse.training.optimizer_modes import OptimizerModes
from stillhouse.training.score import check_measured, find_score

__all__ = ["Evaluation"]


class Evaluation:
    """Measures the student, tells of it through ``evaluated``, and keeps the validation metrics of each epoch.

    Args:
        data: what is measured on.
        hooks: whose ``evaluated`` is called.
        ema: the averaged weights, or the optimizer's own: measured as ``SPLIT_ema`` beside each split, or instead; None: there are none.

    Attributes:
        history: the validation metrics of each epoch, those of averaged weights as ``ema/METRIC``, empty for an epoch that
            was not measured; kept beside the checkpoints, so that a resumed run's summary is whole.
    """

    name = "evaluation"

    def __init__(self, data: Data, hooks: Hooks, ema: AveragedWeights | OptimizerModes | None) -> None:
        self._data, self._hooks, self._ema = data, hooks, ema
        self.history: list[dict[str, float]] = []
        self._measured_at: dict[str, int] = {}
        self._told: set[tuple[str, str]] = set()

    def is_fresh(self, run: Run, split: str = "val") -> bool:
        """Whether the latest metrics of ``split`` are of the weights as they are now."""
        return self._measured_at.get(split) == run.trainer.state.iteration

    @hookimpl
    def started(self, run: Run) -> None:
        """Remember what was measured where the run goes on: it was told of before, and is not told of again."""
        done, last = run.trainer.state.iteration, self.history[-1] if self.history else {}
        if last and done == len(self.history) * run.steps_per_epoch:
            dict.__setitem__(run.metrics, "val", {k: v for k, v in last.items() if not k.startswith("ema/")})
            average = {k.removeprefix("ema/"): v for k, v in last.items() if k.startswith("ema/")}
            if average:
                dict.__setitem__(run.metrics, "val_ema", average)
            self._measured_at["val"] = done

    @hookimpl
    def epoch_completed(self, run: Run) -> None:
        """Measure the validation split, where there is one and the epoch is one of ``run.validate_every``, and remember it."""
        if "val" not in self._data.splits:
            return
        epoch = run.trainer.state.epoch
        if epoch % run.recipe.run.validate_every and epoch != run.epochs:
            self.history.append({})
            return
        self.measure(run, "val")
        average = run.metrics.get("val_ema", {})
        self.history.append({**run.metrics["val"], **{f"ema/{k}": v for k, v in average.items()}})

    @hookimpl(tryfirst=True)
    def completed(self, run: Run) -> None:
        """Measure what is left before the plugins hear that the run is done."""
        self.final(run)

    def final(self, run: Run) -> dict[str, dict[str, float]]:
        """The metrics of the last weights, of the test split where the recipe's ``run.test`` allows it.

        Measured is what has not been: the validation split was after the last epoch, unless the run was cut short.
        """
        left = ("train",) if run.recipe.run.test else ("train", "test")
        splits = [split for split in self._data.splits if split not in left]
        for split in splits:
            if not self.is_fresh(run, split):
                self.measure(run, split)
        names = [name for split in splits for name in (split, f"{split}_ema")]
        return {name: dict(run.metrics[name]) for name in names if name in run.metrics}

    def measure(self, run: Run, split: str) -> None:
        """Measure ``split``."""
        ema = self._ema
        self._measure_as(run, split, split, ema if ema is not None and ema.instead else None)
        if ema is not None and not ema.instead:
            self._measure_as(run, split, f"{split}_ema", ema)
        self._measured_at[split] = run.trainer.state.iteration

    def _measure_as(self, run: Run, split: str, name: str, average: AveragedWeights | OptimizerModes | None) -> None:
        with average.in_place() if average is not None else nullcontext():
            then = partial(self._tell, run, name)
            evaluate(run.evaluator, run.composition, self._data.evaluation(split), name, then)

    def _tell(self, run: Run, name: str, metrics: Mapping[str, float]) -> None:
        self._look_at(run, name, metrics)
        dict.__setitem__(run.metrics, name, metrics)
        calls = self._hooks.calls("evaluated", run=run)
        emit(calls, "evaluated", lambda: f"split {name!r}, epoch {run.trainer.state.epoch}", name, metrics)

    def _look_at(self, run: Run, split: str, metrics: Mapping[str, float]) -> None:
        """Say which metrics are no numbers, once each, and refuse a run that has no score to go by."""
        score = find_score(run.recipe.checkpoints, run.task).name
        if split == "val":
            check_measured(run, metrics)
        bad = [name for name, value in metrics.items() if not math.isfinite(value) and (split, name) not in self._told]
        if bad:
            self._told |= {(split, name) for name in bad}
            best = "; an epoch without a score cannot be the best" if split == "val" and score in bad else ""
            warnings.warn(
                f"{run.recipe.run.name}: {', '.join(f'{split}/{name}' for name in bad)} not finite after epoch "
                f"{run.trainer.state.epoch}: that is no score, and null in JSON{best}",
                StillhouseWarning,
                stacklevel=2,
            )
