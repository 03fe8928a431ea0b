"""FSP: the flow of the solution procedure (Yim et al., CVPR 2017, "A Gift from Knowledge Distillation")."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor

from stillhouse import Link, Plugin, Step, StillhouseError, Weight, hookimpl, plugin
from stillhouse.layout import channels
from stillhouse_classics.links import check_maps, widen

__all__ = ["SolutionFlow", "flow", "flow_loss"]


def flow(first: Tensor, second: Tensor) -> Tensor:
    """The FSP matrix (B, C, D) of maps (B, C, H, W) and (B, D, H', W'): the mean over positions of products of channels.

    Equation 1. Of two grids the finer is brought to the coarser by the greatest value, as in the authors' code.
    """
    grid = [min(sizes) for sizes in zip(first.shape[2:], second.shape[2:], strict=True)]
    a, b = (x if list(x.shape[2:]) == grid else F.adaptive_max_pool2d(x, grid) for x in (first, second))
    return a.flatten(2) @ b.flatten(2).transpose(1, 2) / (grid[0] * grid[1])


def flow_loss(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """The mean square of the difference between the two sides' FSP matrices; equation 2 sums over entries [choice].

    Args:
        student: maps of an earlier and of a later layer.
        teacher: the same, of as many channels.

    Raises:
        StillhouseError: a side is no map, or the widths differ.
    """
    check_maps(*student, *teacher)
    for s, t in zip(student, teacher, strict=True):
        if channels(s) != channels(t):
            raise StillhouseError(
                f"both sides must have as many channels, got {channels(s)} and {channels(t)}",
                hint='list projector with kind = "linear", or read layers of one width',
            )
    return F.mse_loss(flow(*student), flow(*teacher))


@plugin
class SolutionFlow(Plugin):
    """Have channels of one layer go with channels of the next as they do in the teacher.

    Source: CVPR 2017, pages 7130 to 7138, equations 1 and 2, on each pair of neighbouring links in their order. The
    paper starts the student by this loss and then trains it by labels: ``weight = { until = ... }`` ends it.

    Attributes:
        links: glob over link names, of at least two; their sides are maps (``pool = "none"``) of as many channels.
        weight: the factor of each pair's term.
    """

    requires = ("links",)

    links: str = "*"
    weight: Weight = 1.0

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """The distance of the matrices of each pair of links, by its number from 1; ``""`` where there is one.

        Raises:
            StillhouseError: fewer than two links, or a pair that does not fit.
        """
        links = step.match(self.links)
        if len(links) < 2:
            raise StillhouseError(
                f"needs at least 2 links, got {len(links)}", where="links", hint="it relates each layer to the next"
            )
        pairs = list(pairwise(links))
        return {"" if len(pairs) == 1 else str(n): _compare(*pair) for n, pair in enumerate(pairs, start=1)}


def _compare(first: Link, second: Link) -> Tensor:
    try:
        return flow_loss((widen(first.student), widen(second.student)), (widen(first.teacher), widen(second.teacher)))
    except StillhouseError as error:
        raise error.within(f"links {first.name!r} and {second.name!r}") from None
