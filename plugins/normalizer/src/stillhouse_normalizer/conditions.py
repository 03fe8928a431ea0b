"""What whitening was given in the step at hand, for its condition number where that is asked for."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from stillhouse.distributed import processes as parallel
from stillhouse.layout import to_rows
from stillhouse_normalizer.whitening import compute_condition

__all__ = ["Conditions"]


class Conditions(nn.Module):
    """Keeps the features of the last step, which are no part of the state; nothing is computed until somebody asks.

    Args:
        eps: the shrinkage.
        gather: of several processes: the whole batch's rows count.
    """

    def __init__(self, eps: float, *, gather: bool) -> None:
        super().__init__()
        self._eps, self._gather = eps, gather
        self._kept: dict[str, Tensor] = {}

    def keep(self, name: str, x: Tensor) -> None:
        """Remember the features (any layout) that are whitened as ``name``; not in a step that is compiled as a whole."""
        if not torch.compiler.is_compiling():
            self._kept[name] = x.detach()

    @torch.no_grad()
    def measure(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each name with its condition number; in several processes all of them ask."""
        for name, x in self._kept.items():
            yield name, compute_condition(to_rows(parallel.gather(x) if self._gather else x), self._eps)
