"""From a recipe to a trained student: what must be trained first is listed and trained, then the run is built and fitted."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.metrics import Metric
from torch import Tensor, nn

from stillhouse.config.recipe import Recipe
from stillhouse.config.teacher import check_teacher_names
from stillhouse.config.trust import trusting
from stillhouse.contract.plugin import Plugin
from stillhouse.data.given import read_given
from stillhouse.distributed import processes as parallel
from stillhouse.errors import StillhouseError, StillhouseWarning
from stillhouse.memo import share_memo
from stillhouse.models.scripted import refuse_scripted, wrap_scripted
from stillhouse.registry.plugins import activate, from_instances, plugins_in_use
from stillhouse.teachers.prerequisites import Prerequisite, get_teacher
from stillhouse.teachers.sources import load_trained
from stillhouse.teachers.store import get_or_make, naming_disk_errors
from stillhouse.training.building import build_training
from stillhouse.training.callbacks import Callback, attach_callbacks
from stillhouse.training.checks import check_sources, check_written, list_facts_alike
from stillhouse.training.devices import find_device
from stillhouse.training.folder import RunFolder
from stillhouse.training.folder_lock import FolderLock
from stillhouse.training.parent import check_parent
from stillhouse.training.parts import Parts, gather, resolve
from stillhouse.training.progress import Detail, Progress
from stillhouse.training.result import Result
from stillhouse.training.session import Training

__all__ = ["Result", "Training", "prepare", "train"]


def prepare(
    recipe: Recipe,
    *,
    data: Any = None,
    student: nn.Module | None = None,
    teacher: nn.Module | None = None,
    teachers: Mapping[str, nn.Module] | None = None,
    plugins: Sequence[Plugin] | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    callbacks: Sequence[Callback] = (),
    out: str | Path | None = None,
    write: bool = True,
    resume: bool = False,
    progress: Detail = False,
    train_teacher: bool = True,
    trust: bool = False,
) -> Training:
    """Check everything and build the run; nothing is written, except a teacher's training in the cache.

    Args:
        recipe: the run.
        data: instead of the recipe's: see :func:`stillhouse.data.given.read_given`.
        student: instead of the recipe's; trained in place.
        teacher: instead of the recipe's; frozen in place.
        teachers: further ones by name, beside the recipe's ``[teachers.NAME]`` or instead of them; frozen in place.
        plugins: instead of the recipe's list.
        loss: instead of the task's: ``loss(output, targets)``, a scalar, the mean over the samples.
        metrics: ignite's, measured beside the task's, and fed as those are: :meth:`stillhouse.tasks.Task.metrics`.
        callbacks: ignite's handlers, attached to the trainer, or pairs of an event and a function.
        out: the run's folder; ``runs/NAME`` by default.
        write: False keeps the run in memory: no folder, no checkpoint, no TensorBoard.
        resume: go on in a folder that exists; start there if nothing was saved yet.
        progress: show progress on the terminal; ``"verbose"``: each epoch, with its losses and metrics.
        train_teacher: False leaves what another recipe gives, a teacher or a start, untrained (to explain a run before it is trained).
        trust: import what a run's folder that gives a teacher names by ``package.module:attribute`` as well.

    Raises:
        StillhouseError: all faults of the first stage that has any: plugins, folder, data, layers, shapes.
    """
    actives = plugins_in_use(recipe.plugins, recipe.base) if plugins is None else from_instances(plugins)
    actives = activate(actives, has_teacher=recipe.teacher is not None or teacher is not None)
    check_teacher_names(teachers or (), has_first=recipe.teacher is not None or teacher is not None)
    refuse_scripted(student)
    handed_over = wrap_scripted({**({} if teacher is None else {"teacher": teacher}), **(teachers or {})})
    given = None if data is None else read_given(data)
    recipe = resolve(recipe, actives, student, handed_over, loss, given)
    check_parent(recipe)
    folder = None
    if write:
        folder = Path(out) if out is not None else Path("runs") / recipe.run.name
        check_sources(recipe, folder)
        with trusting(trust):
            RunFolder(folder).check_links()
        FolderLock(folder).check()
        RunFolder(folder).check(resume=resume)
        check_written(recipe)
    device = parallel.join(find_device(recipe.run.device))
    parallel.check_same(list_facts_alike(recipe, actives))
    if recipe.run.threads is not None:
        torch.set_num_threads(recipe.run.threads)
    shown = Progress(progress if parallel.is_first() else False)
    with share_memo(), trusting(trust):  # what this run and those before it have in common is read once
        parts = gather(recipe, actives, device, shown, student=student, teachers=handed_over, loss=loss, given=given)
        for note in parts.data.notes:
            warnings.warn(note, StillhouseWarning, stacklevel=2)
        if train_teacher:
            for need in _list_missing(parts):
                _train_first(need, shown)
        trained = load_trained(recipe, parts.needs, parts.student, parts.teachers)
        training = build_training(
            parts, folder=folder, resume=resume, inspect_only=not train_teacher, trained=trained, metrics=metrics
        )
        attach_callbacks(training.run, callbacks)
        return training


def _list_missing(parts: Parts, *, later: bool = False) -> list[Prerequisite]:
    """What has to be trained before the run of ``parts``, each once, in order.

    A run that would have to wait for another one's training is rehearsed before: nothing is trained for what cannot be.

    Args:
        parts: the run that asks.
        later: it waits in any case.

    Raises:
        StillhouseError: what is wrong with the run, or with one of those before it.
    """
    missing = [need for need in parts.needs if not need.is_trained()]
    if not missing and not later:
        return []
    reads_teacher = _rehearse(parts)
    found: list[Prerequisite] = []
    for need in missing:
        if get_teacher(need.role) and not reads_teacher:
            continue
        if need.has_own or later or found:
            try:
                found += _list_missing(parts.gather_before(need), later=later or bool(found))
            except StillhouseError as error:
                raise error.within(f"{need.role}.recipe") from error.__cause__
        found.append(need)
    return list({need.folder: need for need in found}.values())


def _rehearse(parts: Parts) -> bool:
    """Build the run before anything is trained for it, and let go of that; whether some plugin reads the teacher.

    What was built is not kept with the trained weights loaded into it: plugins start from the teacher's values (a cache of
    its answers, axes of its features, statistics of two samples), and nothing tells which of them did. Walked over
    again, a run is the same whether its teacher was found or trained a moment ago, for one more pass of two samples.
    """
    training = build_training(parts.copy(), folder=None, resume=False, inspect_only=True, trained=False)
    training.close()
    return training.walk.composition.reads_teacher


def _train_first(need: Prerequisite, shown: Progress) -> None:
    """Train what another run asks for, or go on where that was left; of two runs that ask at once the second waits."""

    def make() -> bool:
        shown.say(f"training {need.recipe.run.name!r} first, once; it is kept in {need.folder}")
        train(need.recipe, data=need.given, out=need.folder, resume=True, progress=shown.detail)
        return True

    with naming_disk_errors(need.folder, "the trained recipe", "what was trained so far is kept"):
        get_or_make(need.folder, lambda: need.is_trained() or None, make, together=True)


def train(
    recipe: Recipe,
    *,
    data: Any = None,
    student: nn.Module | None = None,
    teacher: nn.Module | None = None,
    teachers: Mapping[str, nn.Module] | None = None,
    plugins: Sequence[Plugin] | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    callbacks: Sequence[Callback] = (),
    out: str | Path | None = None,
    write: bool = True,
    resume: bool = False,
    progress: Detail = False,
    trust: bool = False,
) -> Result:
    """Train a recipe's student: :func:`prepare`, then :meth:`Training.fit`.

    Args:
        recipe: the run: ``Recipe.load("digits-vkd.toml")``.
        data: instead of the recipe's: a map-style data set, which is split here; a loader; a pair (training, validation), three
            of them with test, or ``{"train": ..., "val": ...}``.
        student: a module instead of the recipe's; trained in place.
        teacher: a module instead of the recipe's; frozen in place.
        teachers: further modules by name, ``{"assistant": module}``; frozen in place.
        plugins: instances instead of the recipe's list: ``[Features(...), Projector(kind="linear")]``.
        loss: instead of the task's: ``loss(output, targets)``, a scalar, the mean over the samples.
        metrics: ignite's, measured beside the task's: ``{"mcc": Metric}``.
        callbacks: ignite's handlers, or pairs of an event and a function: ``[(Events.EPOCH_COMPLETED, tell)]``.
        out: the run's folder; ``runs/NAME`` by default.
        write: False writes nothing.
        resume: go on in a folder that exists; a run that is complete gives its result again.
        progress: show progress on the terminal; ``"verbose"``: each epoch, with its losses and metrics.
        trust: import what a run's folder that gives a teacher names by ``package.module:attribute`` as well.

    Raises:
        StillhouseError: bad input, named by file, key, layer or shape.
    """
    return prepare(
        recipe,
        data=data,
        student=student,
        teacher=teacher,
        teachers=teachers,
        plugins=plugins,
        loss=loss,
        metrics=metrics,
        callbacks=callbacks,
        out=out,
        write=write,
        resume=resume,
        progress=progress,
        trust=trust,
    ).fit()
