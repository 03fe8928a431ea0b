"""What a run is built of: its resolved recipe, its data and its models."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import nn

from stillhouse import seeds as rng
from stillhouse.config.model import ModelSpec
from stillhouse.config.recipe import Recipe
from stillhouse.config.teacher import TeacherSpec
from stillhouse.contract.task import Task
from stillhouse.data.base import Data
from stillhouse.data.given import Given, describe_given
from stillhouse.data.loader import load_data
from stillhouse.distributed.fsdp import shard
from stillhouse.errors import StillhouseError
from stillhouse.models.lazy import materialise
from stillhouse.registry.order import Active
from stillhouse.registry.plugins import activate, plugins_in_use
from stillhouse.tasks.builder import build_task
from stillhouse.tasks.own_loss import name_loss, with_loss
from stillhouse.tasks.partly_labelled import fit_task
from stillhouse.teachers.prerequisites import (
    Prerequisite,
    build_untrained,
    get_role,
    get_teacher,
    list_prerequisites,
)
from stillhouse.teachers.sources import build_teacher
from stillhouse.training.progress import Progress

__all__ = ["Parts", "gather", "resolve", "spread"]


@attrs.frozen(eq=False)
class Parts:
    """What a run is built of.

    Attributes:
        recipe: resolved.
        actives: the plugins, in order.
        device: where it runs.
        shown: its progress on the terminal.
        task: what the student is for.
        data: its batches.
        needs: the recipes that give its teachers, its student's start and what plugins ask for.
        student: on the CPU, without what a recipe gives it to start from.
        teachers: on the CPU by name, ``teacher`` first; untrained where a recipe gives it.
        given: the data that Python has handed over.
    """

    recipe: Recipe
    actives: Sequence[Active]
    device: torch.device
    shown: Progress
    task: Task
    data: Data
    needs: tuple[Prerequisite, ...]
    student: nn.Module
    teachers: dict[str, nn.Module]
    given: Given | None = None

    def copy(self) -> Parts:
        """The same parts again, to be used up: models copied, batches from the same samples."""
        return attrs.evolve(
            self,
            data=_load(self.recipe, self.task, self.device, self.given),
            student=copy.deepcopy(self.student),
            teachers=copy.deepcopy(self.teachers),
        )

    def gather_before(self, need: Prerequisite) -> Parts:
        """The parts of the run that gives this one ``need``.

        Raises:
            StillhouseError: what is wrong with its recipe, as its own run would say it.
        """
        own = need.recipe
        actives = activate(plugins_in_use(own.plugins, own.base), has_teacher=own.teacher is not None)
        given = self.given if own.data.given else None
        return gather(
            resolve(own, actives, given=given), actives, self.device, self.shown, student=need.model, given=given
        )


def gather(
    recipe: Recipe,
    actives: Sequence[Active],
    device: torch.device,
    shown: Progress,
    *,
    student: nn.Module | None = None,
    teachers: Mapping[str, nn.Module] | None = None,
    loss: Any = None,
    given: Given | None = None,
) -> Parts:
    """Load the data and build the models, but for the student and those teachers that are there already.

    A ``loss`` from Python takes the place of the task's.

    Raises:
        StillhouseError: data, a model, a file or another recipe that cannot be had.
    """
    task = build_task(recipe.task, recipe.base, trained=loss is None)
    task = task if loss is None else with_loss(task, loss)
    data = _load(recipe, task, device, given)
    task = fit_task(task, data.info, recipe.data)
    outputs = task.outputs(data.info)
    if student is None:
        student = build_untrained(recipe, data.info, outputs)
    needs = list_prerequisites(recipe, given)
    by_name = {get_teacher(need.role): need for need in needs}
    there = teachers or {}
    made = {
        name: there[name] if name in there else build_teacher(recipe, name, data.info, task, by_name.get(name))
        for name in recipe.all_teachers
    }
    for name, model in {
        "student": student,
        **made,
    }.items():  # those from Python; others are given their shapes where they are built
        materialise(model, lambda: data.example().input, rng.derive(recipe.run.seed, "lazy", name), name)
    return Parts(recipe, actives, device, shown, task, data, needs, student, made, given)


def _load(recipe: Recipe, task: Task, device: torch.device, given: Given | None) -> Data:
    return load_data(recipe.data, task, seed=recipe.run.seed, base=recipe.base, pin=device.type == "cuda", given=given)


def spread(parts: Parts) -> None:
    """Do what several processes ask of the models before they are assembled: SyncBatchNorm, and FSDP2's shards.

    Raises:
        StillhouseError: the device has no SyncBatchNorm, or there is one process and nothing to spread over.
    """
    spec, device, student = parts.recipe.distributed, parts.device, parts.student
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
    if spec.shard in ("teacher", "both"):
        for name, teacher in parts.teachers.items():
            shard(teacher.requires_grad_(False), device, name)


def resolve(
    recipe: Recipe,
    actives: Sequence[Active],
    student: nn.Module | None = None,
    teachers: Mapping[str, nn.Module] | None = None,
    loss: Any = None,
    given: Given | None = None,
) -> Recipe:
    """The recipe as it is run: plugins in order with every option, and what Python handed over named as such.

    Raises:
        StillhouseError: its own run was handed a model, or data, that are not there now; keys that say nothing of the data.
    """
    tables = [a.table for a in sorted(actives, key=lambda a: a.listed)]
    recipe = recipe.with_plugins(tables, give_terms=any(hasattr(a.plugin, "losses") for a in actives))
    if given is not None:
        recipe = attrs.evolve(recipe, data=describe_given(recipe.data, given))
    if student is not None:
        recipe = attrs.evolve(recipe, student=ModelSpec(model=type(student).__qualname__, given=True))
    elif recipe.student.given:
        raise StillhouseError(
            "this run was given its student from Python", where="student.model", hint="train(recipe, student=...)"
        )
    if loss is not None:
        recipe = attrs.evolve(recipe, task=attrs.evolve(recipe.task, loss=name_loss(loss)))
    specs = dict(recipe.all_teachers)
    for name, model in (teachers or {}).items():
        specs[name] = TeacherSpec(model=type(model).__qualname__, given=True)
    for name, spec in specs.items():
        if spec.given and name not in (teachers or {}):
            what = "its teacher" if name == "teacher" else f"its teacher {name!r}"
            how = "teacher=..." if name == "teacher" else f'teachers={{"{name}": ...}}'
            raise StillhouseError(
                f"this run was given {what} from Python", where=f"{get_role(name)}.model", hint=f"train(recipe, {how})"
            )
    return attrs.evolve(recipe, teacher=specs.pop("teacher", None), teachers=specs)
