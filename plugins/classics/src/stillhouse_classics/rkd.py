"""RKD: relational knowledge distillation (Park et al. 2019, 1904.05068)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse import Plugin, Step, Weight, hookimpl, plugin
from stillhouse_classics.checks import check_not_negative
from stillhouse_classics.links import check_batches, flatten_samples, give_terms

__all__ = ["RelationalDistillation", "angle_loss", "distance_loss", "relation_loss"]


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The Huber loss between the two sides' distances of samples (B, D), each side's over its mean: equations 5 to 7.

    The mean over pairs of different samples; a sample alone has none, and the loss is zero. Two samples of one place have
    no gradient.
    """
    if len(student) < 2:
        return student.sum() * 0
    ours, theirs = (distances / distances.mean().clamp(min=1e-12) for distances in map(F.pdist, (student, teacher)))
    return F.smooth_l1_loss(ours, theirs)


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The Huber loss between the cosines of the angles that three samples make: equations 8 to 10.

    The mean over triples of different samples; below three samples there is none, and the loss is zero. The memory of
    the differences is B^2 D, that of the angles B^3.
    """
    away = 1 - torch.eye(len(student), device=student.device, dtype=student.dtype)
    triples = away[:, :, None] * away[:, None, :] * away[None]
    ours, theirs = (_angles(x) for x in (student, teacher))
    losses = F.smooth_l1_loss(ours, theirs, reduction="none")
    return (losses * triples).sum() / triples.sum().clamp(min=1)


def _angles(x: Tensor) -> Tensor:
    """The cosines (B, B, B) of the angles at the first sample between the second and the third."""
    edges = F.normalize(x[None] - x[:, None], dim=2)
    return edges @ edges.transpose(1, 2)


def relation_loss(student: Tensor, teacher: Tensor, distance: float = 1.0, angle: float = 2.0) -> Tensor:
    """``distance`` times the loss of distances and ``angle`` times that of angles.

    Args:
        student: features of B samples, in any layout.
        teacher: of the same samples; all else may differ.
        distance: the factor of distances; 0 leaves them out.
        angle: the factor of angles; 0 leaves them out.

    Raises:
        StillhouseError: the batches differ.
    """
    check_batches(student, teacher)
    s, t = flatten_samples(student), flatten_samples(teacher)
    terms = [factor * loss(s, t) for factor, loss in ((distance, distance_loss), (angle, angle_loss)) if factor]
    return sum(terms, start=s.new_zeros(()))


@plugin
class RelationalDistillation(Plugin):
    """Have distances and angles among the samples of a batch be the teacher's.

    Source: 1904.05068, equations 5 to 10, on each link. The means are over pairs and triples of different samples; the
    authors' code counts a sample with itself as well, which divides by B^2 and B^3 [choice].

    Attributes:
        links: glob over link names.
        distance: the factor of distances.
        angle: the factor of angles.
        weight: the factor of each link's term.
    """

    requires = ("links",)

    links: str = "*"
    distance: float = 1.0
    angle: float = 2.0
    weight: Weight = 1.0

    def __attrs_post_init__(self) -> None:
        check_not_negative(distance=self.distance, angle=self.angle)

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """The two losses of each link, summed."""
        return give_terms(step.match(self.links), lambda s, t: relation_loss(s, t, self.distance, self.angle))
