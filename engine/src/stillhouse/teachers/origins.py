"""Origins: what is known of the data that a teacher's weights were trained on, and who says so."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from torch import nn

from stillhouse.config.fields import strict_fields
from stillhouse.config.recipe import Recipe
from stillhouse.config.stored import read_lock
from stillhouse.config.structure import structure
from stillhouse.config.teacher import Normalization, TeacherSpec
from stillhouse.config.trust import reading_stored
from stillhouse.contract.batch import DataInfo
from stillhouse.contract.task import Task
from stillhouse.errors import StillhouseWarning
from stillhouse.files import open_file
from stillhouse.models.family import Published
from stillhouse.tasks.builder import build_task
from stillhouse.teachers.inputs import fit_inputs
from stillhouse.teachers.outputs import fit_outputs, name_outputs
from stillhouse.teachers.saved_folder import read_info

__all__ = ["METADATA", "Origin", "Outputs", "describe_teacher", "find_run", "fit_teacher", "read_metadata"]

_IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_SIZES = ("img_size", "image_size", "input_size")
"""Arguments of models that say the size of their images."""
_CHANNELS = ("in_chans", "in_channels", "num_channels")
_NOTES = "_stillhouse_notes"

METADATA = "stillhouse"
"""The key, or file, of the metadata in an export, which say what the model is: JSON."""


@attrs.frozen(kw_only=True, field_transformer=strict_fields)
class Outputs:
    """A run's lock says so of its student: no task has to be built, whose code may be somebody's.

    Attributes:
        count: how many numbers or channels it gives.
        names: the classes that they stand for, in order; empty: they are no classes.
    """

    count: int
    names: tuple[str, ...] = ()


@attrs.frozen
class Origin:
    """What is known of the data that a teacher was trained on.

    Attributes:
        info: its inputs; what nothing says is as the student's.
        outputs: how many outputs it has; None: as many as the student's task wants.
        names: the classes of its outputs, in order; empty: they are no classes; None: nothing says.
        source: who says so, for messages; empty: nobody.
        scaled: whether anything says how its inputs were normalised.
        refusal: why its output is of no use; empty: it may be.
    """

    info: DataInfo
    outputs: int | None = None
    names: tuple[str, ...] | None = None
    source: str = ""
    scaled: bool = False
    refusal: str = ""

    @classmethod
    def of_recipe(cls, recipe: Recipe, known: DataInfo, source: str) -> Origin:
        """That of the student of ``recipe``, whose data are ``known``."""
        task = build_task(recipe.task, recipe.base)
        return cls(known, task.outputs(known), name_outputs(task, known), source, scaled=True)

    @classmethod
    def of_run(cls, folder: Path) -> Origin:
        """That of the student of the run in ``folder``, by its lock.

        Raises:
            StillhouseError: its recipe or lock cannot be read.
        """
        with reading_stored(folder):
            recipe, lock = Recipe.load(folder / "recipe.toml"), read_lock(folder / "lock.json")
            known, source = read_info(lock, recipe), f"the run in {folder}"
            told = lock.get("outputs")
            if not isinstance(told, Mapping):  # an older run's
                return cls.of_recipe(recipe, known, source)
            outputs: Outputs = structure(dict(told), Outputs, "lock.json: outputs")
            return cls(known, outputs.count, outputs.names, source, scaled=True)

    @classmethod
    def of_export(cls, path: Path, info: DataInfo) -> Origin | None:
        """That of a .safetensors file that ``stillhouse export`` wrote; None of any other file."""
        about = read_metadata(path)
        try:
            names = tuple(map(str, about["class_names"]))
            background = 1 if info.target == "boxes" else 0
            outputs, shape = int(about["outputs"]), tuple(map(int, about["input_shape"]))
            own = attrs.evolve(
                info,
                input_shape=shape,
                eval_shape=shape,
                mean=tuple(map(float, about["mean"])),
                std=tuple(map(float, about["std"])),
            )
        except (KeyError, TypeError, ValueError):
            return None
        if not all(value > 0 for value in own.std):  # no file of ours
            return None
        kept = names if outputs == len(names) + background else ()
        return cls(own, outputs, kept, f"the export {path.name}", scaled=True)

    @classmethod
    def of_published(cls, told: Published, info: DataInfo, args: Mapping[str, Any], outputs: int) -> Origin:
        """That of published weights, in a model with ``args`` for the student's ``outputs``."""
        shape = info.input_shape
        if len(shape) == 3:
            size: Any = next((args[key] for key in _SIZES if args.get(key)), told.size or shape[1:])
            channels = next((args[key] for key in _CHANNELS if args.get(key)), told.channels or shape[0])
            shape = (channels, *((size, size) if isinstance(size, int) else tuple(size)))
        own = info
        if shape != info.input_shape or told.size is not None:
            own = attrs.evolve(info, input_shape=shape, eval_shape=shape)
        mean, std = told.mean, told.std
        if mean and shape[0] == 1:  # grey by `in_chans`: timm sums the weights of the colours
            mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
        scaled = mean is not None and len(mean) in (0, shape[0])
        if scaled and mean is not None:
            own = attrs.evolve(own, mean=mean, std=std)
        refusal = ""
        wanted = args.get("num_classes", args.get("num_labels", outputs))
        if told.outputs is not None and wanted not in (0, told.outputs):
            before = (
                f"the published weights are for {told.outputs} classes"
                if told.outputs
                else "they were published without a last layer"
            )
            refusal = f"{before}, and its last layer for {wanted} is new and untrained"
        names = told.class_names if len(told.class_names) == wanted else None
        return cls(own, None, names, told.source, scaled=scaled, refusal=refusal)

    def corrected(self, spec: TeacherSpec, info: DataInfo, names: tuple[str, ...]) -> Origin:
        """With what the recipe's own table says in place of what is known.

        Args:
            spec: the table.
            info: the student's data.
            names: the student's classes.
        """
        own, found = self.info, self
        how = _IMAGENET if spec.normalize == "imagenet" else spec.normalize
        if how == "same":
            own = attrs.evolve(own, mean=info.mean, std=info.std)
        elif isinstance(how, Normalization):
            mean, std = how.mean, how.std
            if spec.normalize == "imagenet" and own.input_shape[0] == 1:  # grey, as timm has it: see of_published
                mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
            own = attrs.evolve(own, mean=mean, std=std)
        elif how == "none":
            own = attrs.evolve(own, mean=(), std=())
        if spec.size == "same":
            rest = [shape and (own.input_shape[0], *shape[1:]) for shape in (info.input_shape, info.eval_shape)]
            own = attrs.evolve(own, input_shape=rest[0], eval_shape=rest[1])
        elif spec.size is not None:
            shape = (own.input_shape[0], *((spec.size, spec.size) if isinstance(spec.size, int) else spec.size))
            own = attrs.evolve(own, input_shape=shape, eval_shape=shape)
        if spec.classes is not None:
            given = names if spec.classes == "same" else spec.classes
            outputs = found.outputs if spec.classes == "same" or found.outputs is not None else len(given)
            found = attrs.evolve(found, names=given, outputs=outputs)
        return attrs.evolve(found, info=own, scaled=found.scaled or how is not None)


