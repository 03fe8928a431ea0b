"""What torch's data sets offer beside a sample by its number: tensors as they are, several samples at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Subset, TensorDataset

from stillhouse.data.draws import Begin
from stillhouse.data.hub_rows import has_rows, is_unchanging
from stillhouse.data.sources import Part
from stillhouse.data.targets import Kind
from stillhouse.data.tensors import convert_stacked

__all__ = ["find_tensors", "is_pure", "read_items"]


def is_pure(dataset: Any) -> bool:
    """Whether reading is certainly free of randomness; a data set of unknown type may augment."""
    if type(dataset) is Subset:  # one of another class may augment
        return is_pure(dataset.dataset)
    if has_rows(dataset):
        return is_unchanging(dataset)
    return type(dataset) in (TensorDataset, list, tuple)


def read_items(dataset: Any, rows: list[int], begin: Begin | None) -> Sequence[Any]:
    """Read samples as torch's DataLoader does, by ``__getitems__`` where there is one; with ``begin`` one by one."""
    at_once: Callable[[list[int]], Sequence[Any]] = getattr(
        dataset, "__getitems__", lambda some: [dataset[at] for at in some]
    )
    if begin is None:
        return at_once(rows)
    items: list[Any] = []
    for row, at in enumerate(rows):
        begin(row)
        items += at_once([at])
    return items


def find_tensors(dataset: Any, kind: Kind) -> Part | None:
    """Find the tensors of a TensorDataset, or of a Subset of one, with targets of ``kind``.

    Returns:
        Inputs and targets as a source gives them: the data set's own memory, where they need no conversion. None where
        they have to be read one by one: on another device, of another kind of targets, or of no form that is known.
    """
    if type(dataset) is Subset:
        whole, chosen = find_tensors(dataset.dataset, kind), np.asarray(dataset.indices, dtype=np.int64)
        if whole is None:
            return None
        rows = np.arange(len(whole.inputs)) if whole.rows is None else whole.rows
        fits = len(chosen) and -len(rows) <= chosen.min() and chosen.max() < len(rows)
        return whole._replace(rows=rows[chosen]) if fits else None
    if type(dataset) is not TensorDataset or len(dataset.tensors) != 2 or kind not in ("class", "vector"):
        return None
    given, targets = dataset.tensors
    inputs = convert_stacked(given) if given.device.type == targets.device.type == "cpu" else None
    if inputs is None:
        return None
    return Part(inputs, None if kind == "class" else targets.detach().float().reshape(len(inputs), -1))
