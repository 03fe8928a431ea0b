"""Class indices of others' data sets: from a sample's target, or from a list that the data set keeps."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillhouse.data.sampler import Ids
from stillhouse.errors import StillhouseError

__all__ = ["count_labels", "find_listed_labels", "parse_label", "stack_labels"]


def parse_label(target: Any) -> int:
    """Convert a target to a class index.

    Raises:
        StillhouseError: it is not a whole number.
    """
    if type(target) is int:
        return target
    value = target
    if (isinstance(value, Tensor) and value.numel() == 1) or (isinstance(value, np.ndarray) and value.size == 1):
        value = value.item()
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
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


def find_listed_labels(dataset: Any) -> Ids | None:
    """Find the labels that a data set lists, one for each sample; None where it lists none."""
    if isinstance(dataset, torch.utils.data.Subset):
        inner = find_listed_labels(dataset.dataset)
        return None if inner is None else inner[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, torch.utils.data.TensorDataset):
        last = dataset.tensors[-1]
        listed: Any = last[:, 0] if last.ndim == 2 and last.shape[1] == 1 else last
    elif getattr(dataset, "target_transform", None) is not None:
        return None
    else:
        named = (getattr(dataset, name, None) for name in ("targets", "labels", "_labels"))
        listed = next((value for value in named if value is not None), None)
    try:
        array = np.asarray(listed)
    except Exception:  # noqa: BLE001 - an attribute of that name may be anything
        return None
    return array.astype(np.int64) if array.ndim == 1 and array.dtype.kind in "iu" else None


def count_labels(labels: Ids, classes: int) -> tuple[int, ...]:
    """How many of ``labels`` (N,) are each of the ``classes``; values of no class are refused elsewhere, where they are read."""
    known = labels[(labels >= 0) & (labels < classes)]
    return tuple(np.bincount(known, minlength=classes).tolist())
