"""SP: similarity-preserving distillation (Tung and Mori 2019, 1907.09682)."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from stillhouse import Plugin, Step, Weight, hookimpl, plugin
from stillhouse_classics.links import check_batches, flatten_samples, give_terms

__all__ = ["SimilarityPreserving", "similarity_loss"]


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean square of the difference between the two sides' similarity matrices (B, B).

    Equations 1 to 4: inner products of the samples' features, each row of Euclidean norm 1; the squared Frobenius norm
    of the difference over B^2.

    Args:
        student: features of B samples, in any layout.
        teacher: of the same samples; all else may differ.

    Raises:
        StillhouseError: the batches differ.
    """
    check_batches(student, teacher)
    ours, theirs = (F.normalize(x @ x.T, dim=1) for x in map(flatten_samples, (student, teacher)))
    return (theirs - ours).square().mean()


@plugin
class SimilarityPreserving(Plugin):
    """Have those samples of a batch resemble each other that do so for the teacher.

    Source: 1907.09682, equations 1 to 4, on each link.

    Attributes:
        links: glob over link names.
        weight: the factor of each link's term; the paper has 3,000 with its classification loss.
    """

    requires = ("links",)

    links: str = "*"
    weight: Weight = 3000.0

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """The distance of the similarity matrices of each link."""
        return give_terms(step.match(self.links), similarity_loss)
