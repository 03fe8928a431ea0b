"""Class indices of others' data sets: from a sample's target, or from a list that the data set keeps."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillhouse.data.fields import Fields
from stillhouse.data.hub_rows import find_names, has_rows, list_classes
from stillhouse.data.sampler import Ids
from stillhouse.errors import StillhouseError

__all__ = ["count_labels", "find_class_names", "find_listed_labels", "parse_label", "stack_labels"]


_MOST = 1 << 62
"""No class has such a number."""


def parse_label(target: Any) -> int:
    """Convert a target to a class index.

    Raises:
        StillhouseError: it is not a whole number.
    """
    if type(target) is int and abs(target) < _MOST:
        return target
    value = target
    if (isinstance(value, Tensor) and value.numel() == 1) or (isinstance(value, np.ndarray) and value.size == 1):
        value = value.item()
    try:
        if isinstance(value, bool):
            raise TypeError
        index = operator.index(value)
        if abs(index) >= _MOST:
            raise TypeError
        return index
    except TypeError:
        shown = repr(target) if len(repr(target)) <= 40 else type(target).__name__
        raise StillhouseError(f"the target must be a class index (a whole number >= 0), got {shown}") from None


def stack_labels(targets: Sequence[Any]) -> Ids | None:
    """Convert the targets of a batch to class indices (B,) at once; None where they are not all whole numbers of one type."""
    try:
        array = torch.stack(list(targets)).numpy() if isinstance(targets[0], Tensor) else np.asarray(targets)
    except (TypeError, ValueError, RuntimeError):
        return None
    whole = array.dtype.kind in "iu" and array.size == len(targets)
    return array.reshape(-1).astype(np.int64, copy=False) if whole else None


def find_class_names(dataset: Any, fields: Fields | None = None) -> tuple[str, ...]:
    """Find the names of a data set's classes, in its ``classes`` or its target's feature; empty where it has none."""
    if has_rows(dataset):
        return find_names(dataset, fields)
    while isinstance(dataset, torch.utils.data.Subset):
        dataset = dataset.dataset
    given = getattr(dataset, "classes", None)
    given = given.tolist() if isinstance(given, np.ndarray | Tensor) and given.ndim == 1 else given
    return tuple(map(_join_name, given)) if isinstance(given, Sequence) and not isinstance(given, str) else ()


def _join_name(given: Any) -> str:
    """Return a class's name; several names of one class are joined."""
    return ", ".join(map(str, given)) if isinstance(given, Sequence) and not isinstance(given, str) else str(given)


def find_listed_labels(dataset: Any, fields: Fields | None = None) -> Ids | None:
    """Find the labels that a data set lists, one for each sample; None where it lists none of the field that is the target."""
    if has_rows(dataset):
        return list_classes(dataset, fields)
    if fields is not None:
        return None
    if isinstance(dataset, torch.utils.data.Subset):
        inner, rows = find_listed_labels(dataset.dataset), np.asarray(dataset.indices, dtype=np.int64)
        fits = inner is not None and (not len(rows) or -len(inner) <= rows.min() <= rows.max() < len(inner))
        return inner[rows] if inner is not None and fits else None
    if isinstance(dataset, torch.utils.data.TensorDataset):
        last = dataset.tensors[-1]
        listed: Any = last[:, 0] if last.ndim == 2 and last.shape[1] == 1 else last
    elif getattr(dataset, "target_transform", None) is not None:
        return None
    else:
        listed = None
    try:
        if listed is None:
            named = (getattr(dataset, name, None) for name in ("targets", "labels", "_labels"))
            listed = next((value for value in named if value is not None), None)
        array = np.asarray(listed)
    except Exception:  # noqa: BLE001 - an attribute of that name may be anything
        return None
    return array.astype(np.int64) if array.ndim == 1 and array.dtype.kind in "iu" else None


def count_labels(labels: Ids, classes: int) -> tuple[int, ...]:
    """How many of ``labels`` (N,) are each of the ``classes``; values of no class are refused elsewhere, where they are read."""
    known = labels[(labels >= 0) & (labels < classes)]
    return tuple(np.bincount(known, minlength=classes).tolist())
