"""AB: distillation of activation boundaries (Heo et al. 2019, 1811.03233)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse import Assembly, Plugin, Step, Weight, hookimpl, plugin
from stillhouse_classics.checks import check_positive
from stillhouse_classics.links import PROJECTIONS, LinkedMap, build_for_links, check_shapes, give_terms

__all__ = ["ActivationBoundaries", "boundary_loss"]


def boundary_loss(student: Tensor, teacher: Tensor, margin: float = 1.0) -> Tensor:
    """The squared hinge of the student's responses on the wrong side of the teacher's boundary; mean over elements.

    Equation 6: (margin - s)^2 where the teacher is active (t > 0) and s < margin, (margin + s)^2 where it is not and
    s > -margin. The paper sums over elements [choice].

    Args:
        student: responses before the activation, at the teacher's width.
        teacher: responses before the activation, of the same shape: only their sign is used.
        margin: how far from the boundary is far enough.

    Raises:
        StillhouseError: the shapes differ.
    """
    check_shapes(student, teacher)
    return F.relu(margin - torch.where(teacher > 0, student, -student)).square().mean()


@plugin
class ActivationBoundaries(Plugin):
    """Have a map of the student's features be active where the teacher is.

    Source: 1811.03233, equation 6, on each link; the connector is a linear map of channels with BatchNorm, as in the
    authors' code. The links' layers are those *before* the activation: after it, what is off is zero, and counts as off.
    The paper starts the student by this loss alone and then trains it by labels; here ``weight = { until = ... }`` ends
    it, and the task's loss stays on [choice].

    Attributes:
        links: glob over link names.
        margin: how far from the boundary is far enough, above 0.
        weight: the factor of each link's term.
    """

    requires = ("links",)
    after = PROJECTIONS

    links: str = "*"
    margin: float = 1.0
    weight: Weight = 1.0

    def __attrs_post_init__(self) -> None:
        check_positive(margin=self.margin)

    @hookimpl
    def build(self, assembly: Assembly) -> nn.Module:
        """A connector for each link."""
        return build_for_links(assembly, self.links, LinkedMap)

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """The boundary loss of each link."""
        return give_terms(
            step.match(self.links),
            *(connector.with_loss(lambda s, t: boundary_loss(s, t, self.margin)) for connector in step.module(self)),
        )