def find_run(path: Path | None) -> Path | None:
    """The folder of the run that ``path`` is, or is a checkpoint of; None: neither."""
    if path is None:
        return None
    folder = path if path.is_dir() else path.parent.parent if path.parent.name == "checkpoints" else None
    return folder if folder is not None and (folder / "recipe.toml").is_file() else None


def fit_teacher(
    teacher: nn.Module,
    origin: Origin,
    info: DataInfo,
    task: Task,
    where: str,
    key: str,
    *,
    told: bool = True,
    weights: Sequence[str] = (),
) -> None:
    """Have ``teacher`` take the student's inputs, and give its output in the student's order of classes.

    Args:
        teacher: on the CPU.
        origin: what is known of its training.
        info: the student's data.
        task: the student's.
        where: the recipe's table that names it.
        key: the key of that table that does.
        told: False says nothing of what is not known.
        weights: what was done to its file's weights, in words.

    Raises:
        StillhouseError: its inputs cannot be made of the student's.
    """
    notes = fit_inputs(teacher, origin.info, info, f"{where}.{key}")
    told_by = f" ({origin.source})" if origin.source else ""
    notes = [f"inputs: {', '.join(notes)}{told_by}"] if notes else []
    notes += fit_outputs(teacher, origin.names, name_outputs(task, info), where, refusal=origin.refusal)
    if told and not origin.scaled and len(info.input_shape) == 3:
        text = "nothing says how its inputs were normalised; they are taken to be the student's"
        notes.insert(0, f"inputs: {text}")
        hint = (
            f'{where}.normalize = "same" says so, "imagenet", "none" or {{ mean = [...], std = [...] }} says otherwise'
        )
        warnings.warn(f"{where}: {text}: {hint}", StillhouseWarning, stacklevel=2)
    if weights:
        notes.insert(0, f"weights: {'; '.join(weights)}")
    if notes:
        setattr(teacher, _NOTES, tuple(notes))


def describe_teacher(teacher: nn.Module | None) -> list[str]:
    """What :func:`fit_teacher` did, in words, for ``stillhouse explain``."""
    return list(getattr(teacher, _NOTES, ()))


def read_metadata(path: Path) -> Mapping[str, Any]:
    """What a .safetensors file that ``stillhouse export`` wrote says of its model; empty: another file."""
    if path.suffix != ".safetensors":
        return {}
    try:
        from safetensors import SafetensorError, safe_open

        open_file(path).close()  # a pipe would be waited for
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get(METADATA, "{}"))
    except (ImportError, SafetensorError, OSError, ValueError):  # loading its weights says so
        return {}
    return about if isinstance(about, Mapping) else {}
