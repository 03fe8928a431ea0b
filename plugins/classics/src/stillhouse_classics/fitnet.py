"""FitNets: hints for thin deep nets (Romero et al. 2015, 1412.6550)."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse import Assembly, Plugin, Step, StillhouseError, Weight, hookimpl, plugin
from stillhouse.layout import channels
from stillhouse_classics.links import PROJECTIONS, ChannelMap, build_for_links, check_maps, check_shapes, give_terms

__all__ = ["FitNet", "hint_loss"]


def hint_loss(guided: Tensor, hint: Tensor) -> Tensor:
    """Half the mean square of ``hint - guided``: equation 3, with the mean over elements in place of the sum [choice].

    Args:
        guided: the student's features, mapped to the teacher's width: (B, C), (B, N, C) or (B, C, H, W).
        hint: the teacher's, of the same shape.

    Raises:
        StillhouseError: the shapes differ.
    """
    check_shapes(guided, hint)
    return 0.5 * F.mse_loss(guided, hint)


class Regressor(nn.Module):
    """The student's features at the teacher's width, and their distance from the hint."""

    def __init__(self, student: Tensor, teacher: Tensor, kernel: int) -> None:
        super().__init__()
        inputs, outputs = channels(student), channels(teacher)
        if kernel == 1:
            self.map: nn.Module = ChannelMap(inputs, outputs)
        else:
            check_maps(student)
            self.map = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Features of one link -> its loss."""
        return hint_loss(self.map(student), teacher)


@plugin
class FitNet(Plugin):
    """Have a regressor of the student's features give the teacher's.

    Source: 1412.6550, equation 3, on each link. The regressor is a convolution as in the paper, of one position unless
    ``kernel`` says otherwise, with the map's edge padded so that the grid stays [choice]; on vectors and tokens it is a
    linear map. The paper trains by the hints first and by the labels afterwards: that is ``weight = { until = ... }``
    beside the task's loss, which stays on [choice].

    Attributes:
        links: glob over link names.
        kernel: the regressor's kernel, an odd number; above 1 on maps only.
        weight: the factor of each link's term.
    """

    requires = ("links",)
    after = PROJECTIONS

    links: str = "*"
    kernel: int = 1
    weight: Weight = 1.0

    def __attrs_post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise StillhouseError(f"must be odd and >= 1, got {self.kernel}", where="kernel", hint="1, 3 or 5")

    @hookimpl
    def build(self, assembly: Assembly) -> nn.Module:
        """A regressor for each link.

        Raises:
            StillhouseError: a link without positions, for a kernel above 1.
        """
        return build_for_links(assembly, self.links, lambda s, t: Regressor(s, t, self.kernel))

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """The hint loss of each link."""
        return give_terms(step.match(self.links), *step.module(self))
