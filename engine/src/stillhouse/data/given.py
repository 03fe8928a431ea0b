"""Data that Python hands over in the place of a recipe's: data sets or loaders, one of them or one for each split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from stillhouse.config.data import DataSpec
from stillhouse.data.fields import FIELDS_KEY
from stillhouse.data.map_style import DatasetSource
from stillhouse.data.sources import ALIASES, Source, SourceRequest
from stillhouse.data.targets import TargetSpec
from stillhouse.errors import Fault, StillhouseError, did_you_mean, raise_faults

__all__ = ["Given", "describe_given", "read_given"]

_WHERE = "data"
_SPLITS = ("train", "val", "test")
_OF_LOADERS = ("name", "args", "batch_size", "normalize", "batch_transforms", "given")
"""Keys of ``[data]`` that say something of batches which somebody else makes."""


@attrs.frozen(eq=False)
class Given:
    """What was handed over.

    Attributes:
        parts: data sets, or loaders, by split.
        whole: one data set, to be split here.
        loaders: whether they give batches; else samples by their number.
    """

    parts: dict[str, Any]
    whole: bool
    loaders: bool

    @property
    def name(self) -> str:
        """What a recipe calls it: the training data's class."""
        return type(self.parts["train"]).__qualname__

    def open(self, name: str, request: SourceRequest) -> Source:
        """Open data sets as a source.

        Raises:
            StillhouseError: an argument that says nothing of samples, or data sets that cannot be used.
        """
        known = (FIELDS_KEY, *(field.name for field in attrs.fields(TargetSpec)))
        raise_faults(
            Fault(f"data.args.{key}", f"unknown key {key!r} of data from Python", did_you_mean(key, known))
            for key in request.args
            if key not in known
        )
        return DatasetSource(
            self.parts["train"] if self.whole else self.parts,
            name,
            request.val_fraction,
            described=request.args,
            skip_bad=request.skip_bad,
            background=request.background,
        )


def read_given(given: Any) -> Given:
    """Read what was handed over as ``data``.

    Args:
        given: a map-style data set, which is split here, or a loader; a pair, or three of them: training, validation,
            test; or a mapping from split to them.

    Raises:
        StillhouseError: something else, data sets among loaders, or a loader without a length.
    """
    if isinstance(given, Given):
        return given
    whole = not isinstance(given, Mapping) and not (isinstance(given, tuple) and len(given) in (2, 3))
    if whole:
        parts = {"train": given}
    elif isinstance(given, tuple):
        parts = dict(zip(_SPLITS, given, strict=False))
    else:
        parts = {ALIASES.get(key, key): part for key, part in given.items()}
    raise_faults(fault for name, part in parts.items() if (fault := _find_fault(name, part)) is not None)
    kinds = {_is_loader(part) for part in parts.values()}
    if len(kinds) > 1:
        what = "must be data sets or loaders, got both: " + _list_types(parts)
        raise StillhouseError(what, where=_WHERE, hint="a loader has its data set as `dataset`")
    if "train" not in parts:
        hint = did_you_mean("train", map(str, parts)) if parts else ""
        raise StillhouseError(f"has no split 'train', got {_list_types(parts) or 'nothing'}", where=_WHERE, hint=hint)
    return Given(parts, whole, kinds == {True})


def _is_loader(part: Any) -> bool:
    return isinstance(part, DataLoader) or not hasattr(part, "__getitem__")


def _find_fault(name: Any, part: Any) -> Fault | None:
    where = f"{_WHERE}[{name!r}]"
    if name not in _SPLITS:
        return Fault(where, "unknown split", f"splits are {', '.join(_SPLITS)}")
    if isinstance(part, Tensor | np.ndarray):
        return Fault(
            where, f"must be a data set or a loader, got {type(part).__name__}", "TensorDataset(inputs, targets)"
        )
    if isinstance(part, str | bytes) or not (hasattr(part, "__getitem__") or hasattr(part, "__iter__")):
        hint = "a data set's name belongs into the recipe" if isinstance(part, str) else ""
        return Fault(where, f"must be a data set or a loader, got {type(part).__name__}", hint)
    if isinstance(part, IterableDataset):
        hint = "wrap it in a DataLoader, and give it a __len__"
        return Fault(where, f"{type(part).__name__} gives samples one after the other, and none by its number", hint)
    if not _is_loader(part):
        return None  # a data set is looked at where it is opened
    if isinstance(part, Iterator):
        return Fault(
            where, f"{type(part).__name__} can be gone through once only", "a loader begins anew at each iter()"
        )
    try:
        length = len(part)
    except (TypeError, NotImplementedError):
        hint = "an IterableDataset needs a __len__" if isinstance(part, DataLoader) else "give it a __len__"
        return Fault(where, f"{type(part).__name__} has no length, so that nobody knows where an epoch ends", hint)
    return Fault(where, "is empty: it has no batch") if length == 0 else None


def _list_types(parts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {type(part).__name__}" for name, part in parts.items())


def describe_given(spec: DataSpec, given: Given) -> DataSpec:
    """Return ``spec`` as the recipe of a run on ``given`` has it.

    Raises:
        StillhouseError: keys that can change nothing in batches that a loader makes.
    """
    train = given.parts["train"]
    named = attrs.evolve(spec, name=given.name, given=True)
    if not given.loaders:
        return named
    plain = DataSpec(name=named.name)
    faults = [
        Fault(
            f"data.{field.name}", f"a loader's batches are taken as they are, got {getattr(spec, field.name)!r}", _HINT
        )
        for field in attrs.fields(DataSpec)
        if field.name not in _OF_LOADERS and getattr(spec, field.name) != getattr(plain, field.name)
    ]
    if spec.normalize == "imagenet":
        faults.append(Fault("data.normalize", "a loader's batches are taken as they are, got 'imagenet'", _HINT))
    size = getattr(train, "batch_size", None) or getattr(getattr(train, "batch_sampler", None), "batch_size", None)
    if size is not None and spec.batch_size not in (plain.batch_size, size):
        faults.append(Fault("data.batch_size", f"the loader makes batches of {size}, got {spec.batch_size}", _HINT))
    raise_faults(faults)
    return attrs.evolve(named, batch_size=size or spec.batch_size, normalize="none")


_HINT = "leave the key out, or hand over the data set"
