"""What a run measures: each split, with the student's own weights and with averaged ones, and the history of it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from stillhouse.contract.run import Run
from stillhouse.data.batches import Data
from stillhouse.loop.engines import evaluate
from stillhouse.training.ema import AveragedWeights
from stillhouse.training.monitor import Monitor

__all__ = ["Measuring"]


class Measuring:
    """Measures, and keeps the validation metrics of each epoch.

    Args:
        run: with its evaluator; its ``metrics`` are filled by split.
        data: what is measured on.
        monitor: where metrics are logged.
        ema: the averaged weights: measured as ``SPLIT_ema`` beside each split, or instead; None: there are none.

    Attributes:
        epochs: the validation metrics of each epoch, those of averaged weights as ``ema/METRIC``, empty for an epoch that
            was not measured; part of the checkpoint, so that a resumed run's summary is whole.
    """

    def __init__(self, run: Run, data: Data, monitor: Monitor, ema: AveragedWeights | None) -> None:
        self._run, self._data, self._monitor, self._ema = run, data, monitor, ema
        self.epochs: list[dict[str, float]] = []
        self._validated_at = -1

    @property
    def is_fresh(self) -> bool:
        """Whether the latest metrics of the validation split are of the weights as they are now."""
        return self._validated_at == self._run.trainer.state.iteration

    def after_epoch(self) -> None:
        """Measure the validation split, where there is one and the epoch is one of ``run.validate_every``, and remember it."""
        if "val" not in self._data.splits:
            return
        epoch = self._run.trainer.state.epoch
        if epoch % self._run.recipe.run.validate_every and epoch != self._run.epochs:
            self.epochs.append({})
            return
        self.measure("val")
        self._validated_at = self._run.trainer.state.iteration
        average = self._run.metrics.get("val_ema", {})
        self.epochs.append({**self._run.metrics["val"], **{f"ema/{k}": v for k, v in average.items()}})

    def measure(self, split: str) -> None:
        """Measure ``split``."""
        ema = self._ema
        self._measure_as(split, split, averaged=ema is not None and ema.instead)
        if ema is not None and not ema.instead:
            self._measure_as(split, f"{split}_ema", averaged=True)

    def _measure_as(self, split: str, name: str, *, averaged: bool) -> None:
        with self._ema.in_place() if averaged and self._ema is not None else nullcontext():
            values = evaluate(self._run.evaluator, self._run.student, self._data.evaluation(split), name)
        self._run.metrics[name] = values
        self._monitor.metrics(name, values)

    def final(self) -> dict[str, dict[str, float]]:
        """Of the last weights, of the test split where the recipe's ``run.test`` allows it. The validation split was measured after the last epoch, unless the run was cut short."""
        run = self._run
        left = ("train",) if run.recipe.run.test else ("train", "test")
        splits = [split for split in self._data.splits if split not in left]
        for split in splits:
            if not (split == "val" and self.is_fresh):
                self.measure(split)
        names = [name for split in splits for name in (split, f"{split}_ema")]
        return {name: dict(run.metrics[name]) for name in names if name in run.metrics}

    def state_dict(self) -> dict[str, Any]:
        """The history; a checkpoint's ``history``."""
        return {"epochs": [dict(e) for e in self.epochs]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after a saved history."""
        self.epochs = [dict(e) for e in state["epochs"]]
