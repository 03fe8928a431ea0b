"""MGD: masked generative distillation (Yang et al. 2022, 2205.01529)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse import Assembly, Plugin, Step, Weight, hookimpl, plugin
from stillhouse.layout import channels
from stillhouse_classics.checks import check_shares
from stillhouse_classics.links import PROJECTIONS, build_for_links, check_maps, check_positions, give_terms

__all__ = ["MaskedGeneration", "draw_mask"]


def draw_mask(like: Tensor, share: float) -> Tensor:
    """A mask (B, 1, H, W) of zeros and ones for maps ``like`` (B, C, H, W), each position 0 with probability ``share``.

    Drawn on the CPU, by torch's generator: the same on every device. Equation 2.
    """
    b, _, h, w = like.shape
    return (torch.rand(b, 1, h, w) >= share).to(like.device, like.dtype, non_blocking=True)


class Generation(nn.Module):
    """Makes the teacher's map of the student's with positions taken out: align, mask, two 3x3 convolutions."""

    def __init__(self, student: Tensor, teacher: Tensor, share: float) -> None:
        super().__init__()
        check_maps(student, teacher)
        check_positions(student, teacher)
        self.share = share
        inputs, outputs = channels(student), channels(teacher)
        self.align = nn.Conv2d(inputs, outputs, 1)
        self.generate = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1)
        )

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Maps of one link -> the mean square of their difference: equations 3 to 5."""
        aligned = self.align(student)
        return F.mse_loss(self.generate(aligned * draw_mask(aligned, self.share)), teacher)


@plugin
class MaskedGeneration(Plugin):
    """Have the teacher's whole map be made of the student's, of which random positions are missing.

    Source: 2205.01529, equations 2 to 5, on each link. The paper sums the squares over a map; here it is the mean
    [choice], so that its weight of 7e-5 for sums is another here.

    Attributes:
        links: glob over link names; their sides are maps (``pool = "none"``).
        share: the share of positions that are taken out, the paper's lambda, from 0 to below 1.
        weight: the factor of each link's term.
    """

    requires = ("links",)
    after = PROJECTIONS

    links: str = "*"
    share: float = 0.5
    weight: Weight = 1.0

    def __attrs_post_init__(self) -> None:
        check_shares(share=self.share)

    @hookimpl
    def build(self, assembly: Assembly) -> nn.Module:
        """A generator for each link.

        Raises:
            StillhouseError: a link without maps, or with other positions on its sides.
        """
        return build_for_links(assembly, self.links, lambda s, t: Generation(s, t, self.share))

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """What the generated map misses, of each link."""
        return give_terms(step.match(self.links), *step.module(self))
