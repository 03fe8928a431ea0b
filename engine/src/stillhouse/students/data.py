"""Data for evaluating a finished run: its own or others, always normalised as in its training."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor

from stillhouse.config.data import DataSpec
from stillhouse.config.overrides import apply_override
from stillhouse.config.recipe import Recipe
from stillhouse.config.structure import structure, unstructure
from stillhouse.config.trust import lies_in_run, reading_stored
from stillhouse.contract.batch import Batch, DataInfo
from stillhouse.data.base import Data
from stillhouse.data.given import Given, describe_given, read_given
from stillhouse.data.loader import load_data
from stillhouse.errors import StillhouseError, StillhouseWarning
from stillhouse.students.saved_run import SavedRun

__all__ = ["MeasuredData", "open_data"]


class MeasuredData(Protocol):
    """The data that evaluation needs; :class:`stillhouse.data.Data` is one."""

    @property
    def info(self) -> DataInfo:
        """Classes, shapes and statistics of the data."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""

    def example(self, n: int = 2, split: str = "train") -> Batch:
        """Return ``n`` samples of a split, evenly spaced."""

    def evaluation(self, split: str) -> Iterable[Batch]:
        """Return the batches of a split: every sample once, in order."""

    def close(self) -> None:
        """End workers."""


def open_data(saved: SavedRun, other: Any = None, *, pin: bool = False, overrides: Sequence[str] = ()) -> MeasuredData:
    """Open the data of a run, or others for the same task.

    Args:
        saved: the run, whose ``recipe.data`` may have changed keys.
        other: a recipe's file, whose ``[data]`` is used; or a data set's name, read by the keys of the run's recipe
            and, where it has no splits of its own, measured whole. Keys that choose the run's own training samples
            (``per_class``, ``limit``, ``val_fraction``, ``split``) are not used. Or data from Python, as ``train`` takes them.
        pin: put batches into page-locked memory, for copies to CUDA.
        overrides: ``data.KEY=VALUE`` each, of the other data.

    Raises:
        StillhouseError: the data cannot be loaded, or do not fit this student.
    """
    recipe = saved.recipe
    spec, base = recipe.data, recipe.base
    if other is not None and not isinstance(other, str):
        return _open_given(saved, read_given(other), pin=pin)
    if other is not None:
        spec, base = _choose_other(spec, other, overrides)
        spec = spec.labelled_alone
        with reading_stored(saved.folder, named=[] if lies_in_run(other) else [spec.name]):
            return _open_plain(saved, spec, base, pin=pin)
    if saved.own_data:
        data = load_data(spec, saved.task, seed=recipe.run.seed, base=base, pin=pin)
        if data.info.fingerprint == saved.info.fingerprint:
            return data
        data.close()
        warnings.warn(
            f"{saved.folder}: the data have changed since the run was trained", StillhouseWarning, stacklevel=2
        )
    return _open_plain(saved, spec, base, pin=pin)


def _open_given(saved: SavedRun, given: Given, *, pin: bool) -> MeasuredData:
    """Open data from Python: those that the run was trained on, or others."""
    recipe = saved.recipe
    spec = recipe.data
    if given.loaders:  # of the run's keys none changes what a loader makes
        args = spec.args if spec.given else {"classes": list(saved.info.class_names)} if saved.info.class_names else {}
        spec = DataSpec(name=spec.name, args=args)
    spec = describe_given(spec, given)
    if recipe.data.given:
        data = load_data(spec, saved.task, seed=recipe.run.seed, base=recipe.base, pin=pin, given=given)
        if data.info.fingerprint == saved.info.fingerprint:
            return data
        data.close()
    return _open_plain(saved, spec, recipe.base, pin=pin, given=given)


def _open_plain(saved: SavedRun, spec: DataSpec, base: Path, *, pin: bool, given: Given | None = None) -> MeasuredData:
    # The student knows inputs on the scale of its training, whatever these data's own mean would be.
    plain = attrs.evolve(spec, normalize="none", transforms=(), batch_transforms=())
    data = load_data(plain, saved.task, seed=saved.recipe.run.seed, base=base, pin=pin, given=given)
    try:
        return _normalise_as_trained(data, saved.info)
    except BaseException:
        data.close()
        raise


