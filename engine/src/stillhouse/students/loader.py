"""The student of a run's folder, as it was trained or as the plugins' ``export`` leaves it.

The teacher is neither trained nor loaded: evaluation and export do not need it. Where a plugin takes part (it gives
metrics, or folds a module away), the whole composition is built as at the start, with a randomly initialised teacher
of the right shapes, and then filled from the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import nn

from stillhouse import seeds as rng
from stillhouse.assembly.export import fold
from stillhouse.assembly.walk import Walk, assemble
from stillhouse.config.kept import KeptWeights
from stillhouse.config.model import ModelSpec
from stillhouse.config.teacher import TeacherSpec
from stillhouse.config.trust import is_trusting
from stillhouse.contract.assembly import Assembly, Rows
from stillhouse.contract.plugin import Plugin
from stillhouse.contract.task import Task
from stillhouse.errors import StillhouseError
from stillhouse.models.builder import build_model
from stillhouse.models.weights import load_state, read_averaged_state, read_checkpoint, select_model_state
from stillhouse.registry.hooks import Hooks
from stillhouse.registry.order import Active
from stillhouse.registry.plugins import activate, from_instances, plugins_in_use
from stillhouse.students.data import MeasuredData, open_data
from stillhouse.students.saved_run import SavedRun, guarded, open_run
from stillhouse.tasks.partly_labelled import fit_task
from stillhouse.teachers.prerequisites import find_prerequisite, get_role
from stillhouse.teachers.sources import build_option, build_teacher

__all__ = ["build_stand_in", "build_student", "fold_student", "load_student", "rebuild", "select_plugins"]

_UNREADABLE = "train the run again, or take the other one with --weights"


def build_student(saved: SavedRun, given: nn.Module | None = None, *, fill: bool = True) -> nn.Module:
    """Build the student as it was trained, before plugins fold modules away: on the CPU, with the run's weights.

    Args:
        saved: the run.
        given: a module to fill, for a run whose student came from Python.
        fill: False leaves the weights for later: a plugin's ``adapt`` changes the student first.

    Raises:
        StillhouseError: the model cannot be built, or the weights do not fit it.
    """
    if given is not None:
        if fill:
            load_state(given, _read_student_state(saved), str(saved.checkpoint))
        return given
    spec = saved.recipe.student
    if spec.given:
        raise StillhouseError(
            f"the run's student, {spec.model}, came from Python",
            where=str(saved.folder),
            hint=f"from Python again: stillhouse.load_student({str(saved.folder)!r}, student=module)",
        )
    spec = spec.without_start()
    # Published weights would be fetched to be written over at once. With them a few models are built otherwise:
    # inception_v3 scales its input, which no key of its weights shows; others' keys do, and those are built as written.
    fetched = spec.pretrained and fill  # without a look at the weights it stays as written
    if fetched and spec.model.partition(":")[0] in ("torchvision", "timm") and "inception_v3" not in spec.model:
        try:
            return _fill(saved, attrs.evolve(spec, pretrained=False), fill=fill)
        except StillhouseError:
            pass
    return _fill(saved, spec, fill=fill)


def _fill(saved: SavedRun, spec: ModelSpec, *, fill: bool) -> nn.Module:
    student = build_model(
        spec,
        saved.info,
        seed=rng.derive(saved.recipe.run.seed, "student"),
        where="student",
        base=saved.recipe.base,
        outputs=saved.task.outputs(saved.info),
    )
    if fill:
        load_state(student, _read_student_state(saved), str(saved.checkpoint))
    return student


def _read_state(saved: SavedRun) -> dict[str, Any]:
    """Read the composition's state dict; with the student's averaged weights, where the run was measured with those."""
    found = read_checkpoint(saved.checkpoint, _UNREADABLE, own=True)
    if saved.averaged:
        read_averaged_state(found, str(saved.checkpoint))  # says so where there are none
    return dict(select_model_state(found, averaged=saved.averaged or None, where=str(saved.checkpoint)))


def _read_student_state(saved: SavedRun) -> dict[str, Any]:
    state = _read_state(saved)
    return {key.removeprefix("student."): value for key, value in state.items() if key.startswith("student.")}


def select_plugins(saved: SavedRun, hook: str, given: Sequence[Plugin] | None = None) -> list[Active]:
    """Return the run's plugins in order where any of them implements ``hook`` or ``adapt``; else none.

    A student that ``adapt`` changed can only be filled after ``adapt`` has run.

    Raises:
        StillhouseError: a plugin is not installed, or broken.
    """
    actives = plugins_in_use(saved.recipe.plugins, saved.recipe.base) if given is None else from_instances(given)
    actives = activate(actives, has_teacher=saved.recipe.teacher is not None)
    hooks = Hooks(actives)
    return actives if hooks.calls(hook) or hooks.calls("adapt") else []


def rebuild(
    saved: SavedRun,
    data: MeasuredData,
    actives: Sequence[Active],
    *,
    device: torch.device,
    precision: torch.dtype = torch.float32,
    student: nn.Module | None = None,
    teacher: nn.Module | None = None,
    teachers: Mapping[str, nn.Module] | None = None,
) -> tuple[Assembly, Walk]:
    """The run's student, and the modules of ``actives``, filled from the checkpoint; the assembly has no teachers.

    Args:
        saved: the run.
        data: the data of the evaluation; two of its samples go through the models.
        actives: the run's plugins, or none where no hook is needed.
        device: the models' device.
        precision: dtype of the student's forward passes.
        student: a module to fill, for a run that was given its student.
        teacher: one of the right shapes, for a run that was given its teacher.
        teachers: further ones likewise, by name.

    Raises:
        StillhouseError: a model cannot be built, or the weights do not fit the composition.
    """
    task = fit_task(saved.task, saved.info, saved.recipe.data)
    student = build_student(saved, student, fill=not Hooks(actives).calls("adapt"))
    stand_ins = {**({} if teacher is None else {"teacher": teacher}), **(teachers or {})}
    if actives:
        missing = [name for name in saved.recipe.all_teachers if name not in stand_ins]
        stand_ins |= {name: build_stand_in(saved, name, task) for name in missing}
    for model in stand_ins.values():
        model.to(device)
    recipe = saved.recipe
    assembly = Assembly(
        recipe=recipe,
        seed=recipe.run.seed,
        device=device,
        student=student.to(device),
        teacher=stand_ins.pop("teacher", None),
        teachers=stand_ins,
        task=task,
        data=data.info,
        rows=Rows(saved.info.sizes.get("train", 0)),
        epochs=recipe.run.epochs,
        steps_per_epoch=max(1, math.ceil(saved.info.sizes.get("train", 1) / recipe.data.batch_size)),
        plugins=tuple(a.plugin for a in actives),
        inspect_only=True,
        find_model=partial(_build_option_stand_in, saved, task),
    )
    walk = assemble(assembly, actives, data.example(), precision)
    try:
        if actives:
            load_state(walk.composition, _read_state(saved), str(saved.checkpoint))
    except BaseException:
        walk.composition.remove_taps()  # the student may be the caller's
        raise
    # Its weights are nobody's. What a plugin needs of a teacher after training, its own module has.
    assembly.drop_teacher()
    return assembly, walk


def build_stand_in(saved: SavedRun, name: str, task: Task) -> nn.Module:
    """A model of the shapes of the run's teacher ``name``."""
    recipe = saved.recipe
    if recipe.all_teachers[name].given:
        what, how = ("teacher", "teacher=module")
        if name != "teacher":
            what, how = f"teacher {name!r}", f'teachers={{"{name}": module}}'
        raise StillhouseError(
            f"the run's {what} came from Python, and its plugins need the teacher's shapes",
            where=str(saved.folder),
            hint=f"from Python again: stillhouse.load_student({str(saved.folder)!r}, {how})",
        )
    given = find_prerequisite(recipe, get_role(name))
    return build_teacher(recipe, name, saved.info, task, given, fill=False)


