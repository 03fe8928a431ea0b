"""ICKD: inter-channel correlation (Liu et al., ICCV 2021, 2202.03680)."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse import Assembly, Plugin, Step, Weight, hookimpl, plugin
from stillhouse_classics.links import PROJECTIONS, LinkedMap, build_for_links, check_shapes, give_terms, to_positions

__all__ = ["ChannelCorrelation", "channel_correlation", "correlation_distance"]


def channel_correlation(x: Tensor) -> Tensor:
    """Inner products of channels over positions (B, C, C), each row of Euclidean norm 1: equation 2."""
    x = to_positions(x)
    return F.normalize(x @ x.transpose(1, 2), dim=2)


def correlation_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean square of the difference between the two sides' correlations of channels: equation 3.

    Rows of norm 1 are the scale [choice]: as they are, the layer with the largest features would be all that counts.

    Args:
        student: features at the teacher's width, in any layout.
        teacher: of the same shape.

    Raises:
        StillhouseError: the shapes differ.
    """
    check_shapes(student, teacher)
    return F.mse_loss(channel_correlation(student), channel_correlation(teacher))


@plugin
class ChannelCorrelation(Plugin):
    """Have the student's channels, mapped to the teacher's width, be as diverse and as alike as the teacher's.

    Source: 2202.03680, equations 2 and 3, on each link; the map is linear with BatchNorm. The paper's form for dense
    tasks, which cuts maps into patches, is not here.

    Attributes:
        links: glob over link names.
        weight: the factor of each link's term.
    """

    requires = ("links",)
    after = PROJECTIONS

    links: str = "*"
    weight: Weight = 1.0

    @hookimpl
    def build(self, assembly: Assembly) -> nn.Module:
        """A map of channels for each link."""
        return build_for_links(assembly, self.links, LinkedMap)

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """The distance of the correlations of each link."""
        return give_terms(
            step.match(self.links), *(embed.with_loss(correlation_distance) for embed in step.module(self))
        )
