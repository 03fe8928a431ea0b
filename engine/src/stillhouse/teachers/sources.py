"""Where models come from before a run: their source, chance, a file, another recipe's run in the cache."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
from torch import nn

from stillhouse import seeds as rng
from stillhouse.config.home import find_path
from stillhouse.config.model import ModelSpec
from stillhouse.config.recipe import Recipe
from stillhouse.config.stored import read_lock
from stillhouse.config.teacher import TeacherSpec
from stillhouse.config.trust import reading_stored
from stillhouse.contract.batch import DataInfo
from stillhouse.contract.task import Task
from stillhouse.errors import StillhouseError, StillhouseWarning
from stillhouse.models.builder import build_model, describe_published
from stillhouse.models.family import ModelRequest
from stillhouse.models.heads import load_but_heads, load_or_count_classes
from stillhouse.models.state_dicts import Choice
from stillhouse.models.weights import load_weights
from stillhouse.tasks.builder import build_task
from stillhouse.teachers.origins import Origin, find_run, fit_teacher
from stillhouse.teachers.outputs import name_outputs
from stillhouse.teachers.prerequisites import Prerequisite, build_untrained, find_prerequisite, get_role, get_teacher
from stillhouse.teachers.saved_folder import read_info

__all__ = ["build_option", "build_teacher", "load_trained", "teachers_run"]


def build_teacher(
    recipe: Recipe, name: str, info: DataInfo, task: Task, given: Prerequisite | None, *, fill: bool = True
) -> nn.Module:
    """The teacher of ``recipe`` that is called ``name``, on the CPU, fitted to the student's inputs and classes.

    Args:
        recipe: the student's recipe.
        name: ``teacher``, or a further one's.
        info: the student's data.
        task: the student's; a teacher that another recipe or run gives has its own.
        given: the recipe that gives the teacher, where one does. Its model becomes the teacher, untrained: see
            :func:`load_trained`.
        fill: False leaves out weights from files and published ones: a model of its shapes.

    Raises:
        StillhouseError: a file or model that cannot be had, inputs that cannot be converted.
    """
    seed = rng.derive(recipe.run.seed, "teacher", *([] if name == "teacher" else [name]))
    spec, where = recipe.all_teachers[name], get_role(name)
    if given is not None:
        return _fit_given(given, given.model, spec, info, task, where)
    return _build(spec, where, recipe.base, info, task, seed, fill=fill)


def build_option(
    recipe: Recipe,
    needs: Sequence[Prerequisite],
    info: DataInfo,
    task: Task,
    plugin: str,
    option: str,
    spec: TeacherSpec,
    *,
    fill: bool = True,
) -> nn.Module:
    """The model that the ``option`` of ``plugin`` names, on the CPU, made anew: :meth:`Assembly.load`.

    Args:
        recipe: the run's, resolved.
        needs: what it names, that of the option among it; a recipe that was not trained gives its model as it starts.
        info: the run's data.
        task: the run's.
        plugin: its name.
        option: the option's.
        spec: its value.
        fill: as for :func:`build_teacher`.

    Raises:
        StillhouseError: a file or model that cannot be had.
    """
    role = f"plugins.{plugin}.{option}"
    if spec.recipe is None:
        seed = rng.derive(recipe.run.seed, "option", plugin, option)
        return _build(spec, option, recipe.base, info, task, seed, fill=fill)
    need = next((need for need in needs if need.role == role), None)
    if need is None:
        raise StillhouseError(
            "must be an option that the recipe names: models of options are trained before the run", where=option
        )
    model = _fit_given(need, copy.deepcopy(need.model), spec, info, task, option)
    if fill and need.is_trained():
        load_weights(model, need.checkpoint())
    return model


def _fit_given(
    need: Prerequisite, model: nn.Module, spec: TeacherSpec, info: DataInfo, task: Task, where: str
) -> nn.Module:
    """``model``, which a recipe gives, fitted to the student's data."""
    origin = Origin.of_recipe(need.recipe, need.info, f"the recipe {need.recipe.run.name!r}")
    fit_teacher(model, origin.corrected(spec, info, name_outputs(task, info)), info, task, where, "recipe")
    return model


