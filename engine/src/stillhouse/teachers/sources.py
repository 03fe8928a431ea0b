"""Where models come from before a run: another recipe (trained once, found again by content), a file, their source's weights, chance."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import attrs
import torch
from filelock import FileLock
from torch import nn

from stillhouse import seeds as rng
from stillhouse.config.model import ModelSpec
from stillhouse.config.recipe import Recipe, TeacherSpec
from stillhouse.contract.batch import DataInfo
from stillhouse.data.loader import load_data
from stillhouse.distributed import processes as parallel
from stillhouse.errors import StillhouseError
from stillhouse.models.builder import build_model
from stillhouse.models.weights import last_checkpoint, load_weights
from stillhouse.registry.plugins import plugins_in_use
from stillhouse.registry.tasks import build_task
from stillhouse.teachers.inputs import fit_inputs
from stillhouse.teachers.store import cache_folder

__all__ = ["First", "build_student", "build_teacher", "teachers_run"]


@attrs.frozen
class First:
    """How to train what another recipe gives, before the run that asks for it.

    Attributes:
        wanted: whether to train it at all; raises what is wrong with the run that asks, so that nothing is trained for one
            that cannot be. The same answer in every process.
        train: trains a recipe in a folder, going on where it was left; :func:`stillhouse.train` with ``resume``.
    """

    wanted: Callable[[], bool]
    train: Callable[[Recipe, Path], object]


def build_teacher(recipe: Recipe, info: DataInfo, outputs: int, first: First | None) -> tuple[nn.Module | None, bool]:
    """The teacher that ``recipe`` asks for, on the CPU, and whether it is as the recipe wants it.

    Args:
        recipe: the student's recipe.
        info: the student's data.
        outputs: how many numbers or channels the student's task wants of a model; a teacher given by a recipe has its
            own task's.
        first: trains a teacher's recipe where it is not in the cache yet. None leaves such a teacher untrained: its
            architecture is all that an explanation needs. Then, and where nobody wants it, the second value is False.

    Raises:
        StillhouseError: a recipe, file or model that cannot be had.
    """
    spec = recipe.teacher
    if spec is None:
        return None, True
    if spec.recipe is not None:
        return _from_recipe(recipe, spec, info, first)
    assert spec.model is not None
    seed = rng.derive(recipe.run.seed, "teacher")
    model_spec = ModelSpec(model=spec.model, args=spec.args, pretrained=spec.pretrained)
    teacher = build_model(model_spec, info, seed=seed, where="teacher", base=recipe.base, outputs=outputs)
    if spec.checkpoint is not None:
        try:
            load_weights(teacher, recipe.base / Path(spec.checkpoint).expanduser())
        except StillhouseError as error:
            raise error.within("teacher.checkpoint") from None
    return teacher, True


@attrs.frozen
class _Trained:
    """What a recipe gives to another one.

    Attributes:
        model: its student as it starts, on the CPU.
        info: its data.
        checkpoint: the trained weights; None where they are not there and nobody was to train them.
    """

    model: nn.Module
    info: DataInfo
    checkpoint: Path | None


def build_student(recipe: Recipe, info: DataInfo, outputs: int, first: First | None) -> nn.Module:
    """The student as ``recipe`` has it start, on the CPU.

    Args:
        recipe: the run.
        info: its data.
        outputs: how many numbers or channels its task wants of a model.
        first: trains the recipe that the student starts from where that is not in the cache yet. None leaves the
            student without that start: its architecture is all that an explanation needs.

    Raises:
        StillhouseError: a model, file or recipe that cannot be had.
    """
    spec = recipe.student
    if spec.recipe is not None:
        found = _trained(recipe, spec.recipe, "student", first).checkpoint
        spec = attrs.evolve(
            spec,
            recipe=None,
            checkpoint=None if found is None else str(found),
            replace_head=spec.replace_head and found is not None,
        )
    return build_model(
        spec, info, seed=rng.derive(recipe.run.seed, "student"), where="student", base=recipe.base, outputs=outputs
    )


def _from_recipe(recipe: Recipe, spec: TeacherSpec, info: DataInfo, first: First | None) -> tuple[nn.Module, bool]:
    found = _trained(recipe, _teachers_tables(recipe, spec), "teacher", first)
    if found.checkpoint is not None:
        load_weights(found.model, found.checkpoint)
    fit_inputs(found.model, found.info, info)
    return found.model, found.checkpoint is not None


def teachers_run(recipe: Recipe) -> Path | None:
    """The folder of the run that trained ``recipe``'s teacher; None where no recipe gives it, or it was not trained yet."""
    if recipe.teacher is None or recipe.teacher.recipe is None:
        return None
    found = _trained(recipe, _teachers_tables(recipe, recipe.teacher), "teacher", None).checkpoint
    return None if found is None else found.parent.parent