def _choose_other(spec: DataSpec, other: str, overrides: Sequence[str]) -> tuple[DataSpec, Path]:
    if other.endswith(".toml") or Path(other).is_file():
        recipe = Recipe.load(other, overrides=overrides)
        return recipe.data, recipe.base
    # Another folder of pairs, or another table, is taken to be laid out alike; a callable's arguments are its own.
    alike = other.partition(":")[0] == spec.name.partition(":")[0] in ("pairs", "photos", "table")
    args = spec.args if alike else {}
    own = spec.labelled_alone
    plain = attrs.evolve(own, name=other, args=args, per_class=None, limit=None, val_fraction=0.0, split=None)
    tables = {"data": unstructure(plain)}
    for override in overrides:
        apply_override(tables, override)
    return structure(tables["data"], DataSpec, "data"), Path()


def _normalise_as_trained(data: Data, known: DataInfo) -> MeasuredData:
    info = data.info
    if info.classes != known.classes:
        raise StillhouseError(
            f"must have the student's {known.classes} classes, got {info.classes}",
            where="data",
            hint="a class is a label from 0: give the same classes in the same order, in folders an empty folder "
            "in train for one without images"
            if info.classes < known.classes
            else "measure on data of the classes it was trained on",
        )
    if info.target != known.target:
        raise StillhouseError(f"must have targets of kind {known.target!r}, got {info.target!r}", where="data")
    differing = [
        f"{i} is {new!r} here and was {old!r}"
        for i, (new, old) in enumerate(zip(info.class_names, known.class_names, strict=False))
        if new != old
    ]
    if differing and sorted(info.class_names) == sorted(known.class_names):
        raise StillhouseError(
            f"classes must be in the training's order, {_list(known.class_names)}, got {_list(info.class_names)}",
            where="data",
            hint="labels count from 0 in that order; data.args.classes names them",
        )
    if differing:
        more = f", and {len(differing) - 3} more" if len(differing) > 3 else ""
        warnings.warn(
            f"classes have other names than in training: {'; '.join(differing[:3])}{more}",
            StillhouseWarning,
            stacklevel=3,
        )
    if len(info.input_shape) != len(known.input_shape) or info.input_shape[0] != known.input_shape[0]:
        channels = len(info.input_shape) == len(known.input_shape) == 3 and known.input_shape[0] in (1, 3)
        raise StillhouseError(
            f"inputs must have the training's shape {known.input_shape}, got {info.input_shape}",
            where="data",
            hint=f"--set data.channels={known.input_shape[0]}" if channels else "",
        )
    info = attrs.evolve(info, class_names=known.class_names, mean=known.mean, std=known.std)
    if not known.mean:
        return _NormalisedData(data, info, torch.zeros(()), torch.ones(()))
    shape = (len(known.mean), *[1] * (len(info.input_shape) - 1))
    mean, std = (torch.tensor(values).reshape(shape) for values in (known.mean, known.std))
    return _NormalisedData(data, info, mean, std)


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:4])) + (", ..." if len(names) > 4 else "")


@attrs.frozen(eq=False)
class _NormalisedData:
    """Data with inputs of 0 to 1, normalised by a run's statistics."""

    data: Data
    info: DataInfo
    mean: Tensor
    std: Tensor

    @property
    def splits(self) -> tuple[str, ...]:
        """See :attr:`stillhouse.data.Data.splits`."""
        return self.data.splits

    def example(self, n: int = 2, split: str = "train") -> Batch:
        """See :meth:`stillhouse.data.Data.example`."""
        return self.normalise(self.data.example(n, split))

    def evaluation(self, split: str) -> Iterable[Batch]:
        """See :meth:`stillhouse.data.Data.evaluation`."""
        return _Batches(self, self.data.evaluation(split))

    def normalise(self, batch: Batch) -> Batch:
        """Normalise a batch's inputs by the run's statistics."""
        return batch._replace(input=batch.input.sub(self.mean).div_(self.std))

    def close(self) -> None:
        """See :meth:`stillhouse.data.Data.close`."""
        self.data.close()


@attrs.frozen(eq=False)
class _Batches:
    data: _NormalisedData
    batches: Iterable[Batch]

    def __iter__(self) -> Iterator[Batch]:
        return map(self.data.normalise, self.batches)
