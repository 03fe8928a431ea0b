"""Where models come from before a run: their source, chance, a file, another recipe's run in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from stillhouse import seeds as rng
from stillhouse.config.model import ModelSpec
from stillhouse.config.recipe import Recipe
from stillhouse.contract.batch import DataInfo
from stillhouse.errors import StillhouseError
from stillhouse.models.builder import build_model
from stillhouse.models.heads import load_but_heads
from stillhouse.models.weights import load_weights
from stillhouse.teachers.inputs import fit_inputs
from stillhouse.teachers.prerequisites import Prerequisite, find_prerequisite

__all__ = ["build_teacher", "load_trained", "teachers_run"]


def build_teacher(recipe: Recipe, info: DataInfo, outputs: int, given: Prerequisite | None) -> nn.Module | None:
    """The teacher that ``recipe`` asks for, on the CPU; None where it asks for none.

    Args:
        recipe: the student's recipe.
        info: the student's data.
        outputs: how many numbers or channels the student's task wants of a model; a teacher given by a recipe has its
            own task's.
        given: the recipe that gives the teacher, where one does. Its model becomes the teacher, untrained: see
            :func:`load_trained`.

    Raises:
        StillhouseError: a file or model that cannot be had.
    """
    spec = recipe.teacher
    if spec is None:
        return None
    if given is not None:
        fit_inputs(given.model, given.info, info)
        return given.model
    assert spec.model is not None  # TeacherSpec sees to it
    seed = rng.derive(recipe.run.seed, "teacher")
    model_spec = ModelSpec(model=spec.model, args=spec.args, pretrained=spec.pretrained)
    teacher = build_model(model_spec, info, seed=seed, where="teacher", base=recipe.base, outputs=outputs)
    if spec.checkpoint is not None:
        try:
            load_weights(teacher, recipe.base / Path(spec.checkpoint).expanduser())
        except StillhouseError as error:
            raise error.within("teacher.checkpoint") from None
    return teacher


def load_trained(recipe: Recipe, needs: Sequence[Prerequisite], student: nn.Module, teacher: nn.Module | None) -> bool:
    """Load what other recipes gave into the models, in place.

    Args:
        recipe: the run.
        needs: what it names. What was not trained is left out.
        student: as :func:`stillhouse.teachers.prerequisites.build_untrained` made it.
        teacher: as :func:`build_teacher` made it.

    Returns:
        Whether the teacher is as the recipe wants it.

    Raises:
        StillhouseError: the weights are gone, or another model's.
    """
    complete = True
    for need in needs:
        if not need.is_trained():
            complete = complete and need.role != "teacher"
            continue
        try:
            if need.role == "student":
                load_but_heads(student, need.checkpoint(), recipe.student.replace_head)
            elif teacher is not None:
                load_weights(teacher, need.checkpoint())
        except StillhouseError as error:
            raise error.within(f"{need.role}.recipe") from None
    return complete


def teachers_run(recipe: Recipe) -> Path | None:
    """The folder of the run that trained ``recipe``'s teacher; None where no recipe gives it, or it was not trained yet."""
    found = find_prerequisite(recipe, "teacher")
    return found.folder if found is not None and found.is_trained() else None
