"""Fitting: a run that is ready is trained to its end, or on from its last checkpoint, watched, measured and summed up."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs
import ignite.distributed as idist
import torch
from ignite.engine import Events
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from stillhouse import seeds as rng
from stillhouse.config.recipe import Recipe
from stillhouse.config.structure import unstructure
from stillhouse.contract.assembly import Assembly
from stillhouse.contract.batch import Batch
from stillhouse.data.batch_transforms import build_batch_transforms, transformed
from stillhouse.data.batches import Data
from stillhouse.distributed import processes as parallel
from stillhouse.errors import StillhouseError, StillhouseWarning
from stillhouse.loop.compilation import compile_models, plain
from stillhouse.loop.engines import build_run
from stillhouse.loop.export import fold
from stillhouse.loop.failures import explained
from stillhouse.loop.optimizers import build_optimizer, build_scheduler
from stillhouse.loop.phases import Phase
from stillhouse.loop.stepper import Stepper, split
from stillhouse.loop.walk import Walk
from stillhouse.registry.order import Active
from stillhouse.training.checkpoint import Checkpoints
from stillhouse.training.early_stopping import Stopping
from stillhouse.training.ema import AveragedWeights
from stillhouse.training.evaluation import Measuring
from stillhouse.training.explanation import describe, render_text
from stillhouse.training.folder import RunFolder, make_lock, write_json
from stillhouse.training.monitor import Monitor
from stillhouse.training.preview import Preview
from stillhouse.training.progress import Progress

__all__ = ["Result", "Training"]


@attrs.frozen(eq=False)
class Result:
    """What a run gave.

    Attributes:
        student: the trained model as the plugins' ``export`` left it: in eval mode, on the run's device, without taps;
            with ``[ema] evaluate = "instead"`` its averaged weights.
        metrics: of the last weights, by split: ``{"val": {"accuracy": ...}, "test": {...}}``; with ``[ema]`` also
            ``val_ema`` and ``test_ema``.
        history: the validation metrics after each epoch; empty for one that ``run.validate_every`` leaves out.
        summary: what summary.json holds.
        folder: the run's folder; None where nothing was written.
    """

    student: nn.Module
    metrics: dict[str, dict[str, float]]
    history: list[dict[str, float]]
    summary: dict[str, Any]
    folder: Path | None


class Training:
    """A run that is ready to start. Attach ignite handlers to ``run.trainer`` and ``run.evaluator``, then :meth:`fit`.

    Made by :func:`stillhouse.prepare`.

    Attributes:
        recipe: the resolved recipe.
        run: what plugins see in training.
        assembly: what plugins saw before.
        walk: the composition, and what the walk over the plugins saw.
        actives: the plugins in order, with the reason for each one's place.
        data: the batches.
        teacher_is_trained: False where a teacher given by a recipe was left as it starts, to explain a run.
        optimizer: torch's, with one parameter group for the student and one for each plugin that has parameters.
    """

    def __init__(
        self,
        assembly: Assembly,
        walk: Walk,
        actives: Sequence[Active],
        data: Data,
        *,
        folder: Path | None,
        resume: bool,
        progress: Progress,
        teacher_is_trained: bool = True,
    ) -> None:
        self.recipe = recipe = assembly.recipe
        self.actives = list(actives)
        self.assembly, self.walk = assembly, walk
        self.data = data
        self.teacher_is_trained = teacher_is_trained
        self._resume = resume
        self._made_folder = False
        self._progress = progress
        hooks, composition = walk.hooks, walk.composition
        self.optimizer = build_optimizer(recipe.optimizer, assembly, composition, hooks)
        self._scheduler = build_scheduler(
            recipe.schedule, self.optimizer, assembly.total_steps, assembly.steps_per_epoch
        )
        stepper = Stepper(assembly, composition, self.optimizer)
        # Through a lambda: the monitor reads the run, which is complete when it is made.
        self.run = run = build_run(
            assembly, composition, self.optimizer, hooks, lambda step: self._monitor.look(step), stepper, folder
        )
        self._monitor = Monitor(run, self.optimizer, hooks, stepper)
        self._preview = Preview(run)
        self._ema = AveragedWeights(run.student, recipe.ema) if recipe.ema is not None else None
        self._measuring = Measuring(run, data, self._monitor, self._ema)
        self._stopping = Stopping(recipe.early_stopping, run) if recipe.early_stopping is not None else None
        self._batch_transforms = build_batch_transforms(recipe.data.batch_transforms, data.info, run.seed, data.example)
        if self._ema is not None:
            run.trainer.add_event_handler(Phase.OPTIMIZER_STEPPED, _updater(self._ema))
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
            with explained(self.run):
                return self._fit()
        except StillhouseError:
            if self._made_folder and self.run.folder is not None:
                RunFolder(self.run.folder).discard()
            raise
        finally:
            self.close()

    def export(self, *, averaged: bool | None = None) -> nn.Module:
        """The student with what training added folded away: each plugin's ``export`` in turn, taps taken off.

        Args:
            averaged: give the student the averaged weights of ``[ema]``, for good; None: where they are what is measured.

        Raises:
            StillhouseError: a plugin gave something else than a module, or no average was kept.
        """
        if averaged and self._ema is None:
            raise StillhouseError("no averaged weights are kept", hint="the recipe needs an [ema] table")
        if self._ema is not None and (self._ema.instead if averaged is None else averaged):
            self._ema.put()
        for model in (self.run.student, self.run.teacher):
            if model is not None:
                plain(model, channels_last=self.recipe.speed.channels_last)
        return fold(self.assembly, self.walk)

    def _compile(self) -> None:
        """Compile what the recipe asks for, with a batch as the training has them."""
        if self.recipe.speed.compile != "none":
            share = max(2, self.recipe.data.batch_size // idist.get_world_size())
            batch = next(split(self.data.example(share), self.recipe.run.accumulate))
            self.run.composition.train()
            compile_models(self.run, self.walk.composition, batch, self.recipe.speed)

    def close(self) -> None:
        """Take the taps off the models and shut the loader's workers down; :meth:`fit` does so itself, also when it fails."""
        self.walk.composition.remove_taps()
        self.data.close()

    def _fit(self) -> Result:
        run, recipe, monitor = self.run, self.recipe, self._monitor
        if not (self._resume and run.folder is not None and RunFolder(run.folder).read_summary()):
            self._compile()  # before anything is written
        folder = self._open_folder()
        # Dropout must not be the same in every process; the first one's is that of a run of one process.
        rank = idist.get_rank()
        rng.seed_everything(rng.derive(run.seed, "training", *([rank] if rank else [])))
        run.composition.train()
        done = 0
        if folder is not None:
            checkpoints = Checkpoints(
                run, self.optimizer, self._scheduler, recipe.checkpoints, self._measuring, self._more()
            )
            if self._resume:
                done = checkpoints.resume()
                summary = folder.read_summary()
                if summary is not None and (done == run.total_steps or self._stopped):
                    return Result(self.export(), summary["metrics"], self._measuring.epochs, summary, run.folder)
            if parallel.is_first():
                monitor.open(folder.path, purge_step=done + 1 if self._resume else None)
            if done == 0:
                monitor.text("recipe", recipe.to_toml())
                monitor.text("composition", render_text(describe(self)))
            checkpoints.attach()
        started = time.perf_counter()
        try:
            # Whoever calls this under no_grad wants the run all the same: a teacher's training is started from anywhere.
            with self._progress.training(run, monitor, done), torch.enable_grad():
                if done < run.total_steps and not self._stopped:
                    stream: Iterable[Batch] = self.data.training(done)
                    if self._batch_transforms is not None:
                        stream = transformed(stream, self._batch_transforms, run.device, done, run.steps_per_epoch)
                    run.trainer.run(stream, max_epochs=run.epochs, epoch_length=run.steps_per_epoch)
            if self._stopped is not None:
                self._progress.say(
                    f"{recipe.run.name}: ended after epoch {self._stopped['epoch']}: {self._stopped['reason']}"
                )
            metrics = self._measuring.final()
            summary = self._summary(metrics, time.perf_counter() - started, done)
            if folder is not None:
                monitor.hparams(*_hparams(recipe, self.actives, metrics))
                if parallel.is_first():
                    write_json(folder.summary, summary)
                parallel.barrier()
        finally:
            monitor.close()
        return Result(self.export(), metrics, self._measuring.epochs, summary, run.folder)

    def _open_folder(self) -> RunFolder | None:
        if self.run.folder is None:
            return None
        folder = RunFolder(self.run.folder)
        lock = make_lock(self.recipe, self.actives, self.run.device, self.run.data)
        if self._resume:
            for note in folder.compare(self.recipe, lock):
                warnings.warn(f"{folder.path}: {note}", StillhouseWarning, stacklevel=2)
        parallel.barrier()  # every process has looked at the folder before one of them writes into it
        if parallel.is_first() and not folder.lock.exists():
            folder.create(self.recipe, lock, render_text(describe(self)))
            self._made_folder = True
        parallel.barrier()
        return folder

    def _after_epoch(self) -> None:
        self._measuring.after_epoch()
        if self._stopping is not None and self._measuring.is_fresh:
            self._stopping.after_epoch()
        self._monitor.figures(self._preview)

    @property
    def _stopped(self) -> dict[str, Any] | None:
        """When and why early stopping ended the run; None where it did not."""
        return None if self._stopping is None else self._stopping.stopped

    def _more(self) -> dict[str, Any]:
        """What else belongs into a checkpoint."""
        given = {"ema": self._ema, "early_stopping": self._stopping}
        return {name: thing for name, thing in given.items() if thing is not None}

    def _summary(self, metrics: dict[str, dict[str, float]], seconds: float, done: int) -> dict[str, Any]:
        run, score = self.run, self.run.task.score
        ended = enumerate(self._measuring.epochs, 1)
        values = {n: e[score] for n, e in ended if score in e and n * run.steps_per_epoch >= run.best_from}
        best = (max if run.task.score_mode == "max" else min)(values, key=values.__getitem__) if values else None
        return {
            "name": self.recipe.run.name,
            "seed": run.seed,
            "epochs": run.epochs,
            "steps": run.total_steps,
            "steps_done": run.trainer.state.iteration,
            "stopped": self._stopped,
            "metrics": metrics,
            "best": None if best is None else {"epoch": best, f"val/{score}": values[best]},
            "student_parameters": sum(p.numel() for p in run.student.parameters()),
            "plugins": [a.name for a in self.actives],
            "device": str(run.device),
            "processes": idist.get_world_size(),
            "resumed_at_step": done,
            "seconds": round(seconds, 3),
            "history": self._measuring.epochs,
        }


def _updater(ema: AveragedWeights) -> Callable[[], None]:
    return lambda: ema.update()


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
