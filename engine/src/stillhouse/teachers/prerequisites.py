"""What has to be trained before a run: the recipes that give its teachers, its student's start and what plugins ask for.

Each is known by its content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import attrs
import torch
from torch import nn

from stillhouse import seeds as rng
from stillhouse.config.kept import KeptWeights
from stillhouse.config.names import default_name
from stillhouse.config.recipe import Recipe
from stillhouse.config.structure import structure
from stillhouse.config.teacher import TeacherSpec
from stillhouse.contract.batch import DataInfo
from stillhouse.data.given import Given, describe_given
from stillhouse.data.loader import load_data
from stillhouse.distributed import processes as parallel
from stillhouse.errors import StillhouseError
from stillhouse.models.builder import build_model
from stillhouse.models.weights import find_last_checkpoint, find_weights
from stillhouse.registry.plugins import plugins_in_use
from stillhouse.tasks.builder import build_task
from stillhouse.teachers.code import hash_code
from stillhouse.teachers.store import cache_folder
from stillhouse.version import __version__

__all__ = ["Prerequisite", "build_untrained", "find_prerequisite", "get_role", "get_teacher", "list_prerequisites"]


@attrs.frozen(eq=False)
class Prerequisite:
    """A recipe that is trained before the run that asks for what it gives.

    Attributes:
        role: the table of the asking recipe that names it: ``student``, which starts from it; ``teacher`` or
            ``teachers.NAME``, which it gives; ``plugins.NAME.OPTION``, whose plugin asks for it.
        recipe: it, to be run where the asking run is.
        model: its student as its training will find it, less what its own prerequisites give; on the CPU.
        info: its data.
        folder: its run's, in the cache, named by the content.
        weights: which of those that its run keeps are asked for; None: see
            :func:`stillhouse.models.weights.find_weights`.
        given: the data that Python has handed over, where its recipe asks for them.
    """

    role: str
    recipe: Recipe
    model: nn.Module
    info: DataInfo
    folder: Path
    weights: KeptWeights | None = None
    given: Given | None = None

    @property
    def identity(self) -> str:
        """A hash of its content, with the choice among its weights: whoever asks for others asks for another model."""
        # Last weights go without a word, as runs from before there was a choice have it.
        return self.folder.name.rpartition("-")[2] + ("-best" if _asks_for_best(self.recipe, self.weights) else "")

    @property
    def has_own(self) -> bool:
        """Whether it names further recipes itself."""
        return bool(_named(self.recipe))

    def is_trained(self) -> bool:
        """Whether it was trained to its end; of several processes the first one looks."""
        return bool(parallel.broadcast_object((self.folder / "summary.json").exists()))

    def checkpoint(self) -> Path:
        """The file with the trained weights.

        Raises:
            StillhouseError: it was trained, and the file is gone; or it keeps no such weights.
        """
        if find_last_checkpoint(self.folder / "checkpoints") is None:
            raise StillhouseError(
                "the trained recipe has no checkpoint", where=str(self.folder), hint="delete this folder"
            )
        return find_weights(self.folder, self.weights).file


def list_prerequisites(recipe: Recipe, given: Given | None = None) -> tuple[Prerequisite, ...]:
    """What ``recipe`` names: the student's start, the teachers, plugins' options. What these name is theirs to list.

    Args:
        recipe: the run that asks.
        given: the data that Python has handed over, which such a recipe may ask for as well.

    Raises:
        StillhouseError: data or a model of such a recipe that cannot be had.
    """
    return tuple(found for role in _named(recipe) if (found := find_prerequisite(recipe, role, given)) is not None)


def get_role(teacher: str) -> str:
    """The table of a recipe that has the teacher of this name."""
    return teacher if teacher == "teacher" else f"teachers.{teacher}"


def get_teacher(role: str) -> str:
    """The name of the teacher that ``role`` gives: what :func:`get_role` has made a table of; empty: it gives none."""
    return role if role == "teacher" else role.removeprefix("teachers.") if role.startswith("teachers.") else ""


def find_prerequisite(recipe: Recipe, role: str, given: Given | None = None) -> Prerequisite | None:
    """The recipe that ``recipe`` names in its table ``role``, a :attr:`Prerequisite.role`; None where it names none.

    Raises:
        StillhouseError: its data or its model cannot be had.
    """
    named = _named(recipe).get(role)
    if named is None:
        return None
    own, weights = named
    # Where it runs is the asking run's business; what it computes is its own recipe's.
    own = attrs.evolve(own, run=attrs.evolve(own.run, device=recipe.run.device, threads=recipe.run.threads))
    try:
        task = build_task(own.task, own.base)
        given = given if own.data.given else None
        if given is not None:
            own = attrs.evolve(own, data=describe_given(own.data, given))
        data = load_data(own.data, task, seed=own.run.seed, base=own.base, given=given)
        data.close()
        model = build_untrained(own, data.info, task.outputs(data.info))
        start = find_prerequisite(own, "student", given)
    except StillhouseError as error:
        raise error.within(f"{role}.recipe") from None
    folder = cache_folder() / "teachers" / f"{own.run.name}-{_content_key(own, data.info, model, start)[:16]}"
    return Prerequisite(role, own, model, data.info, folder, weights, given)


def build_untrained(recipe: Recipe, info: DataInfo, outputs: int) -> nn.Module:
    """The student of ``recipe`` on the CPU: as it starts, but for what another recipe gives it to start from.

    Args:
        recipe: the run.
        info: its data.
        outputs: how many numbers or channels its task wants of a model.

    Raises:
        StillhouseError: a model or file that cannot be had.
    """
    spec = recipe.student
    if spec.recipe is not None:
        spec = spec.without_start()
    seed = rng.derive(recipe.run.seed, "student")
    return build_model(spec, info, seed=seed, where="student", base=recipe.base, outputs=outputs)


def _named(recipe: Recipe) -> dict[str, tuple[Recipe, KeptWeights | None]]:
    """The recipes that ``recipe`` names, by role, with which of their weights it asks for."""
    specs = {get_role(name): spec for name, spec in recipe.all_teachers.items()}
    for table in recipe.plugins:
        name = table.get("name") or default_name(str(table.get("use", "")))
        for option, value in table.items():
            if isinstance(value, Mapping) and "recipe" in value:
                specs[f"plugins.{name}.{option}"] = structure(value, TeacherSpec, f"plugins.{name}.{option}")
    named = {
        role: (_with_labels(recipe, spec), spec.weights) for role, spec in specs.items() if spec.recipe is not None
    }
    start = recipe.student
    return named if start.recipe is None else {"student": (Recipe.from_dict(start.recipe), start.weights), **named}


def _asks_for_best(recipe: Recipe, weights: KeptWeights | None) -> bool:
    return weights == "best" or (weights is None and recipe.checkpoints.best)


def _with_labels(recipe: Recipe, spec: TeacherSpec) -> Recipe:
    """The recipe that ``spec`` names, on the samples that it is to be trained on."""
    assert spec.recipe is not None
    own, given = Recipe.from_dict(spec.recipe), recipe.data
    if not spec.same_labels:
        return own
    seed = recipe.run.seed if given.subset_seed is None else given.subset_seed
    data = attrs.evolve(own.data, per_class=given.per_class, limit=given.limit, subset_seed=seed)
    return attrs.evolve(own, data=data)


def _content_key(recipe: Recipe, info: DataInfo, untrained: nn.Module, start: Prerequisite | None) -> str:
    """A hash of everything the trained student follows from: recipe, data, versions, code, torch, the model's start."""
    actives = plugins_in_use(recipe.plugins, recipe.base)
    plugins = [(a.use, a.distribution, a.version) for a in actives]
    asked = attrs.evolve(
        recipe,
        run=attrs.evolve(recipe.run, threads=None),  # that is the asking run's: see above
        data=recipe.data.placeless,  # the data's own hash is beside it
    )
    text = json.dumps(
        [asked.digest(), info.fingerprint, plugins, hash_code(recipe, actives), __version__, torch.__version__]
    )
    digest = hashlib.sha256(text.encode())
    for name, tensor in untrained.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    if start is not None:  # by its content as well, so that a folder has its name before anything is trained
        digest.update(start.identity.encode())
    best = [role for role, (own, asked) in _named(recipe).items() if role != "student" and _asks_for_best(own, asked)]
    for word in (*best, *([] if recipe.checkpoints.best else ["last alone"])):
        digest.update(word.encode())
    return digest.hexdigest()
