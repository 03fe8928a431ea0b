"""Samples spread evenly over a split, taken out of its batches as they come by: neighbours are often of one class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stillhouse.nested import map_tensors, slice_rows

__all__ = ["Spread"]


class Spread:
    """Takes ``count`` samples out of one pass over a split: the k-th lies (k + 0.5) / count of the way through it.

    Args:
        count: how many; fewer of a split that has fewer.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._taken: list[Any] = []
        self._seen = 0

    def begin(self) -> None:
        """A pass begins: what was taken of the one before is forgotten."""
        self._taken, self._seen = [], 0

    def take_in(self, total: int, values: dict[str, Any]) -> None:
        """Take what lies in the next batch of ``total`` samples: tensors (B, ...), lists of B, and tuples and dicts of these.

        ``input`` tells B.
        """
        rows = len(values["input"])
        places = {int((k + 0.5) / self._count * total) - self._seen for k in range(self._count)}
        for row in sorted(place for place in places if 0 <= place < rows):
            one = slice_rows(values, slice(row, row + 1), rows)
            self._taken.append(map_tensors(lambda x: x.detach().cpu(), one))
        self._seen += rows

    def take_out(self) -> dict[str, Any] | None:
        """The samples as one batch, which this forgets; None where there are none."""
        taken, self._taken = self._taken, []
        return _join(taken) if taken else None


def _join(parts: list[Any]) -> Any:
    """Batches of one sample each as one batch."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)
    if isinstance(first, dict):
        return {key: _join([part[key] for part in parts]) for key in first}
    if isinstance(first, tuple):
        values = [_join(list(each)) for each in zip(*parts, strict=True)]
        return type(first)(*values) if hasattr(first, "_fields") else tuple(values)
    return [value for part in parts for value in part] if isinstance(first, list) else first
