"""CC: correlation congruence (Peng et al. 2019, 1904.01802)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from stillhouse import Plugin, Step, Weight, hookimpl, plugin
from stillhouse_classics.checks import check_counts, check_positive
from stillhouse_classics.links import check_batches, flatten_samples, give_terms

__all__ = ["CorrelationCongruence", "congruence_loss", "correlate"]

Kernel = Literal["gaussian", "bilinear"]


def correlate(x: Tensor, kernel: Kernel = "gaussian", gamma: float = 0.4, order: int = 2) -> Tensor:
    """The correlations (B, B) of samples (B, D) by a kernel, after each has been given Euclidean norm 1.

    ``bilinear`` is the inner product; ``gaussian`` exp(-gamma |a - b|^2) by its Taylor polynomial, the sum to p = order
    of exp(-2 gamma) (2 gamma)^p / p! <a, b>^p.
    """
    x = F.normalize(x, dim=1)
    inner = x @ x.T
    if kernel == "bilinear":
        return inner
    powers = ((2 * gamma) ** p / math.factorial(p) * inner**p for p in range(1, order + 1))
    return math.exp(-2 * gamma) * sum(powers, start=inner.new_ones(()))


def congruence_loss(
    student: Tensor, teacher: Tensor, kernel: Kernel = "gaussian", gamma: float = 0.4, order: int = 2
) -> Tensor:
    """The mean square of the difference between the two sides' correlations (B, B): the paper's L_CC.

    Args:
        student: features of B samples, in any layout.
        teacher: of the same samples; all else may differ.
        kernel: ``gaussian`` or ``bilinear``.
        gamma: of the gaussian kernel, above 0.
        order: of its Taylor polynomial, from 1.

    Raises:
        StillhouseError: the batches differ.
    """
    check_batches(student, teacher)
    ours, theirs = (correlate(flatten_samples(x), kernel, gamma, order) for x in (student, teacher))
    return (ours - theirs).square().mean()


@plugin
class CorrelationCongruence(Plugin):
    """Have samples correlate with each other as they do for the teacher.

    Source: 1904.01802, the kernels of section 3.3 and L_CC of section 3.2, on each link. The paper maps both sides to
    one width by a linear layer; as only correlations (B, B) meet, none is needed, and none is there [choice]: list
    ``projector`` for one. Its sampler, which brings several samples of a class into a batch, is not a plugin's to bring.

    Attributes:
        links: glob over link names.
        kernel: ``gaussian`` or ``bilinear``.
        gamma: of the gaussian kernel, above 0.
        order: of its Taylor polynomial, from 1.
        weight: the factor of each link's term.
    """

    requires = ("links",)

    links: str = "*"
    kernel: Kernel = "gaussian"
    gamma: float = 0.4
    order: int = 2
    weight: Weight = 1.0

    def __attrs_post_init__(self) -> None:
        check_positive(gamma=self.gamma)
        check_counts(order=self.order)

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """The distance of the correlations of each link."""
        return give_terms(
            step.match(self.links), lambda s, t: congruence_loss(s, t, self.kernel, self.gamma, self.order)
        )
