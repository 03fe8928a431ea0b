"""PKT: probabilistic knowledge transfer (Passalis and Tefas 2018, 1803.10837)."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from stillhouse import Plugin, Step, Weight, hookimpl, plugin
from stillhouse_classics.links import check_batches, flatten_samples, give_terms

__all__ = ["ProbabilisticTransfer", "neighbours", "neighbours_loss"]

_LEAST = 1e-7
"""What a probability is at least, inside the logarithm: the authors' code."""


def neighbours(x: Tensor) -> Tensor:
    """The probability (B, B) that a sample of the row's takes each sample for its neighbour, for features (B, D).

    By the cosine kernel (cos + 1) / 2, each row summing to 1. A sample counts among its own neighbours, as in the
    authors' code; the paper's sums leave it out.
    """
    x = F.normalize(x, dim=1)
    kernel = (x @ x.T + 1) / 2
    return kernel / kernel.sum(1, keepdim=True)


def neighbours_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """KL of the student's neighbours from the teacher's, mean over samples: a scalar in nats.

    Equation 8 is the sum over samples, the authors' code the mean over pairs, which is this over B [choice].

    Args:
        student: features of B samples, in any layout.
        teacher: of the same samples; all else may differ.

    Raises:
        StillhouseError: the batches differ.
    """
    check_batches(student, teacher)
    ours, theirs = (neighbours(flatten_samples(x)) for x in (student, teacher))
    return (theirs * ((theirs + _LEAST).log() - (ours + _LEAST).log())).sum(1).mean()


@plugin
class ProbabilisticTransfer(Plugin):
    """Have samples be neighbours of each other as probably as they are for the teacher.

    Source: 1803.10837, the cosine kernel and equation 8, on each link.

    Attributes:
        links: glob over link names.
        weight: the factor of each link's term.
    """

    requires = ("links",)

    links: str = "*"
    weight: Weight = 1.0

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """The divergence of the neighbours of each link."""
        return give_terms(step.match(self.links), neighbours_loss)