def _teachers_tables(recipe: Recipe, spec: TeacherSpec) -> Mapping[str, Any]:
    """The teacher's recipe, on the student's own labels where it asks for them."""
    assert spec.recipe is not None
    if not spec.same_labels:
        return spec.recipe
    own, given = Recipe.from_dict(spec.recipe), recipe.data
    seed = recipe.run.seed if given.subset_seed is None else given.subset_seed
    data = attrs.evolve(own.data, per_class=given.per_class, limit=given.limit, subset_seed=seed)
    return attrs.evolve(own, data=data).to_dict()


def _trained(recipe: Recipe, tables: Mapping[str, Any], where: str, first: First | None) -> _Trained:
    """The recipe ``tables``, trained for ``recipe``: found by its content, or trained now where ``first`` is given."""
    own = Recipe.from_dict(tables)
    # Where it runs is the student's business; what it computes is its own recipe's.
    own = attrs.evolve(own, run=attrs.evolve(own.run, device=recipe.run.device, threads=recipe.run.threads))
    task = build_task(own.task, own.base)
    data = load_data(own.data, task, seed=own.run.seed, base=own.base)
    try:
        model = build_student(own, data.info, task.outputs(data.info), first)
        key = _content_key(own, data.info, model)
    except StillhouseError as error:
        raise error.within(f"{where}.recipe") from None
    finally:
        data.close()
    folder = cache_folder() / "teachers" / f"{own.run.name}-{key[:16]}"
    if not parallel.from_first((folder / "summary.json").exists()) and (first is None or not first.wanted()):
        return _Trained(model, data.info, None)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Two runs that want the same one at once: the second waits and finds it trained.
        # Of several processes of one run the first holds the lock, and all of them train.
        with FileLock(f"{folder}.lock") if parallel.is_first() else nullcontext():
            if not parallel.from_first((folder / "summary.json").exists()):
                assert first is not None  # or the summary was there a moment ago
                first.train(own, folder)
            parallel.barrier()
    except OSError as error:
        raise StillhouseError(
            f"the folder of the trained recipe cannot be written: {error}",
            where=str(folder),
            hint="set STILLHOUSE_CACHE to a folder that can",
        ) from error
    path = last_checkpoint(folder / "checkpoints")
    if path is None:
        raise StillhouseError("the trained recipe has no checkpoint", where=str(folder), hint="delete this folder")
    return _Trained(model, data.info, path)


def _content_key(recipe: Recipe, info: DataInfo, untrained: nn.Module) -> str:
    """A hash of everything the trained teacher follows from: recipe, data, plugins' versions, torch, the model's start."""
    from stillhouse.version import __version__

    plugins = [(a.use, a.distribution, a.version) for a in plugins_in_use(recipe.plugins, recipe.base)]
    text = json.dumps([recipe.digest(), info.fingerprint, plugins, __version__, torch.__version__])
    digest = hashlib.sha256(text.encode())
    for name, tensor in untrained.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
