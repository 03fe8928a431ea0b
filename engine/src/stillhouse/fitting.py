"""Fitting: a run that is ready is trained to its end, or on from its last checkpoint, watched, measured and summed up."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from ignite.engine import Events
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from stillhouse import rng
from stillhouse.assembly import Assembly
from stillhouse.checkpoint import Checkpoints
from stillhouse.data import Data
from stillhouse.errors import StillhouseError, StillhouseWarning
from stillhouse.explain import describe, render_text
from stillhouse.folder import RunFolder, make_lock, write_json
from stillhouse.monitor import Monitor
from stillhouse.optim import build_optimizer, build_scheduler
from stillhouse.ordering import Active
from stillhouse.progress import Progress
from stillhouse.recipe import Recipe
from stillhouse.run import Run
from stillhouse.structure import unstructure
from stillhouse.trainer import build_evaluator, build_trainer, evaluate

__all__ = ["Result", "Training"]


@attrs.frozen(eq=False)
class Result:
    """What a run gave.

    Attributes:
        student: the trained model as the plugins' ``export`` left it: in eval mode, on the run's device, without taps.
        metrics: of the last weights, by split: ``{"val": {"accuracy": ...}, "test": {...}}``.
        history: the validation metrics after each epoch.
        summary: what summary.json holds.
        folder: the run's folder; None where nothing was written.
    """

    student: nn.Module
    metrics: dict[str, dict[str, float]]
    history: list[dict[str, float]]
    summary: dict[str, Any]
    folder: Path | None


class _History:
    """The validation metrics of each epoch; part of the checkpoint, so that a resumed run's summary is whole."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": [dict(e) for e in self.epochs]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epochs = [dict(e) for e in state["epochs"]]