def _build(
    spec: TeacherSpec, where: str, base: Path, info: DataInfo, task: Task, seed: int, *, fill: bool
) -> nn.Module:
    """The model of a ``spec`` that is given by no recipe."""
    path = None if spec.checkpoint is None else find_path(spec.checkpoint, base)
    key = "checkpoint" if path is not None else "pretrained" if spec.pretrained else "random"
    run = find_run(path)
    try:
        origin = _find_origin(spec, where, base, info, task, path, run)
        if spec.model is None:
            assert path is not None  # TeacherSpec sees to it
            model = _build_of_run(run, path)
    except StillhouseError as error:
        raise error.within(f"{where}.{key}") from None
    origin = origin.corrected(spec, info, name_outputs(task, info))
    if spec.model is not None:
        made = ModelSpec(model=spec.model, args=spec.args, pretrained=spec.pretrained and fill)
        outputs = task.outputs(info) if origin.outputs is None else origin.outputs
        model = build_model(made, origin.info, seed=seed, where=where, base=base, outputs=outputs)
    told: list[str] = []
    try:
        if fill and path is not None:
            choice = Choice(averaged=spec.averaged, prefix=spec.prefix, weights=spec.weights)
            told = load_or_count_classes(model, path, choice)
    except StillhouseError as error:
        raise error.within(f"{where}.checkpoint") from None
    if told and path is not None:
        warnings.warn(f"{where}.checkpoint: {'; '.join(told)} ({path.name})", StillhouseWarning, stacklevel=2)
    # A random teacher knows no data.
    fit_teacher(model, origin, info, task, where, key, told=fill and not spec.random, weights=told)
    return model


def _find_origin(
    spec: TeacherSpec, where: str, base: Path, info: DataInfo, task: Task, path: Path | None, run: Path | None
) -> Origin:
    if run is not None:
        return Origin.of_run(run)
    found = None if path is None else Origin.of_export(path, info)
    if spec.pretrained and spec.model is not None:
        asked = ModelSpec(model=spec.model, args=spec.args, pretrained=True)
        told = describe_published(ModelRequest(asked, info, where, base))
        found = None if told is None else Origin.of_published(told, info, spec.args, task.outputs(info))
    if found is not None:
        return found
    return Origin(info, names=name_outputs(task, info) if spec.random else None)


def _build_of_run(folder: Path | None, path: Path) -> nn.Module:
    """The student of the run in ``folder``, as it starts."""
    if folder is None:
        raise StillhouseError(
            f"needs the model, which only a run's folder says, got weights in {path}", hint='add model = "..."'
        )
    with reading_stored(folder):
        return _build_stored(folder)


def _build_stored(folder: Path) -> nn.Module:
    own = Recipe.load(folder / "recipe.toml")
    if own.student.given:
        raise StillhouseError(
            f"the run in {folder} was given its student ({own.student.model}) from Python", hint='add model = "..."'
        )
    known = read_info(read_lock(folder / "lock.json"), own)
    # Weights that it started from would be written over at once.
    start = own.student.without_start()
    outputs = build_task(own.task, own.base).outputs(known)
    return build_untrained(attrs.evolve(own, student=start), known, outputs)


def load_trained(
    recipe: Recipe, needs: Sequence[Prerequisite], student: nn.Module, teachers: Mapping[str, nn.Module]
) -> bool:
    """Load what other recipes gave into the models, in place.

    Args:
        recipe: the run.
        needs: what it names. What was not trained is left out; what plugins ask for, :func:`build_option` loads.
        student: as :func:`stillhouse.teachers.prerequisites.build_untrained` made it.
        teachers: by name, as :func:`build_teacher` made them.

    Returns:
        Whether the teachers are as the recipe wants them.

    Raises:
        StillhouseError: the weights are gone, or another model's.
    """
    complete = True
    for need in needs:
        teacher = get_teacher(need.role)
        if not need.is_trained():
            complete = complete and not teacher
            continue
        try:
            if need.role == "student":
                load_but_heads(student, need.checkpoint(), recipe.student.replace_head)
            elif teacher in teachers:
                load_weights(teachers[teacher], need.checkpoint())
        except StillhouseError as error:
            raise error.within(f"{need.role}.recipe") from None
    return complete


def teachers_run(recipe: Recipe) -> Path | None:
    """The folder of the run that trained ``recipe``'s teacher; None where no recipe gives it, or it was not trained yet."""
    found = find_prerequisite(recipe, "teacher")
    return found.folder if found is not None and found.is_trained() else None