def _build_option_stand_in(saved: SavedRun, task: Task, plugin: str, option: str, spec: TeacherSpec) -> nn.Module:
    """A model of the shapes of that which a plugin's option names; the checkpoint has the plugin's own."""
    needs = [need for need in [find_prerequisite(saved.recipe, f"plugins.{plugin}.{option}")] if need is not None]
    return build_option(saved.recipe, needs, saved.info, task, plugin, option, spec, fill=False)


@guarded
def load_student(
    run: str | Path,
    *,
    weights: KeptWeights | None = None,
    averaged: bool = False,
    data: Any = None,
    student: nn.Module | None = None,
    teacher: nn.Module | None = None,
    teachers: Mapping[str, nn.Module] | None = None,
    plugins: Sequence[Plugin] | None = None,
    fold_plugins: bool = True,
    trust: bool = False,
) -> nn.Module:
    """A run's trained student, as :func:`stillhouse.train` gave it: plugins' ``export`` done, in eval mode, on the CPU.

    Args:
        run: the run's folder; or a .safetensors file that ``stillhouse export`` wrote, of which only models of
            torchvision, timm and our own are built by name, and any other is given as ``student`` (or trusted).
        weights: ``best`` or ``last``; None: the best where the run has kept them, else the last.
        averaged: the averaged weights of a run with ``[ema]``, whatever it measured itself.
        data: for a run that was given its data from Python and whose plugins fold something away: the same again.
        student: a module to fill, for a run that was given its student from Python.
        teacher: for a run that was given its teacher from Python and whose plugins fold something away: one of the
            same shapes.
        teachers: further ones likewise, by name.
        plugins: for a run that was given its plugins from Python: the same again.
        fold_plugins: False leaves the plugins out: the student alone, as it was trained.
        trust: import what the run names by ``package.module:attribute`` as well; else only what is registered is built.

    Raises:
        StillhouseError: no run, no checkpoint, a plugin or model that is not there any more.
    """
    if Path(run).suffix == ".safetensors":
        from stillhouse.students.reconstruction import fill_student, rebuild_student

        own_code = trust or is_trusting()
        return rebuild_student(Path(run), own_code) if student is None else fill_student(Path(run), student)
    saved = open_run(run, weights=weights, averaged=averaged)
    return fold_student(
        saved,
        given=data,
        student=student,
        teacher=teacher,
        teachers=teachers,
        plugins=plugins,
        fold_plugins=fold_plugins,
    )


def fold_student(
    saved: SavedRun,
    *,
    data: MeasuredData | None = None,
    given: Any = None,
    student: nn.Module | None = None,
    teacher: nn.Module | None = None,
    teachers: Mapping[str, nn.Module] | None = None,
    plugins: Sequence[Plugin] | None = None,
    fold_plugins: bool = True,
) -> nn.Module:
    """:func:`load_student` of a run that is open; ``data`` are the run's, where they are read already; else ``given`` may be, from Python."""
    try:
        actives = select_plugins(saved, "export" if fold_plugins else "adapt", plugins)
    except StillhouseError as error:
        if fold_plugins:
            error.add_note("a plugin may fold something away: install it, or take the student alone with --no-fold")
            raise
        actives = []  # had one changed the student, its weights will not fit and say so
    if not actives:
        return build_student(saved, student).eval()
    own = data if data is not None else open_data(saved, given)
    try:
        place = torch.device("cpu")
        assembly, walk = rebuild(saved, own, actives, device=place, student=student, teacher=teacher, teachers=teachers)
        if not fold_plugins:
            walk.composition.remove_taps()
            return assembly.student.eval()
        return fold(assembly, walk)
    finally:
        if data is None:
            own.close()
