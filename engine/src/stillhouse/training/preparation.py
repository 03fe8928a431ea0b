"""From a recipe to a trained student: everything is checked and built first, stage by stage, then fitted."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import nn

from stillhouse.config.model import GIVEN, ModelSpec
from stillhouse.config.recipe import Recipe, TeacherSpec
from stillhouse.contract.plugin import Plugin
from stillhouse.contract.run import Run
from stillhouse.data.loader import load_data
from stillhouse.distributed import processes as parallel
from stillhouse.distributed.fsdp import shard
from stillhouse.errors import StillhouseError
from stillhouse.loop.assembly import assemble
from stillhouse.loop.failures import explained
from stillhouse.registry.order import Active
from stillhouse.registry.plugins import activate, from_instances, plugins_in_use
from stillhouse.registry.tasks import build_task
from stillhouse.teachers.sources import First, build_student, build_teacher
from stillhouse.training.checks import check_options
from stillhouse.training.folder import RunFolder, flat
from stillhouse.training.progress import Progress
from stillhouse.training.session import Result, Training
from stillhouse.version import __version__

__all__ = ["Result", "Training", "find_device", "prepare", "train"]


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
        train_teacher: False leaves what another recipe gives, a teacher or a start, untrained (to explain a run before it is trained).

    Raises:
        StillhouseError: all faults of the first stage that has any: plugins, folder, data, layers, shapes.
    """
    actives = plugins_in_use(recipe.plugins, recipe.base) if plugins is None else from_instances(plugins)
    actives = activate(actives, has_teacher=recipe.teacher is not None or teacher is not None)
    recipe = _resolved(recipe, actives, student, teacher)
    folder = None
    if write:
        folder = Path(out) if out is not None else Path("runs") / recipe.run.name
        if resume:
            RunFolder(folder).check_resumable()
        else:
            RunFolder(folder).check_free()
    device = parallel.join(find_device(recipe.run.device))
    parallel.same_everywhere(_facts(recipe, actives))
    if recipe.run.threads is not None:
        torch.set_num_threads(recipe.run.threads)
    shown = Progress(enabled=progress and parallel.is_first())
    starts = reads = None
    if train_teacher:

        @cache
        def look() -> bool:
            """Go through all stages with what is not trained yet; whether some plugin reads the teacher."""
            walked = prepare(
                recipe,
                student=copy.deepcopy(student),
                teacher=copy.deepcopy(teacher),
                plugins=plugins,
                write=False,
                train_teacher=False,
            )
            walked.close()
            return walked.assembly.composition.reads_teacher

        starts, reads = First(lambda: look() or True, _trainer(shown)), First(look, _trainer(shown))
    task = build_task(recipe.task, recipe.base)
    data = load_data(recipe.data, task, seed=recipe.run.seed, base=recipe.base, pin=device.type == "cuda")
    try:
        if student is None:
            student = build_student(recipe, data.info, task.outputs(data.info), starts)
        trained = True
        if teacher is None:
            teacher, trained = build_teacher(recipe, data.info, task.outputs(data.info), reads)
        _spread(recipe, device, student, teacher)
        run = Run(
            recipe=recipe,
            seed=recipe.run.seed,
            device=device,
            student=student,
            teacher=teacher,
            task=task,
            data=data.info,
            epochs=recipe.run.epochs,
            steps_per_epoch=data.steps_per_epoch,
            folder=folder,
            batches=data,
            dry=not train_teacher,
            progress=shown,
        )
        check_options(run, actives)
        precision: torch.dtype = getattr(torch, recipe.run.precision)
        with explained(run):
            student.to(device)
            if teacher is not None:
                teacher.to(device)
            assembly = assemble(run, actives, data.example(), precision)
        return Training(recipe, run, actives, data, assembly, resume=resume, progress=shown, teacher_is_trained=trained)
    except BaseException:
        data.close()
        raise


def _facts(recipe: Recipe, actives: Sequence[Active]) -> dict[str, Any]:
    """What every process of a run has to have alike."""
    facts: dict[str, Any] = {"stillhouse": __version__, "torch": torch.__version__}
    facts |= {f"plugin {a.name}": f"{a.use} of {a.distribution} {a.version}" for a in actives}
    tables = {f"the recipe's {key}": value for key, value in flat(recipe.to_dict()).items() if key != "run.base"}
    return {"the plugins' list": [a.name for a in actives], **facts, **tables}


def _spread(recipe: Recipe, device: torch.device, student: nn.Module, teacher: nn.Module | None) -> None:
    """What several processes ask of the models before they are assembled: FSDP2's shards, and SyncBatchNorm."""
    spec = recipe.distributed
    if spec.sync_batchnorm:
        if device.type != "cuda":
            raise StillhouseError(
                "SyncBatchNorm works on CUDA only",
                where="distributed.sync_batchnorm",
                hint="a student without BatchNorm has no such difference: see norm = 'group' of our models",
            )
        for name, child in student.named_children():
            setattr(student, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))  # type: ignore[no-untyped-call]  # torch gives it no types
    if spec.shard in ("student", "both"):
        shard(student, device, "student")
    if spec.shard in ("teacher", "both") and teacher is not None:
        shard(teacher.requires_grad_(False), device, "teacher")


def _resolved(
    recipe: Recipe, actives: Sequence[Active], student: nn.Module | None, teacher: nn.Module | None
) -> Recipe:
    """The recipe as it is run: plugins in order with every option, and what Python handed over named as such."""
    tables = tuple(a.table for a in sorted(actives, key=lambda a: a.listed))
    recipe = attrs.evolve(recipe, plugins=tables)
    if student is not None:
        recipe = attrs.evolve(recipe, student=ModelSpec(model=GIVEN + type(student).__qualname__))
    elif recipe.student.model.startswith(GIVEN):
        raise StillhouseError(
            "this run was given its student from Python", where="student.model", hint="train(recipe, student=...)"
        )
    if teacher is not None:
        recipe = attrs.evolve(recipe, teacher=TeacherSpec(model=GIVEN + type(teacher).__qualname__, random=True))
    elif recipe.teacher is not None and (recipe.teacher.model or "").startswith(GIVEN):
        raise StillhouseError(
            "this run was given its teacher from Python", where="teacher.model", hint="train(recipe, teacher=...)"
        )
    return recipe


def _trainer(shown: Progress) -> Callable[[Recipe, Path], Result]:
    def train_first(recipe: Recipe, folder: Path) -> Result:
        shown.say(f"training {recipe.run.name!r} first, once; it is kept in {folder}")
        return train(recipe, out=folder, resume=True, progress=shown.enabled)

    return train_first


def find_device(name: str) -> torch.device:
    """The device that a recipe's ``run.device`` names.

    Raises:
        StillhouseError: this machine has no such device.
    """
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
