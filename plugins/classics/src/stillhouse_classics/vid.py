"""VID: variational information distillation (Ahn et al. 2019, 1904.05835)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse import Assembly, Plugin, Step, StillhouseError, Weight, hookimpl, plugin
from stillhouse.layout import channels, to_rows
from stillhouse_classics.links import PROJECTIONS, ChannelMap, build_for_links, check_positions, give_terms

__all__ = ["VariationalInformation", "information_loss"]

_LEAST = 1e-5
"""The least variance, added to the softplus: equation 6's epsilon."""


def information_loss(mean: Tensor, variance: Tensor, teacher: Tensor) -> Tensor:
    """The negative logarithm of a Gaussian's density at the teacher's features, less its constant; mean over elements.

    Equation 5: (log v_c + (t - m)^2 / v_c) / 2, with a variance for each channel. The paper sums over elements [choice].

    Args:
        mean: what the student makes the teacher's features to be, rows (R, C).
        variance: of each channel (C,), positive.
        teacher: rows (R, C).
    """
    return 0.5 * (variance.log() + (teacher - mean).square() / variance).mean()


class Regressor(nn.Module):
    """A Gaussian of the teacher's features given the student's: three linear maps of channels, and a variance each."""

    def __init__(self, student: Tensor, teacher: Tensor, variance: float) -> None:
        super().__init__()
        check_positions(student, teacher)
        inputs, outputs = channels(student), channels(teacher)
        self.mean = nn.Sequential(
            ChannelMap(inputs, outputs),
            nn.ReLU(),
            ChannelMap(outputs, outputs),
            nn.ReLU(),
            ChannelMap(outputs, outputs),
        )
        self.raw = nn.Parameter(torch.full((outputs,), math.log(math.expm1(variance - _LEAST))))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Features of one link -> its loss."""
        check_positions(student, teacher)
        return information_loss(to_rows(self.mean(student)), F.softplus(self.raw) + _LEAST, to_rows(teacher))


@plugin
class VariationalInformation(Plugin):
    """Have the student's features tell as much as they can about the teacher's.

    Source: 1904.05835, equations 4 to 6, on each link: a bound of the mutual information, whose Gaussian's mean is a
    network of the student's features and whose variance is learned for each channel, softplus(a_c) + 1e-5. The network
    has three 1x1 convolutions with ReLU between, without BatchNorm [choice].

    Attributes:
        links: glob over link names.
        variance: where the variances start, above 1e-5 and at most 100; 5 in the authors' experiments.
        weight: the factor of each link's term.
    """

    requires = ("links",)
    after = PROJECTIONS

    links: str = "*"
    variance: float = 5.0
    weight: Weight = 1.0

    def __attrs_post_init__(self) -> None:
        if not _LEAST < self.variance <= 100:
            raise StillhouseError(f"must be above {_LEAST} and at most 100, got {self.variance}", where="variance")

    @hookimpl
    def build(self, assembly: Assembly) -> nn.Module:
        """A Gaussian for each link.

        Raises:
            StillhouseError: a link whose sides have other positions.
        """
        return build_for_links(assembly, self.links, lambda s, t: Regressor(s, t, self.variance))

    @hookimpl
    def optimizer_options(self, assembly: Assembly) -> Mapping[str, float]:
        """No weight decay: it would pull the variances to softplus(0)."""
        return {"weight_decay": 0.0}

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """The bound of each link."""
        return give_terms(step.match(self.links), *step.module(self))
