"""From a recipe to a trained student: prepare everything, fault by fault and stage by stage, then fit."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from ignite.engine import Events
from torch import nn

from stillhouse import rng
from stillhouse.assembly import Assembly, assemble
from stillhouse.checkpoint import Checkpoints
from stillhouse.data import Data, load_data
from stillhouse.errors import StillhouseError, StillhouseWarning
from stillhouse.explain import describe, render_text
from stillhouse.folder import RunFolder, make_lock, write_json
from stillhouse.models import ModelSpec, build_model
from stillhouse.monitor import Monitor
from stillhouse.optim import build_optimizer, build_scheduler
from stillhouse.ordering import Active
from stillhouse.plugin import Plugin
from stillhouse.progress import Progress
from stillhouse.recipe import Recipe
from stillhouse.registry import activate, from_instances, plugins_in_use
from stillhouse.run import Run
from stillhouse.structure import unstructure
from stillhouse.tasks import build_task
from stillhouse.teacher import build_teacher
from stillhouse.trainer import build_evaluator, build_trainer, evaluate

__all__ = ["Result", "Training", "prepare", "train"]

_GIVEN = "given:"


@attrs.frozen(eq=False)
class Result:
    """What a run gave.

    Attributes:
        student: the trained model, in eval mode, on the run's device, without taps.
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

    Made by :func:`prepare`.

    Attributes:
        recipe: the resolved recipe.
        run: what plugins see.
        actives: the plugins in order, with the reason for each one's place.
        assembly: what the walk over the plugins saw.
        data: the batches.
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
    ) -> None:
        self.recipe = recipe
        self.run = run
        self.actives = list(actives)
        self.assembly = assembly
        self.data = data
        self._resume = resume
        self._progress = progress
        self._history = _History()
        hooks = assembly.hooks
        composition = assembly.composition
        self.optimizer = build_optimizer(recipe.optimizer, run, composition, hooks)
        self._scheduler = build_scheduler(recipe.schedule, self.optimizer, run.total_steps)
        run._trainer = build_trainer(run, composition, self.optimizer, self._scheduler, hooks)
        run._evaluator = build_evaluator(run, composition, hooks)
        self._hooks = hooks

    def fit(self) -> Result:
        """Train to the end, or on from the last checkpoint, and write the run's folder.

        Raises:
            StillhouseError: a loss or weight that is not finite, a damaged checkpoint, a folder that cannot be written.
        """
        try:
            return self._fit()
        finally:
            self.close()

    def close(self) -> None:
        """Shut the loader's workers down; :meth:`fit` does so itself."""
        self.data.close()

    def _fit(self) -> Result:
        run, recipe = self.run, self.recipe
        folder = self._open_folder()
        rng.seed_everything(rng.derive(run.seed, "training"))
        run.composition.train()
        checkpoints = None
        done = 0
        if folder is not None:
            checkpoints = Checkpoints(run, self.optimizer, self._scheduler, recipe.checkpoints, self._history)
            if self._resume:
                done = checkpoints.resume()
        monitor = Monitor(run, self.optimizer, self._hooks, purge_step=done + 1 if self._resume else None)
        monitor.attach()
        run.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: self._after_epoch(monitor))
        if checkpoints is not None:
            checkpoints.attach()
        if folder is not None and done == 0:
            monitor.text("recipe", recipe.to_toml())
            monitor.text("composition", render_text(describe(self)))
        started = time.perf_counter()
        try:
            with self._progress.training(run, monitor, done):
                if done < run.total_steps:
                    stream = self.data.training(done)
                    run.trainer.run(stream, max_epochs=run.epochs, epoch_length=run.steps_per_epoch)
            metrics = self._final_metrics(monitor)
            summary = self._summary(metrics, time.perf_counter() - started, done)
            if folder is not None:
                monitor.hparams(*_hparams(recipe, self.actives, metrics))
                write_json(folder.summary, summary)
        finally:
            monitor.close()
            run.composition.remove_taps()
        run.student.eval()
        return Result(run.student, metrics, self._history.epochs, summary, run.folder)

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

    def _after_epoch(self, monitor: Monitor) -> None:
        run = self.run
        if "val" in self.data.splits:
            values = evaluate(run, self.data.evaluation("val"))
            run.metrics["val"] = values
            monitor.metrics("val", values)
            self._history.epochs.append(values)
        monitor.figures()

    def _final_metrics(self, monitor: Monitor) -> dict[str, dict[str, float]]:
        metrics = {}
        for split in self.data.splits:
            if split == "train":
                continue
            metrics[split] = evaluate(self.run, self.data.evaluation(split))
            if split != "val":
                monitor.metrics(split, metrics[split])
        return metrics

    def _summary(self, metrics: dict[str, dict[str, float]], seconds: float, done: int) -> dict[str, Any]:
        run, score = self.run, self.run.task.score
        values = [e[score] for e in self._history.epochs if score in e]
        best = (max if run.task.score_mode == "max" else min)(values) if values else None
        return {
            "name": self.recipe.run.name,
            "seed": run.seed,
            "epochs": run.epochs,
            "steps": run.total_steps,
            "metrics": metrics,
            "best": None if best is None else {"epoch": values.index(best) + 1, f"val/{score}": best},
            "student_parameters": sum(p.numel() for p in run.student.parameters()),
            "plugins": [a.name for a in self.actives],
            "device": str(run.device),
            "resumed_at_step": done,
            "seconds": round(seconds, 3),
            "history": self._history.epochs,
        }


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


