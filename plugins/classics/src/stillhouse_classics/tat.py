"""TAT: the target-aware transformer (Lin et al., CVPR 2022, 2205.10793)."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse import Assembly, Plugin, Step, StillhouseError, Weight, hookimpl, plugin
from stillhouse.layout import channels
from stillhouse_classics.links import (
    PROJECTIONS,
    build_for_links,
    check_maps,
    check_positions,
    check_shapes,
    give_terms,
    to_positions,
)

__all__ = ["TargetAwareTransformer", "rearrange", "target_loss"]


def rearrange(queries: Tensor, values: Tensor, teacher: Tensor) -> Tensor:
    """The student's map as each of the teacher's positions asks for it: a mean of all positions, weighted by likeness.

    The weights are the softmax, over the student's positions, of their inner products with the teacher's: the W that the
    paper defines. Its authors' code takes the softmax over the teacher's positions [choice].

    Args:
        queries: the student's map that is compared with the teacher's, (B, C, H, W).
        values: the student's map of which the mean is taken, (B, C, H, W).
        teacher: (B, C, H, W).

    Returns:
        (B, C, P), P = H W the teacher's positions.
    """
    likeness = to_positions(teacher).transpose(1, 2) @ to_positions(queries)
    return to_positions(values) @ likeness.softmax(dim=2).transpose(1, 2)


def target_loss(queries: Tensor, values: Tensor, teacher: Tensor) -> Tensor:
    """The mean square of what the rearranged student's map (see :func:`rearrange`) misses of the teacher's.

    Raises:
        StillhouseError: the shapes differ.
    """
    check_shapes(queries, teacher)
    check_shapes(values, teacher)
    return F.mse_loss(rearrange(queries, values, teacher), to_positions(teacher))


class Target(nn.Module):
    """The student's two maps at the teacher's width, each by a 3x3 convolution with BatchNorm: gamma and phi of the paper."""

    def __init__(self, student: Tensor, teacher: Tensor) -> None:
        super().__init__()
        check_maps(student, teacher)
        check_positions(student, teacher)
        if student.shape[2:].numel() < 2:
            raise StillhouseError(
                "needs at least 2 positions: each of the teacher's chooses among the student's",
                hint='read the layers with pool = "none", before the last pooling',
            )
        self.queries, self.values = (_embed(channels(student), channels(teacher)) for _ in range(2))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Maps (B, C, H, W) and (B, C', H, W) of one link -> the loss."""
        return target_loss(self.queries(student), self.values(student), teacher)


def _embed(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))


@plugin
class TargetAwareTransformer(Plugin):
    """Have each place of the teacher's map be made of all places of the student's, which it chooses by likeness.

    Source: 2205.10793, the parametric form, on each link. The paper's theta, of the teacher's map, is the identity and the
    loss the mean square, as in its authors' code; inner products are not scaled, as in both; there is one head, as in the
    paper. Its hierarchical form for large maps, by groups of patches and by anchor points, is not here.

    Attributes:
        links: glob over link names; their sides are maps (``pool = "none"``).
        weight: the factor of each link's term; 0.05 to 0.25 in the paper.
    """

    requires = ("links",)
    after = PROJECTIONS

    links: str = "*"
    weight: Weight = 0.1

    @hookimpl
    def build(self, assembly: Assembly) -> nn.Module:
        """Two embeddings of the student's map for each link.

        Raises:
            StillhouseError: a link without maps, of one position, or with other positions on its sides.
        """
        return build_for_links(assembly, self.links, Target)

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """What the student's rearranged map misses of the teacher's, of each link."""
        return give_terms(step.match(self.links), *step.module(self))
