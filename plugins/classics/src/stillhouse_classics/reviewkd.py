"""ReviewKD: distillation by knowledge review (Chen et al. 2021, 2104.09044)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse import Assembly, Plugin, Step, Weight, hookimpl, plugin
from stillhouse.layout import channels
from stillhouse_classics.checks import check_counts
from stillhouse_classics.links import PROJECTIONS, build_for_links, check_maps, check_shapes, give_terms

__all__ = ["KnowledgeReview", "context_loss"]


def context_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Hierarchical context loss: the mean square at the map's own grid and at 4, 2 and 1 cells a side, each counting half.

    Figure 3b and the authors' code: levels that are no coarser than the map are left out, and the factors 1, 1/2, 1/4, ...
    are brought to the sum 1.

    Args:
        student: a map (B, C, H, W).
        teacher: of the same shape.

    Raises:
        StillhouseError: the shapes differ, or are no maps.
    """
    check_maps(student, teacher)
    check_shapes(student, teacher)
    grids = [cells for cells in (4, 2, 1) if cells < student.shape[2]]
    pooled = ((F.adaptive_avg_pool2d(student, n), F.adaptive_avg_pool2d(teacher, n)) for n in grids)
    levels = [F.mse_loss(s, t) for s, t in ((student, teacher), *pooled)]
    factors = [0.5**level for level in range(len(levels))]
    whole = sum((factor * level for factor, level in zip(factors, levels, strict=True)), start=student.new_zeros(()))
    return whole / sum(factors)


class Fusion(nn.Module):
    """Attention-based fusion of a stage with what comes from the later ones (figure 3a); the last stage has none."""

    def __init__(self, student: Tensor, teacher: Tensor, middle: int, *, last: bool) -> None:
        super().__init__()
        check_maps(student, teacher)
        width, out = channels(student), channels(teacher)
        self.squeeze = nn.Sequential(nn.Conv2d(width, middle, 1, bias=False), nn.BatchNorm2d(middle))
        self.expand = nn.Sequential(nn.Conv2d(middle, out, 3, padding=1, bias=False), nn.BatchNorm2d(out))
        self.look = None if last else nn.Sequential(nn.Conv2d(2 * middle, 2, 1), nn.Sigmoid())

    def forward(self, x: Tensor, later: Tensor | None) -> tuple[Tensor, Tensor]:
        """A stage (B, C, H, W) and what came from later ones (B, M, h, w) -> its map at the teacher's width, and (B, M, H, W)."""
        x = self.squeeze(x)
        if self.look is not None and later is not None:
            later = F.interpolate(later, x.shape[2:])
            here, there = self.look(torch.cat([x, later], 1)).split(1, 1)
            x = x * here + later * there
        return self.expand(x), x


@plugin
class KnowledgeReview(Plugin):
    """Match each of the teacher's layers with the student's layer and all later ones, fused from the last one backwards.

    Source: 2104.09044, equation 4 with the fusion and the loss of figure 3, on the links in their order, the earliest
    first. The fusion's grid is that of the student's layer.

    Attributes:
        links: glob over link names; their sides are maps (``pool = "none"``), earliest layer first.
        middle: channels of the fusion; 64 to 512 in the authors' code.
        weight: the factor of each link's term.
    """

    requires = ("links",)
    after = PROJECTIONS

    links: str = "*"
    middle: int = 64
    weight: Weight = 1.0

    def __attrs_post_init__(self) -> None:
        check_counts(middle=self.middle)

    @hookimpl
    def build(self, assembly: Assembly) -> nn.Module:
        """A fusion for each link.

        Raises:
            StillhouseError: a link without maps.
        """
        left = iter(range(len(assembly.match(self.links)) - 1, -1, -1))
        return build_for_links(assembly, self.links, lambda s, t: Fusion(s, t, self.middle, last=next(left) == 0))

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """The hierarchical context loss of each link."""
        links, fusions = step.match(self.links), step.module(self)
        later: list[Tensor] = []

        def review(fusion: Fusion, student: Tensor, teacher: Tensor) -> Tensor:
            out, passed = fusion(student, later[-1] if later else None)
            later.append(passed)
            return context_loss(out, teacher)

        backwards = [lambda s, t, fusion=fusion: review(fusion, s, t) for fusion in reversed(fusions)]
        return give_terms(links[::-1], *backwards)
