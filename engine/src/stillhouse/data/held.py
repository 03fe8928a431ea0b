"""Samples in memory: read once, or tensors that their source has in any case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.data.sources import Ids, Part
from stillhouse.nested import list_tensors

__all__ = ["Memory", "Seen", "join_parts"]

_SEEN_BYTES = 1 << 30


@attrs.frozen(eq=False)
class Memory:
    """Samples kept in memory, in parts that follow one another by id.

    Attributes:
        parts: their inputs and targets.
        starts: the first id of each part (P,).
        row_of: the row of each id (N,) in its part; -1 where it is not held.
    """

    parts: tuple[Part, ...]
    starts: Ids
    row_of: Ids

    def holds(self, i: int) -> bool:
        """Whether sample ``i`` is held."""
        return bool(self.row_of[i] >= 0)

    def holds_all(self, ids: Ids) -> bool:
        """Whether every sample of ``ids`` is held."""
        return bool((self.row_of[ids] >= 0).all())

    def read_input(self, i: int) -> Tensor:
        """Return sample ``i``'s input: a view, not to be written to."""
        return self._find_part(i).inputs[self.row_of[i]]

    def read_pair(self, i: int) -> tuple[Tensor, Any]:
        """Return sample ``i``'s input and target; None for a class index, which the source knows."""
        part, row = self._find_part(i), self.row_of[i]
        return part.inputs[row], None if part.targets is None else part.targets[row]

    def take(self, ids: Ids) -> Tensor:
        """Copy the inputs of ``ids`` (B, ...)."""
        part = self._find_common_part(ids)
        if part is None or not isinstance(part.inputs, Tensor):
            return torch.stack([self.read_input(i) for i in ids.tolist()])
        return part.inputs.index_select(0, torch.from_numpy(self.row_of[ids]))

    def view(self, ids: Ids) -> list[NDArray[Any]]:
        """Return the inputs of ``ids`` as arrays where they lie, not to be written to."""
        part = self._find_common_part(ids)
        if part is None or not isinstance(part.inputs, Tensor):
            return [self.read_input(i).numpy() for i in ids.tolist()]
        rows = part.inputs.numpy()
        return [rows[row] for row in self.row_of[ids].tolist()]

    def _find_part(self, i: int) -> Part:
        return self.parts[int(np.searchsorted(self.starts, i, side="right")) - 1]

    def _find_common_part(self, ids: Ids) -> Part | None:
        if len(self.parts) == 1:
            return self.parts[0]
        first, last = np.searchsorted(self.starts, (ids.min(), ids.max()), side="right")
        return self.parts[first - 1] if first == last else None


class Seen:
    """Samples that were read to be looked at before training, up to 1 GiB: the next look does not read them again."""

    def __init__(self) -> None:
        self._pairs: dict[int, tuple[Tensor, Any]] = {}
        self._left = _SEEN_BYTES

    def add(self, i: int, x: Tensor, target: Any) -> Seen:
        """Hold sample ``i``'s input and target, as read and shaped, where they fit in; returns itself."""
        size = sum(tensor.numel() * tensor.itemsize for tensor in list_tensors((x, target)))
        if i not in self._pairs and size <= self._left:
            self._pairs[i] = x, target
            self._left -= size
        return self

    def find(self, i: int) -> tuple[Tensor, Any] | None:
        """Return sample ``i``, its input as a copy of its own; None where it is not held."""
        pair = self._pairs.get(i)
        return None if pair is None else (pair[0].clone(), pair[1])


def join_parts(parts: Sequence[Part]) -> Memory:
    """Make the memory of all of a source's samples: ``parts`` in the order of their ids."""
    rows = [np.arange(len(part.inputs)) if part.rows is None else part.rows for part in parts]
    return Memory(tuple(parts), np.cumsum([0, *map(len, rows[:-1])]), np.concatenate(rows))