def prepare(
    recipe: Recipe,
    *,
    student: nn.Module | None = None,
    teacher: nn.Module | None = None,
    plugins: Sequence[Plugin] | None = None,
    out: str | Path | None = None,
    write: bool = True,
    resume: bool = False,
    progress: bool = False,
    train_teacher: bool = True,
) -> Training:
    """Check everything and build the run; nothing is written, except a teacher's training in the cache.

    Args:
        recipe: the run.
        student: instead of the recipe's; trained in place.
        teacher: instead of the recipe's; frozen in place.
        plugins: instead of the recipe's list.
        out: the run's folder; ``runs/NAME`` by default.
        write: False keeps the run in memory: no folder, no checkpoint, no TensorBoard.
        resume: go on in a folder that exists; start there if nothing was saved yet.
        progress: show progress bars and a summary on the terminal.
        train_teacher: False leaves a teacher given by recipe untrained (to explain a run before it is trained).

    Raises:
        StillhouseError: all faults of the first stage that has any: plugins, folder, data, layers, shapes.
    """
    actives = plugins_in_use(recipe.plugins) if plugins is None else from_instances(plugins)
    actives = activate(actives, has_teacher=recipe.teacher is not None or teacher is not None)
    recipe = _resolved(recipe, actives, student, teacher)
    folder = None
    if write:
        folder = Path(out) if out is not None else Path("runs") / recipe.run.name
        if not resume:
            RunFolder(folder).check_free()
    device = _device(recipe.run.device)
    if recipe.run.threads is not None:
        torch.set_num_threads(recipe.run.threads)
    shown = Progress(enabled=progress)
    task = build_task(recipe.task, recipe.base)
    data = load_data(recipe.data, seed=recipe.run.seed, base=recipe.base, pin=device.type == "cuda")
    try:
        if student is None:
            student = build_model(
                recipe.student,
                data.info,
                seed=rng.derive(recipe.run.seed, "student"),
                where="student",
                base=recipe.base,
            )
        if teacher is None:
            teacher = build_teacher(recipe, data.info, _teacher_trainer(shown) if train_teacher else None)
        run = Run(
            recipe=recipe,
            seed=recipe.run.seed,
            device=device,
            student=student.to(device),
            teacher=teacher.to(device) if teacher is not None else None,
            task=task,
            data=data.info,
            epochs=recipe.run.epochs,
            steps_per_epoch=data.steps_per_epoch,
            folder=folder,
        )
        precision: torch.dtype = getattr(torch, recipe.run.precision)
        assembly = assemble(run, actives, data.example(), precision)
        return Training(recipe, run, actives, data, assembly, resume=resume, progress=shown)
    except BaseException:
        data.close()
        raise


def _resolved(
    recipe: Recipe, actives: Sequence[Active], student: nn.Module | None, teacher: nn.Module | None
) -> Recipe:
    """The recipe as it is run: plugins in order with every option, and what Python handed over named as such."""
    tables = tuple({"use": a.use, **unstructure(a.plugin)} for a in sorted(actives, key=lambda a: a.listed))
    recipe = attrs.evolve(recipe, plugins=tables)
    if student is not None:
        recipe = attrs.evolve(recipe, student=ModelSpec(model=_GIVEN + type(student).__qualname__))
    elif recipe.student.model.startswith(_GIVEN):
        raise StillhouseError(
            "this run was given its student from Python", where="student.model", hint="train(recipe, student=...)"
        )
    if teacher is not None:
        from stillhouse.recipe import TeacherSpec

        recipe = attrs.evolve(recipe, teacher=TeacherSpec(model=_GIVEN + type(teacher).__qualname__, random=True))
    elif recipe.teacher is not None and (recipe.teacher.model or "").startswith(_GIVEN):
        raise StillhouseError(
            "this run was given its teacher from Python", where="teacher.model", hint="train(recipe, teacher=...)"
        )
    return recipe


def _teacher_trainer(shown: Progress) -> Any:
    def train_run(recipe: Recipe, folder: Path) -> Result:
        shown.say(f"training the teacher {recipe.run.name!r} once; it is kept in {folder}")
        return train(recipe, out=folder, resume=True, progress=shown.enabled)

    return train_run


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise StillhouseError(
            f"{name!r} is no device of this machine: {first}", where="run.device", hint="auto, cpu or cuda"
        ) from None
    return device


def train(
    recipe: Recipe,
    *,
    student: nn.Module | None = None,
    teacher: nn.Module | None = None,
    plugins: Sequence[Plugin] | None = None,
    out: str | Path | None = None,
    write: bool = True,
    resume: bool = False,
    progress: bool = False,
) -> Result:
    """Train a recipe's student: :func:`prepare`, then :meth:`Training.fit`.

    Args:
        recipe: the run: ``Recipe.load("digits-vkd.toml")``.
        student: a module instead of the recipe's; trained in place.
        teacher: a module instead of the recipe's; frozen in place.
        plugins: instances instead of the recipe's list: ``[Features(...), Projector(kind="linear")]``.
        out: the run's folder; ``runs/NAME`` by default.
        write: False writes nothing.
        resume: go on in a folder that exists; a run that is complete gives its result again.
        progress: show progress on the terminal.

    Raises:
        StillhouseError: bad input, named by file, key, layer or shape.
    """
    return prepare(
        recipe,
        student=student,
        teacher=teacher,
        plugins=plugins,
        out=out,
        write=write,
        resume=resume,
        progress=progress,
    ).fit()
