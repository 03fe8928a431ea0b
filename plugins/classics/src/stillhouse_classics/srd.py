"""SRD: a simple recipe of distillation (Miles and Mikolajczyk 2024, 2303.11098)."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse import Assembly, Plugin, Step, Weight, hookimpl, plugin
from stillhouse.layout import channels, to_rows
from stillhouse_classics.checks import check_positive
from stillhouse_classics.links import PROJECTIONS, build_for_links, check_positions, give_terms

__all__ = ["SimpleRecipe", "log_distance"]

_LEAST = 1e-6
"""What the sum is at least: the logarithm of less is cut off, and so is its gradient."""


def log_distance(student: Tensor, teacher: Tensor, exponent: float = 4.0) -> Tensor:
    """The logarithm of the sum over all elements of |s - t|^exponent: section 3.3's LogSum.

    Args:
        student: standardised rows (R, C).
        teacher: standardised rows (R, C).
        exponent: the power, which softens small differences.
    """
    return (student - teacher).abs().pow(exponent).sum().clamp(min=_LEAST).log()


class Projection(nn.Module):
    """A linear map of the student's channels, and the distance after both sides have been standardised by channel."""

    def __init__(self, student: Tensor, teacher: Tensor, exponent: float) -> None:
        super().__init__()
        check_positions(student, teacher)
        self.exponent = exponent
        self.linear = nn.Linear(channels(student), channels(teacher))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Features of one link -> their distance."""
        ours, theirs = (
            F.batch_norm(x, None, None, training=True) for x in (self.linear(to_rows(student)), to_rows(teacher))
        )
        return log_distance(ours, theirs, self.exponent)


@plugin
class SimpleRecipe(Plugin):
    """Match features by a linear projector, standardised channels and the logarithm of a sum of powers.

    Source: 2303.11098, sections 3.1 to 3.3, on each link: the projector is linear, both sides are standardised by the
    batch's statistics without a learned scale [choice], and the distance is LogSum. The sum grows with the batch and the
    width; its logarithm's gradient does not. The authors add logit distillation: list ``logits``.

    Attributes:
        links: glob over link names.
        exponent: the power, above 0; 4 to 5 in the paper.
        weight: the factor of each link's term.
    """

    requires = ("links",)
    after = PROJECTIONS

    links: str = "*"
    exponent: float = 4.0
    weight: Weight = 1.0

    def __attrs_post_init__(self) -> None:
        check_positive(exponent=self.exponent)

    @hookimpl
    def build(self, assembly: Assembly) -> nn.Module:
        """A projector for each link.

        Raises:
            StillhouseError: a link whose sides have other positions.
        """
        return build_for_links(assembly, self.links, lambda s, t: Projection(s, t, self.exponent))

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """The distance of each link."""
        return give_terms(step.match(self.links), *step.module(self))
