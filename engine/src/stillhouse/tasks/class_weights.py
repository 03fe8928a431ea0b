"""Weights of classes in a loss: those that a recipe names, or such that every class counts alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from stillhouse.contract.batch import DataInfo
from stillhouse.errors import StillhouseError, did_you_mean

__all__ = ["ClassWeights", "check_weights", "get_weights", "resolve_weights"]

ClassWeights = Literal["balanced"] | dict[str, float]
"""As a recipe gives them: ``balanced``, or a factor by the name of a class."""

_WHERE = "class_weights"


def check_weights(weights: ClassWeights | None) -> None:
    """Refuse factors that are no weights.

    Raises:
        StillhouseError: a factor that is negative or not finite.
    """
    for name, value in weights.items() if isinstance(weights, Mapping) else ():
        if not (0.0 <= value < math.inf):
            raise StillhouseError(f"must be finite and >= 0, got {value}", where=f"{_WHERE}.{name}")


def resolve_weights(weights: ClassWeights | None, data: DataInfo) -> dict[str, float] | None:
    """The factor of each class of ``data``, in order; None where all count alike.

    ``balanced`` is samples / (classes x samples of the class), of the training samples, so that their mean over the samples is
    1, as in King & Zeng (2001); a class without any has 1. Of a table, classes that it does not name have 1.

    Raises:
        StillhouseError: a name that is none of the classes; ``balanced`` where classes cannot be counted.
    """
    if weights is None:
        return None
    where = f"task.args.{_WHERE}"
    if weights == "balanced":
        counts = data.class_counts
        if not counts:
            kind = f"the data's targets are of the kind {data.target!r}"
            untold = "the loader does not say which classes the samples have that it gives"
            what = f"'balanced' needs a class for each sample, and {untold if data.target == 'class' else kind}"
            raise StillhouseError(what, where=where, hint='a table: class_weights = { "NAME" = 2.0 }')
        there = [count for count in counts if count]
        factors = [sum(there) / (len(there) * count) if count else 1.0 for count in counts]
        return dict(zip(data.class_names, factors, strict=True))
    assert isinstance(weights, Mapping)  # the other of the two
    for name in weights:
        if name not in data.class_names:
            hint = did_you_mean(name, data.class_names)
            raise StillhouseError("is none of the data's classes", where=f"{where}.{name}", hint=hint)
    return {name: float(weights.get(name, 1.0)) for name in data.class_names}


def get_weights(weights: ClassWeights | None, like: Tensor) -> Tensor | None:
    """Resolved ``weights`` as a tensor (C,) on the device of ``like``; None where all classes count alike.

    Raises:
        StillhouseError: they are not resolved: the task was not told its data (:meth:`stillhouse.contract.task.Task.for_data`).
    """
    if weights is None:
        return None
    if isinstance(weights, str):
        raise StillhouseError("counts classes, and the task was told no data", where=f"task.args.{_WHERE}")
    return _place(tuple(weights.values()), like.device)


@lru_cache(maxsize=64)
def _place(weights: tuple[float, ...], device: torch.device) -> Tensor:
    """Made once for each device, so that no step waits for the copy."""
    return torch.tensor(weights, dtype=torch.float32, device=device)
