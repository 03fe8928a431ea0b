"""A run that is ready: trained to its end, or on from its last checkpoint, and summed up; its observers do the rest."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
import torch
from ignite.engine import Events
from ignite.metrics import Metric
from torch import nn

from stillhouse import seeds as rng
from stillhouse.assembly.evaluator import build_evaluator
from stillhouse.assembly.export import fold
from stillhouse.assembly.failures import explained
from stillhouse.assembly.walk import Walk
from stillhouse.assembly.watch import watch_first_steps
from stillhouse.config.home import shorten_home
from stillhouse.contract.assembly import Assembly
from stillhouse.contract.batch import Batch
from stillhouse.data.base import Data
from stillhouse.distributed import processes as parallel
from stillhouse.errors import StillhouseError, StillhouseWarning
from stillhouse.files import clear_temporaries, replace_nonfinite, write_json
from stillhouse.loop.engines import build_run
from stillhouse.loop.stepper import Stepper, split
from stillhouse.registry.order import Active
from stillhouse.training.callbacks import attach_metrics
from stillhouse.training.clock import Clock
from stillhouse.training.compilation import compile_models, compile_step, plain
from stillhouse.training.compiled_step import CompiledStep
from stillhouse.training.explanation import describe, render_text
from stillhouse.training.folder import RunFolder
from stillhouse.training.folder_lock import FolderLock
from stillhouse.training.lock import make_lock
from stillhouse.training.lost_processes import naming_lost_processes
from stillhouse.training.observers import build_observers
from stillhouse.training.optimizers import build_optimizer
from stillhouse.training.parent import begin
from stillhouse.training.progress import Progress
from stillhouse.training.recomputation import keep_gradients
from stillhouse.training.result import Result, restore_nans
from stillhouse.training.schedulers import build_scheduler
from stillhouse.training.score import best_of, check_named, find_score
from stillhouse.training.student_draws import draw_by_step

if TYPE_CHECKING:
    from stillhouse.data.batch_transforms import BatchTransforms

__all__ = ["Result", "Training"]


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
        optimizer: torch's, with the student's parameter groups and one for each plugin that has parameters.
        clock: where the time of its steps goes.
        observers: the engine's own: what measures, logs, averages, ends early, writes checkpoints.
    """

    def __init__(
        self,
        assembly: Assembly,
        walk: Walk,
        actives: Sequence[Active],
        data: Data,
        batch_transforms: BatchTransforms | None = None,
        *,
        folder: Path | None,
        resume: bool,
        progress: Progress,
        sources: Mapping[str, str],
        teacher_is_trained: bool = True,
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        self.recipe = recipe = assembly.recipe
        self._sources = sources
        self.actives = list(actives)
        self.assembly, self.walk = assembly, walk
        self.data = data
        self.teacher_is_trained = teacher_is_trained
        self._resume = resume
        self._made_folder = self._is_closed = False
        self._compiled: list[str] = []
        self._compiled_step: CompiledStep | None = None
        hooks, composition = walk.hooks, walk.composition
        check_named(recipe.checkpoints, assembly, hooks, metrics or ())
        self.optimizer = build_optimizer(recipe.optimizer, assembly, composition, hooks)
        moves = build_scheduler(
            recipe.schedule,
            self.optimizer,
            assembly.total_steps,
            assembly.steps_per_epoch,
            mode=find_score(recipe.checkpoints, assembly.task).mode,
            base=recipe.base,
        )
        self._stepper = stepper = Stepper(assembly, composition, self.optimizer)
        self.clock = Clock(composition, hooks, assembly.device)
        self.observers = build_observers(
            recipe, composition, data, hooks, self.optimizer, moves, stepper, progress, folder, self.clock
        )
        hooks.observe(self.observers)
        evaluator = build_evaluator(assembly, composition, hooks)
        attach_metrics(evaluator, metrics or {}, list(assembly.task.metrics(assembly.data)))
        log = self.observers.scalars.log_step
        self.run = build_run(assembly, composition, self.optimizer, hooks, log, stepper, folder, evaluator)
        self._batch_transforms = batch_transforms

    def fit(self) -> Result:
        """Train to the end, or on from the last checkpoint, and write the run's folder.

        Raises:
            StillhouseError: a loss or weight that is not finite, a damaged checkpoint, a folder that cannot be written, or in
            which somebody else trains; it has ended already.
        """
        if self._is_closed:
            raise StillhouseError("has ended, or failed", where="this training", hint="prepare(...) makes another")
        folder = self.run.folder
        lock = None if folder is None else FolderLock(folder)
        try:
            if lock is not None:
                lock.acquire()
            with naming_lost_processes(self.recipe), explained(self.run):
                return self._fit()
        except StillhouseError:
            if self._made_folder and folder is not None:
                RunFolder(folder).discard()
            raise
        finally:
            if lock is not None:
                lock.release()
            self.close()

    def export(self, *, averaged: bool | None = None) -> nn.Module:
        """The student with what training added folded away: each plugin's ``export`` in turn, taps taken off.

        Args:
            averaged: give the student the averaged weights of ``[ema]``, for good; None: where they are what is measured.

        Raises:
            StillhouseError: a plugin gave something else than a module, or no average was kept.
        """
        ema = self.observers.ema
        if averaged and ema is None:
            raise StillhouseError("no averaged weights are kept", hint="the recipe needs an [ema] table")
        if ema is not None and (ema.instead if averaged is None else averaged):
            ema.put()
        for model in (self.run.student, *self.run.all_teachers.values()):
            plain(model, channels_last=self.recipe.speed.channels_last)
        return fold(self.assembly, self.walk)

    def _compile(self) -> None:
        """Compile what the recipe asks for, with a batch as the training has them."""
        if self.recipe.speed.compile != "none":
            share = max(2, self.recipe.data.batch_size // idist.get_world_size())
            batch = split(self.data.example(share), self.recipe.run.accumulate)[0]
            self.run.composition.train()
            run, composition, spec = self.run, self.walk.composition, self.recipe.speed
            if spec.compile != "step":
                self._compiled = compile_models(run, composition, batch, spec)
            elif compiled := compile_step(run, composition, self.walk.hooks, batch, spec):
                self._compiled_step = compiled
                self._stepper.go_forward_with(compiled)

    def close(self) -> None:
        """Leave plain models, without taps, and shut the loader's workers down; :meth:`fit` does so itself, also when it fails."""
        self._is_closed = True
        self.walk.composition.remove_taps()
        keep_gradients(self.assembly.student)
        for name, model in {"student": self.assembly.student, **self.assembly.all_teachers}.items():
            if name in self._compiled:
                plain(model)
        self.data.close()

    def _fit(self) -> Result:
        run, checkpoints = self.run, self.observers.checkpoints
        if not (self._resume and run.folder is not None and RunFolder(run.folder).read_summary()):
            self._compile()  # before anything is written
        folder = self._open_folder()
        # Dropout must not be the same in every process; the first one's is that of a run of one process.
        rank = idist.get_rank()
        rng.seed_everything(rng.derive(run.seed, "training", *([rank] if rank else [])))
        run.composition.train()
        done = 0
        if folder is not None and checkpoints is not None and self._resume:
            done = checkpoints.resume(run)
            finished = folder.read_summary()
            if finished is not None and (done == run.total_steps or self.observers.stopped):
                return Result(self.export(), restore_nans(finished["metrics"]), self._history, finished, run.folder)
        done = done or begin(run, self.observers, self._stepper.scaler)
        started = time.perf_counter()
        try:
            # Whoever calls this under no_grad wants the run all the same: a teacher's training is started from anywhere.
            watch = nullcontext() if self._compiled_step else watch_first_steps(self.walk.composition)
            compiled = self._compiled_step is not None or "student" in self._compiled
            with torch.enable_grad(), watch, draw_by_step(run, rank, compiled=compiled):
                self._train(done)
        finally:
            self.observers.close()
        # Measured when the run completed; one that was interrupted did not.
        metrics = self.observers.evaluation.final(run)
        summary: dict[str, Any] = replace_nonfinite(self._summary(metrics, time.perf_counter() - started, done))
        if folder is not None:
            parallel.in_first(lambda: write_json(folder.summary, summary))
        return Result(self.export(), metrics, self._history, summary, run.folder)

    def _train(self, done: int) -> None:
        """Run the trainer from step ``done`` on. A run with nothing left to train, but to measure, starts and completes."""
        run = self.run
        if done == run.total_steps or self.observers.stopped:
            run.trainer.fire_event(Events.STARTED)
            run.trainer.fire_event(Events.COMPLETED)
            return
        stream = self.clock.read(self._stream(done), done)
        run.trainer.run(stream, max_epochs=run.epochs, epoch_length=run.steps_per_epoch)

    def _stream(self, done: int) -> Iterable[Batch]:
        """The batches from step ``done`` on, as the trainer gets them."""
        run = self.run
        stream: Iterable[Batch] = self.data.training(done)
        if self._batch_transforms is not None:
            from stillhouse.data.batch_transforms import transform_batches  # imported with the transforms alone

            stream = transform_batches(stream, self._batch_transforms, run.device, done, run.steps_per_epoch)
        return stream

    def first_batch(self) -> Batch:
        """The batch that the run begins with."""
        return next(iter(self._stream(0)))

    def make_lock(self) -> dict[str, Any]:
        """The run's lock: see :mod:`stillhouse.training.lock`."""
        run = self.run
        return make_lock(self.recipe, self.actives, run.device, run.data, run.task, self._sources)

    def _open_folder(self) -> RunFolder | None:
        if self.run.folder is None:
            return None
        folder = RunFolder(self.run.folder)
        # Once more, now that nobody else can write there: somebody may have trained since it was looked at.
        parallel.in_first(lambda: folder.check(resume=self._resume))
        if parallel.is_first():
            clear_temporaries(folder.path)
        lock = self.make_lock()
        if self._resume:
            for note in folder.compare(self.recipe, lock):
                warnings.warn(f"{folder.path}: {note}", StillhouseWarning, stacklevel=2)
        parallel.barrier()  # every process has looked at the folder before one of them writes into it
        if not parallel.broadcast_object(folder.lock.exists()):
            self._made_folder = parallel.is_first()
            parallel.in_first(lambda: folder.create(self.recipe, lock, render_text(shorten_home(describe(self)))))
        return folder

    @property
    def _history(self) -> list[dict[str, float]]:
        return self.observers.evaluation.history

    def _summary(self, metrics: dict[str, dict[str, float]], seconds: float, done: int) -> dict[str, Any]:
        run, best = self.run, best_of(self.run, self._history)
        score = find_score(self.recipe.checkpoints, run.task).name
        return {
            "name": self.recipe.run.name,
            "seed": run.seed,
            "epochs": run.epochs,
            "steps": run.total_steps,
            "steps_done": run.trainer.state.iteration,
            "stopped": self.observers.stopped,
            "metrics": metrics,
            "best": None if best.epoch is None else {"epoch": best.epoch, f"val/{score}": best.value},
            "student_parameters": sum(p.numel() for p in run.student.parameters()),
            "plugins": [a.name for a in self.actives],
            "device": str(run.device),
            "processes": idist.get_world_size(),
            "parent": self.recipe.run.parent,
            "resumed_at_step": done,
            "seconds": round(seconds, 3),
            **({} if self.observers.watcher is None else self.observers.watcher.summarise()),
            "history": self._history,
        }