class Training:
    """A run that is ready to start. Attach ignite handlers to ``run.trainer`` and ``run.evaluator``, then :meth:`fit`.

    Made by :func:`stillhouse.prepare`.

    Attributes:
        recipe: the resolved recipe.
        run: what plugins see.
        actives: the plugins in order, with the reason for each one's place.
        assembly: what the walk over the plugins saw.
        data: the batches.
        teacher_is_trained: False where a teacher given by a recipe was left as it starts, to explain a run.
        optimizer: torch's, with one parameter group for the student and one for each plugin that has parameters.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: Run,
        actives: Sequence[Active],
        data: Data,
        assembly: Assembly,
        *,
        resume: bool,
        progress: Progress,
        teacher_is_trained: bool = True,
    ) -> None:
        self.recipe = recipe
        self.run = run
        self.actives = list(actives)
        self.assembly = assembly
        self.data = data
        self.teacher_is_trained = teacher_is_trained
        self._resume = resume
        self._progress = progress
        self._history = _History()
        hooks = assembly.hooks
        composition = assembly.composition
        self.optimizer = build_optimizer(recipe.optimizer, run, composition, hooks)
        self._scheduler = build_scheduler(recipe.schedule, self.optimizer, run.total_steps)
        self._monitor = Monitor(run, self.optimizer, hooks)
        run._trainer = build_trainer(run, composition, self.optimizer, hooks, self._monitor.look)
        run._evaluator = build_evaluator(run, composition, hooks)
        self._hooks = hooks
        # Attached here, so that a handler that the caller attaches next finds the epoch's metrics.
        run.trainer.add_event_handler(
            Events.EPOCH_STARTED, lambda: self._monitor.restart_clock(run.trainer.state.iteration)
        )
        if self._scheduler is not None:  # after the step, in which the monitor logs the rate that it had
            run.trainer.add_event_handler(Events.ITERATION_COMPLETED, _stepper(self._scheduler))
        run.trainer.add_event_handler(Events.EPOCH_COMPLETED, self._after_epoch)

    def fit(self) -> Result:
        """Train to the end, or on from the last checkpoint, and write the run's folder.

        Raises:
            StillhouseError: a loss or weight that is not finite, a damaged checkpoint, a folder that cannot be written.
        """
        try:
            return self._fit()
        finally:
            self.close()

    def export(self) -> nn.Module:
        """The student with what training added folded away: each plugin's ``export`` in turn, taps taken off.

        Raises:
            StillhouseError: a plugin gave something else than a module.
        """
        self.run.composition.remove_taps()
        student = self.run.student
        for plugin, export in self._hooks.calls("export"):
            folded = export(self.run, student)
            if not isinstance(folded, nn.Module):
                raise StillhouseError(
                    f"export gave {type(folded).__name__}", where=f"plugin {plugin.name!r}", hint="an nn.Module"
                )
            student = folded
        return student.eval()

    def close(self) -> None:
        """Shut the loader's workers down; :meth:`fit` does so itself."""
        self.data.close()

    def _fit(self) -> Result:
        run, recipe, monitor = self.run, self.recipe, self._monitor
        folder = self._open_folder()
        rng.seed_everything(rng.derive(run.seed, "training"))
        run.composition.train()
        done = 0
        if folder is not None:
            checkpoints = Checkpoints(run, self.optimizer, self._scheduler, recipe.checkpoints, self._history)
            if self._resume:
                done = checkpoints.resume()
                summary = folder.read_summary()
                if summary is not None and done == run.total_steps:
                    return Result(self.export(), summary["metrics"], self._history.epochs, summary, run.folder)
            monitor.open(folder.path, purge_step=done + 1 if self._resume else None)
            if done == 0:
                monitor.text("recipe", recipe.to_toml())
                monitor.text("composition", render_text(describe(self)))
            checkpoints.attach()
        started = time.perf_counter()
        try:
            # Whoever calls this under no_grad wants the run all the same: a teacher's training is started from anywhere.
            with self._progress.training(run, monitor, done), torch.enable_grad():
                if done < run.total_steps:
                    stream = self.data.training(done)
                    run.trainer.run(stream, max_epochs=run.epochs, epoch_length=run.steps_per_epoch)
            metrics = self._final_metrics()
            summary = self._summary(metrics, time.perf_counter() - started, done)
            if folder is not None:
                monitor.hparams(*_hparams(recipe, self.actives, metrics))
                write_json(folder.summary, summary)
        finally:
            monitor.close()
        return Result(self.export(), metrics, self._history.epochs, summary, run.folder)

    def _open_folder(self) -> RunFolder | None:
        if self.run.folder is None:
            return None
        folder = RunFolder(self.run.folder)
        lock = make_lock(self.recipe, self.actives, self.run.device, self.run.data.fingerprint)
        if self._resume:
            for note in folder.compare(self.recipe, lock):
                warnings.warn(f"{folder.path}: {note}", StillhouseWarning, stacklevel=2)
        if not folder.lock.exists():
            folder.create(self.recipe, lock, render_text(describe(self)))
        return folder

    def _after_epoch(self) -> None:
        if "val" in self.data.splits:
            self._history.epochs.append(self._measure("val"))
        self._monitor.figures()

    def _measure(self, split: str) -> dict[str, float]:
        values = evaluate(self.run, self.data.evaluation(split), split)
        self.run.metrics[split] = values
        self._monitor.metrics(split, values)
        return values

    def _final_metrics(self) -> dict[str, dict[str, float]]:
        """Of the last weights. The validation split was measured after the last epoch, unless that was cut short."""
        whole = self.run.trainer.state.iteration % self.run.steps_per_epoch == 0 and "val" in self.run.metrics
        splits = [s for s in self.data.splits if s != "train" and not (s == "val" and whole)]
        return {
            s: self._measure(s) if s in splits else dict(self.run.metrics[s]) for s in self.data.splits if s != "train"
        }

    def _summary(self, metrics: dict[str, dict[str, float]], seconds: float, done: int) -> dict[str, Any]:
        run, score = self.run, self.run.task.score
        values = [e[score] for e in self._history.epochs if score in e]
        best = (max if run.task.score_mode == "max" else min)(values) if values else None
        return {
            "name": self.recipe.run.name,
            "seed": run.seed,
            "epochs": run.epochs,
            "steps": run.total_steps,
            "steps_done": run.trainer.state.iteration,
            "metrics": metrics,
            "best": None if best is None else {"epoch": values.index(best) + 1, f"val/{score}": best},
            "student_parameters": sum(p.numel() for p in run.student.parameters()),
            "plugins": [a.name for a in self.actives],
            "device": str(run.device),
            "resumed_at_step": done,
            "seconds": round(seconds, 3),
            "history": self._history.epochs,
        }


def _stepper(scheduler: LRScheduler) -> Callable[[], None]:
    # ignite would hand the engine to the scheduler's own `epoch` argument.
    return lambda: scheduler.step()


def _hparams(
    recipe: Recipe, actives: Sequence[Active], metrics: dict[str, dict[str, float]]
) -> tuple[dict[str, Any], dict[str, float]]:
    settings: dict[str, Any] = {
        "student": recipe.student.model,
        "data": recipe.data.name,
        "epochs": recipe.run.epochs,
        "batch_size": recipe.data.batch_size,
        "per_class": recipe.data.per_class or 0,
        "optimizer": recipe.optimizer.name,
        "lr": recipe.optimizer.lr,
        "seed": recipe.run.seed,
        "plugins": ", ".join(a.name for a in actives) or "none",
    }
    for active in actives:
        for option, value in unstructure(active.plugin).items():
            if isinstance(value, bool | int | float | str) and option != "name":
                settings[f"{active.name}.{option}"] = value
    return settings, {f"{split}/{k}": v for split, values in metrics.items() for k, v in values.items()}
